"""Where the DiT's weights are kept: the choice for each GPU, and what is refused."""

from __future__ import annotations

import pytest

from livetalk_core.cli.main import main
from livetalk_core.engine.load import load_engine
from livetalk_core.parallel.memory import check_memory, settle_memory, working_room

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
        ("auto", 48, ("resident", 40)),
        ("auto", 44, ("offload", 24)),
        ("auto", 23, ("offload", 0)),
        ("auto", 12, ("offload", 0)),
        ("offload", 80, ("offload", 0)),
        ("resident", 12, ("resident", 40)),
    ],
)
def test_auto_keeps_the_published_model_resident_if_it_fits_else_as_many_blocks_as_leave_room(memory, free_gib, expected):
    block, rest, room = 928_000_000, 1_500_000_000, working_room(38_600_000_000, 11_400_000_000)
    free = None if free_gib is None else free_gib * GIB
    assert settle_memory(memory, free, block, 40, rest, room) == expected


def test_the_room_is_the_larger_of_encoder_and_chunk_and_nothing_for_small_models():
    assert working_room(38 * GIB, 11 * GIB) == 12 * GIB
    assert working_room(38 * GIB, 2 * GIB) == 7 * GIB
    assert working_room(10**8, 10**6) == 10**6
