"""What can be asked of an engine: one field each, found on the command line and in ComfyUI, checked before anything is loaded."""

import argparse
import pickle
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import pytest
import torch
from made import HANG_S

from livetalk_core.cli import options as command_line
from livetalk_core.cli.main import main, parser
from livetalk_core.cli.options import engine_options
from livetalk_core.engine.files import SHIPPED, ModelFiles
from livetalk_core.engine.options import KERNELS, KINDS, WEIGHTS, EngineOptions, option, option_of
from livetalk_core.models import attention, eight_bits
from livetalk_core.open import open_engine
from livetalk_core.presets import LARGE

ROOT = Path(__file__).parent.parent
COMMANDS = {"generate": [], "serve": [], "bench": [], "prepare": ["talker", "out"], "doctor": [], "evaluate": ["out"]}
"""Those that open an engine, with the words that they need."""


@dataclass(frozen=True, kw_only=True)
class Wider(EngineOptions):
    """One more wish."""

    eight_bits: bool = option(False, help="keep the weights in 8 bits")
    shade: str = option("light", choices=("light", "dark"), help="how dark the picture is: light or dark")
    helpers: int | None = option(None, kind=int, metavar="N", help="helpers that stand by, 1 or more")
    recipe: Path | None = option(None, kind=Path, metavar="FILE", help="file that says how to cook")


def test_every_field_says_what_it_is_and_has_a_default_that_it_may_have():
    EngineOptions()
    for field in fields(EngineOptions):
        told = option_of(field)
        assert len(told.help) > 10 and not told.help.endswith(".") and "--" not in told.help, field.name
        assert not told.choices or field.default in told.choices and all(choice in told.help for choice in told.choices), field.name


def test_kinds_are_those_that_there_are():
    assert ("auto", *LARGE) == KINDS


def test_kernels_are_those_that_there_are():
    assert KERNELS == attention.KERNELS and set(WEIGHTS) == {"auto", "16bit", *eight_bits.LARGEST}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_asks_for_the_defaults_when_nothing_is_said(command):
    given = parser().parse_args([command, *COMMANDS[command]])
    assert engine_options(given) == EngineOptions()


def test_every_word_reaches_its_field():
    words = "--model m --dit a b --vae v --text t --image i --audio-encoder w --tokenizer k --device cpu --dtype float32 --memory offload"
    words += " --attention sdpa --compile --weights fp8 --decoder d --gpus auto --pool 3 --kind multitalk --chunk-frames 17"
    words += " --lora l:0.5 --lora m"
    files = {"dit": (Path("a"), Path("b")), "vae": Path("v"), "text": Path("t"), "image": Path("i"), "audio_encoder": Path("w")}
    named = {"model": "m", "tokenizer": Path("k"), "device": "cpu", "dtype": "float32", "memory": "offload", "attention": "sdpa"}
    named |= {"kind": "multitalk", "chunk_frames": 17, "lora": ("l:0.5", "m")}
    expected = EngineOptions(**files, **named, compile=True, weights="fp8", decoder=Path("d"), gpus="auto", workers=3)
    assert engine_options(parser().parse_args(["generate", *words.split()])) == expected
    changed = {field.name for field in fields(expected) if vars(expected)[field.name] != field.default}
    assert changed == {field.name for field in fields(EngineOptions)} - {"size"}, "a field without a word in this test"


def test_a_new_field_is_on_the_command_line_and_in_the_node(nodes, monkeypatch, capsys):
    monkeypatch.setattr(command_line, "EngineOptions", Wider)
    for command, needed in COMMANDS.items():
        given = parser().parse_args([command, *needed, "--eight-bits", "--shade", "dark", "--helpers", "2", "--recipe", "r"])
        asked = engine_options(given)
        assert (asked.eight_bits, asked.shade, asked.helpers, asked.recipe) == (True, "dark", 2, Path("r"))
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        parser().parse_args(["generate", "--help"])
    assert "--shade SHADE" in (told := capsys.readouterr().out) and "how dark the picture is: light or dark (default: light)" in told
    before = {part.id for part in nodes.SetEngineOptions.define_schema().inputs}
    monkeypatch.setattr(nodes.options, "EngineOptions", Wider)
    inputs = {part.id: part for part in nodes.SetEngineOptions.define_schema().inputs}
    assert inputs.keys() - before == {"eight_bits", "shade", "helpers", "recipe"}
    assert inputs["shade"].fields["options"] == ["light", "dark"] and inputs["shade"].fields["default"] == "light"
    assert inputs["helpers"].kind == "INT" and inputs["eight_bits"].kind == "BOOLEAN"
    defaults = {name: part.fields["default"] for name, part in inputs.items()}
    assert nodes.SetEngineOptions.execute(**defaults).args[0] == Wider()
    chosen = {"eight_bits": True, "shade": "dark", "helpers": 2, "recipe": "r"}
    assert nodes.SetEngineOptions.execute(**defaults | chosen).args[0] == Wider(**chosen | {"recipe": Path("r")})


@pytest.mark.parametrize(
    "asked, message",
    [
        ({"memory": "disk"}, "memory='disk' must be one of auto, resident, offload, sharded"),
        ({"kind": "wan"}, "kind='wan' must be one of auto, livetalk_14b, infinitetalk"),
        ({"weights": "fp4"}, "weights='fp4' must be one of auto, 16bit, int8, fp8"),
        ({"dtype": "float16"}, "dtype='float16' must be one of auto, bfloat16, float32"),
        ({"attention": "magic"}, "attention kernel 'magic' must be one of auto, sdpa"),
        ({"gpus": 0}, "gpus=0 must be 1 or more, or auto"),
        ({"gpus": "many"}, "gpus=many must be 1 or more, or auto"),
        ({"gpus": None}, "gpus=None must be 1 or more, or auto"),
        ({"workers": -1}, "workers=-1 must be 1 or more"),
        ({"workers": "two"}, "workers=two must be 1 or more"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_here_and_on_the_command_line(asked, message, capsys):
    with pytest.raises(ValueError, match=message) as error:
        EngineOptions(**asked)
    words = [word for name, value in asked.items() if value is not None for word in (f"--{name}", str(value))]
    if words:
        assert main(["generate", *words]) == 2
        assert capsys.readouterr().err == f"livetalk: error: {error.value}\n"


def test_options_travel_without_torch():
    code = "import sys, pickle, livetalk_core.engine.options as o, livetalk_core.open; pickle.loads(pickle.dumps(o.EngineOptions(gpus=2)))"
    code += "; print([name for name in ('torch', 'numpy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=HANG_S)
    assert done.stdout.strip() == "[]", done.stderr
    asked = EngineOptions(model=ModelFiles(dit=(Path("a"),)), workers=2, dtype="bfloat16")
    assert pickle.loads(pickle.dumps(asked)) == asked and asked.torch_dtype == torch.bfloat16 and EngineOptions().torch_dtype is None


def test_equal_options_are_one_key():
    assert len({EngineOptions(), EngineOptions(model="nano"), EngineOptions(decoder=Path("x"))}) == 2


def test_single_files_take_the_place_of_a_models_own(published):
    assert EngineOptions(model="nano").source == "nano" and EngineOptions(model=published).source == published
    files = EngineOptions(model=str(published), vae=Path("v"), dit=("a", "b")).source
    assert files.vae == Path("v") and files.dit == (Path("a"), Path("b")) and files.text.parent == published
    assert EngineOptions(model=files, text=Path("t")).source.text == Path("t")
    assert EngineOptions(model="nano", dit=(Path("a"),)).source.vae.parent == SHIPPED / "nano"
    alone = EngineOptions(model="nano", text=Path("t")).source
    assert alone.vae is None and alone.text == Path("t"), "a preset lends nothing to a model with encoder files"


def test_notes_say_how_many_workers_there_are_and_that_weights_are_random():
    notes = []
    open_engine(EngineOptions(model="tiny", device="cpu"), notes.append).close()
    assert len(notes) == 1 and notes[0].startswith("model tiny: RANDOM WEIGHTS")
    open_engine(EngineOptions(model="nano", device="cpu"), notes.append).close()
    assert len(notes) == 1
    pool = open_engine(EngineOptions(model="tiny", workers=1), notes.append)
    try:
        assert notes[1].startswith("workers: 1 processes on the CPU") and "RANDOM" in notes[2]
    finally:
        pool.close()


def test_arguments_can_be_made_of_any_fields():
    made = argparse.ArgumentParser()
    command_line.add_engine(made, [field for field in fields(EngineOptions) if field.name in ("gpus", "compile")])
    assert engine_options(made.parse_args(["--gpus", "2", "--compile"])) == EngineOptions(gpus=2, compile=True)
