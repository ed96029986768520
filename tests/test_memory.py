"""Where the DiT's weights are kept: the choice for each GPU, and what is refused."""

from __future__ import annotations

import pytest
import torch

from livetalk_core.cli.main import main
from livetalk_core.engine import load
from livetalk_core.engine.load import load_engine
from livetalk_core.engine.options import EngineOptions
from livetalk_core.engine.working import room_of
from livetalk_core.parallel.memory import check_memory, settle_memory
from livetalk_core.presets import livetalk_14b

GIB = 2**30


def test_unknown_and_impossible_choices_are_refused_in_one_line():
    with pytest.raises(ValueError, match="^memory='disk' must be one of auto, resident, offload, sharded$"):
        load_engine("tiny", "cpu", memory="disk")
    with pytest.raises(ValueError, match="^memory='sharded' shares the weights over 2 processes or more, and this is one; .*'offload'$"):
        load_engine("tiny", "cpu", memory="sharded")
    check_memory("sharded", 2)


@pytest.mark.parametrize("words", [["--memory", "disk"], ["--memory", "sharded"], ["--memory", "disk", "--workers", "2"]])
def test_the_command_line_refuses_them_too(words, capsys, portrait, speech, tmp_path):
    assert main(["generate", str(portrait), str(speech), str(tmp_path / "x.mp4"), "--model", "tiny", "--size", "48x32", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"livetalk: error: memory={words[1]!r} ") and error.count("\n") == 1


def test_the_command_line_offloads_when_asked(capsys, portrait, speech, tmp_path):
    size = ["--model", "tiny", "--size", "48x32", "--steps", "1"]
    assert main(["--verbose", "generate", str(portrait), str(speech), str(tmp_path / "x.mp4"), *size, "--memory", "offload"]) == 0
    assert (tmp_path / "x.mp4").stat().st_size > 0


@pytest.mark.parametrize(
    "memory, free_gib, expected",
    [
        ("auto", None, ("resident", 40)),
        ("offload", None, ("offload", 0)),
        ("auto", 80, ("resident", 40)),
        ("auto", 44.5, ("resident", 40)),
        ("auto", 42, ("offload", 21)),
        ("auto", 23, ("offload", 0)),
        ("auto", 12, ("offload", 0)),
        ("offload", 80, ("offload", 0)),
        ("resident", 12, ("resident", 40)),
    ],
)
def test_auto_keeps_the_published_model_resident_if_it_fits_else_as_many_blocks_as_leave_room(memory, free_gib, expected):
    block, rest, room = 928_000_000, 1_500_000_000, room_of(livetalk_14b())
    free = None if free_gib is None else int(free_gib * GIB)
    assert settle_memory(memory, free, block, 40, rest, room) == expected


@pytest.fixture
def order(monkeypatch) -> list[str]:
    """What is put on the device, in order."""
    seen, load_text, keep_dit = [], load.load_text, load.keep_dit
    monkeypatch.setattr(load, "load_text", lambda *args: seen.append("text") or load_text(*args))
    monkeypatch.setattr(load, "keep_dit", lambda *args, **options: seen.append("dit") or keep_dit(*args, **options))
    return seen


def test_a_prompt_is_encoded_before_the_dit_is_there_if_it_would_not_fit_beside_it(published, order, monkeypatch):
    """As on a GPU of 48 GB: umT5 fits alone, but not beside the DiT and a chunk's working memory."""
    rows = load_engine(published, "cpu").encode_rows("someone", None)["text_LD"]
    assert order == ["dit", "text"], "control: where memory is not known to be short, the DiT comes first"
    order.clear()
    monkeypatch.setattr(load, "free_bytes", lambda device: 8 * GIB)
    monkeypatch.setattr(load, "room_of", lambda preset, **asked: 8 * GIB)
    engine = load.load_member(None, EngineOptions(model=published, device="cpu"), "someone")
    early = engine.encode_rows("someone", None)["text_LD"]
    assert order == ["text", "dit"] and torch.equal(early, rows)
    engine.encode_rows("someone else", None)
    assert order == ["text", "dit", "text"]


@pytest.mark.parametrize("free", [0, 1 << 40])
def test_a_prompt_is_not_encoded_early_where_it_does_not_fit_at_all_or_fits_beside_the_dit(published, order, monkeypatch, free):
    monkeypatch.setattr(load, "free_bytes", lambda device: free)
    load.load_member(None, EngineOptions(model=published, device="cpu"), "someone")
    assert order == ["dit"]


def test_the_command_line_tells_its_prompt_before_the_model_is_loaded(monkeypatch, portrait, speech, tmp_path):
    told = []

    def open_engine(options, notes, prompt):
        told.append(prompt)
        raise ValueError("enough")

    monkeypatch.setattr("livetalk_core.open.open_engine", open_engine)
    words = ["generate", str(portrait), str(speech), str(tmp_path / "x.mp4"), "--model", "tiny", "--size", "48x32", "--prompt", "someone"]
    assert main(words) == 2 and told == ["someone"]
