"""LiveTalk Engine Options: what ComfyUI users can ask of an engine, and errors that name inputs."""

import ast
import re
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest

from livetalk_core.cli.options import engine_fields
from livetalk_core.engine.options import EngineOptions, option_of
from livetalk_core.pool import place as placement
from livetalk_core.pool import pool as pool_module
from livetalk_core.pool.place import Demand, Gpu

CORE = Path(__file__).parent.parent / "livetalk_core"
GIB = 2**30
LARGE = Demand(heads=40, num_bytes=51_100_000_000, tokens=10530, block_bytes=928_000_000, num_blocks=40)
SHOWN = {"model": "nano", "precision": "auto", "attention": "auto", "gpus": 1, "compile": False}
"""What Load LiveTalk Model shows."""


def chosen(nodes, **changed):
    """What LiveTalk Engine Options gives, with some inputs changed."""
    defaults = {part.id: part.fields["default"] for part in nodes.SetEngineOptions.define_schema().inputs}
    assert changed.keys() <= defaults.keys()
    return nodes.SetEngineOptions.execute(**defaults | changed).args[0]


def loaded(nodes, options, **shown):
    return nodes.LoadModel.execute(**SHOWN | shown, options=options).args[0].options


@pytest.fixture
def cards(nodes, monkeypatch):
    """ComfyUI on four GPUs with 24 GiB free each, a large model, and pools that only say how they would be made."""
    made = []

    class Noted:
        def __init__(self, place, recipe, **how):
            made.append((place, recipe.options))
            self.preset = SimpleNamespace(trained=True)

        def start(self):
            pass

        def close(self):
            pass

    gpus = [Gpu(index=i, uuid=f"GPU-{i}", free_bytes=26 * GIB, name="a card") for i in range(4)]
    monkeypatch.setattr(placement, "visible_gpus", lambda: gpus)
    monkeypatch.setattr("livetalk_core.parallel.memory.host_bytes", lambda: 256 * GIB)
    monkeypatch.setattr(placement, "demand_of", lambda model, size="auto", weights="auto": LARGE)
    monkeypatch.setattr(pool_module, "Pool", Noted)
    monkeypatch.setattr("comfy.model_management.get_torch_device", lambda: "cuda:0")
    return made


def test_at_its_defaults_it_changes_nothing(nodes):
    assert chosen(nodes) == nodes.SetEngineOptions.execute().args[0] == EngineOptions()
    plain = nodes.LoadModel.execute(**SHOWN).args[0]
    assert nodes.LoadModel.execute(**SHOWN, options=chosen(nodes)).args[0] == plain == nodes.load.engines.EngineSpec()


def test_it_or_the_loader_has_all_that_the_command_line_has(nodes):
    inputs = {part.id for part in nodes.SetEngineOptions.define_schema().inputs}
    here = {field.name for field in engine_fields(pool=True) if nodes.options.id_of(field) in inputs}
    elsewhere = {"model", "dit", "gpus", "device", "tokenizer", "chunk_frames", "lora"}
    assert {field.name for field in engine_fields(pool=True)} - here == elsewhere


def test_defaults_and_choices_are_the_cores(nodes):
    inputs = {part.id: part.fields for part in nodes.SetEngineOptions.define_schema().inputs}
    for field in nodes.options.input_fields():
        part, option = inputs[nodes.options.id_of(field)], option_of(field)
        assert part["advanced"] and part["optional"] and part["tooltip"].startswith(option.help[0].upper() + option.help[1:])
        assert nodes.options.value_of(field, part["default"]) == field.default
        assert not option.choices or part["options"] == list(option.choices)
    defaults = {field.name: field.default for field in fields(EngineOptions)}
    shown = {part.id: part.fields.get("default") for part in nodes.LoadModel.define_schema().inputs}
    for name, field in (("precision", "dtype"), *((name, name) for name in ("model", "attention", "gpus", "compile"))):
        assert shown[name] == defaults[field] == SHOWN[name]


def test_what_is_set_in_it_goes_before_what_the_loader_shows(nodes, cards):
    both = chosen(nodes, attention="cudnn", memory="offload")
    asked = loaded(nodes, both, attention="sdpa", precision="float32", compile=False, gpus=2)
    assert asked == EngineOptions(attention="cudnn", memory="offload", dtype="float32", gpus=2)
    assert loaded(nodes, chosen(nodes, memory="offload"), attention="sdpa", gpus=2).attention == "sdpa"


@pytest.mark.parametrize("memory, gpus, reason", [("sharded", 4, "weights sharded: 1/4"), ("offload", 0, "weights offloaded")])
def test_small_cards_share_a_model_that_none_of_them_holds(nodes, cards, memory, gpus, reason):
    nodes.LoadModel.execute(**SHOWN | {"gpus": gpus}, options=chosen(nodes, memory=memory))
    ((place, options),) = cards
    assert place.num_workers == 4 and place.gpus == ("GPU-0", "GPU-1", "GPU-2", "GPU-3") and reason in place.reason
    assert options == EngineOptions(memory=memory, gpus=gpus or "auto", device="cuda:0")


def test_without_it_small_cards_share_the_weights_by_themselves(nodes, cards):
    nodes.LoadModel.execute(**SHOWN | {"gpus": 4})
    ((place, options),) = cards
    assert place.memory == options.memory == "sharded" and place.num_workers == 4
    assert "weights sharded: 1/4 of the DiT's blocks on each" in place.reason and "since whole ones need 48 GiB" in place.reason


def test_cards_that_are_too_small_whole_are_told_which_input_helps(nodes, cards):
    with pytest.raises(ValueError) as error:
        nodes.LoadModel.execute(**SHOWN | {"gpus": 4}, options=chosen(nodes, memory="resident"))
    assert str(error.value).endswith(
        "the model needs 48 GiB free on each GPU with memory=resident; none of 4 has that (most: 26 GiB); free memory or choose in "
        "LiveTalk Engine Options memory sharded or memory offload"
    )


def test_comfyuis_device_is_the_engines(nodes, cards):
    options_of = nodes.load.engines.options_of
    assert options_of(nodes.load.engines.EngineSpec()).device == "cuda:0"
    on_cpu = nodes.load.engines.EngineSpec(options=EngineOptions(workers=2))
    assert options_of(on_cpu).workers == 2


def test_on_a_cpu_gpus_are_processes(nodes):
    engines = nodes.load.engines
    for gpus, workers in ((1, None), (2, 2), ("auto", 1)):
        options = engines.options_of(engines.EngineSpec(options=EngineOptions(gpus=gpus)))
        assert (options.device, options.workers, options.gpus) == ("cpu", workers, 1)


def test_an_engine_is_made_with_what_is_asked(nodes, caplog):
    caplog.set_level("INFO", "livetalk_core")
    spec = nodes.LoadModel.execute(**SHOWN, options=chosen(nodes, precision="bfloat16", memory="offload")).args[0]
    engine = nodes.load.engines.engine_for(spec)
    assert str(engine.dtype) == "torch.bfloat16" and "memory on cpu: offload, 0 of the DiT's 6 blocks stay there" in caplog.text


def test_single_files_are_chosen_from_comfyuis_folders(nodes, host):
    host.files = {"vae": ["a.safetensors"], "vae_approx": ["taew2_1.pth"], "text_encoders": ["deep/t.safetensors"]}
    inputs = {part.id: part.fields for part in nodes.SetEngineOptions.define_schema().inputs}
    assert inputs["decoder"]["options"] == ["none", "taew2_1.pth"] and inputs["text_encoder"]["options"] == ["none", "deep/t.safetensors"]
    options = chosen(nodes, vae="a.safetensors", decoder="taew2_1.pth", text_encoder="deep/t.safetensors")
    assert options.vae == host.folder / "vae" / "a.safetensors" and options.text == host.folder / "text_encoders" / "deep/t.safetensors"
    assert options.decoder == host.folder / "vae_approx" / "taew2_1.pth"
    with pytest.raises(ValueError, match="'gone.pth' is not in models/vae_approx; choose another file, or none"):
        chosen(nodes, decoder="gone.pth")


@pytest.mark.parametrize(
    "changed, shown, message",
    [
        ({"memory": "sharded"}, {}, "memory='sharded' shares the weights over 2 processes or more, and this is one"),
        ({"memory": "sharded"}, {"gpus": 2, "compile": True}, "^memory='sharded' works without compile only; .* choose another memory$"),
        ({"workers": 64}, {}, "^workers=64 are too many"),
        (
            {"workers": 2, "decoder": "taew2_1.pth"},
            {},
            "^decoder .*taew2_1.pth works in one process only; .* set gpus to 1 and workers to 0$",
        ),
        ({"decoder": "taew2_1.pth"}, {}, "^decoder .*taew2_1.pth is missing"),
    ],
)
def test_errors_name_inputs_in_one_line(nodes, host, changed, shown, message):
    host.files = {"vae_approx": ["taew2_1.pth"]}
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        loaded(nodes, chosen(nodes, **changed), **shown)
    assert "\n" not in str(error.value) and "--" not in str(error.value)


def flags_in_errors() -> list[str]:
    """Every text of the core's engines that names an option of the command line."""
    files = [path for room in ("engine", "models", "parallel", "pool") for path in (CORE / room).glob("*.py") if path.stem != "graphs"]
    nodes = [node for path in files for node in ast.walk(ast.parse(path.read_text()))]
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [text for text in texts if re.search(r"--[a-z]", text) and not text.startswith(("--query", "--format"))]


def test_no_option_of_the_command_line_is_left_in_an_error(nodes):
    inputs = {part.id for node in (nodes.LoadModel, nodes.SetEngineOptions) for part in node.define_schema().inputs}
    found = flags_in_errors()
    assert len(found) > 5
    for text in found:
        told = nodes.words.name_inputs(text)
        assert "--" not in told
        flags = {word.replace("-", "_") for word in re.findall(r"--([a-z][a-z-]*)", text)} - {"steps"}
        assert {nodes.words.INPUTS.get(flag, flag) for flag in flags} <= inputs, text


def test_an_error_that_names_none_stays_as_it_is(nodes):
    first = ValueError("width=50 must be a multiple of 16")
    with pytest.raises(ValueError) as error, nodes.words.naming_inputs():
        raise first
    assert error.value is first
