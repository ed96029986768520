"""Weights sharded over two processes against one process. As a script, this file is one of those processes."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from made import pixels, speech_like, write_published_folder
from test_parallel_dit import EVEN, UNEVEN, difference, frames_of, inputs, small_model, start_processes
from torch.distributed.tensor import DTensor

from livetalk_core.cli.end import leave
from livetalk_core.engine.load import load_engine
from livetalk_core.engine.options import EngineOptions
from livetalk_core.parallel.context import SequenceParallel
from livetalk_core.parallel.group import close_group, init_group
from livetalk_core.parallel.sharded import shard_blocks
from livetalk_core.pool.pool import Placement, Pool, Recipe
from livetalk_core.types import StreamSettings

SIZE = 2
LIMIT = 1e-6
CASES = {"even": (EVEN, 1), "uneven": (UNEVEN, 1), "two speakers": (UNEVEN, 2)}


def held_share(dit, plain) -> float:
    """The share of the blocks' weights that this process has in memory."""
    own = sum((weight.to_local() if isinstance(weight, DTensor) else weight).numel() for weight in dit.blocks.parameters())
    return own / sum(weight.numel() for weight in plain.blocks.parameters())


def watch(dit, plain) -> list[tuple[int, int, float]]:
    """Per running block: its number, how many blocks are gathered, and the share of all weights in memory."""
    seen = []

    def look(i):
        whole = sum(not isinstance(block.ffn[0].weight, DTensor) for block in dit.blocks)
        seen.append((i, whole, held_share(dit, plain)))

    for i, block in enumerate(dit.blocks):
        block.self_attn.register_forward_pre_hook(lambda *_, i=i: look(i))
    return seen


@torch.no_grad()
def run_process(rank: int, folder: Path) -> None:
    """All cases with tokens and weights shared, with weights alone shared, and again after an error; process 0 writes what it found."""
    meeting = {"rank": rank, "size": SIZE, "init_method": f"file://{folder}/meet", "device": torch.device("cpu")}
    group = init_group(**meeting, ulysses_degree=SIZE, ring_degree=1)
    plain, found = small_model(), {}
    for kind in ("weights", "weights and tokens"):
        dit = small_model()
        names = list(dit.state_dict())
        shard_blocks(dit, group, torch.float32)
        found[f"{kind}: names"] = list(dit.state_dict()) == names
        if kind == "weights and tokens":
            dit.sequence = SequenceParallel(group, dit.config.num_heads)
        seen = watch(dit, plain)
        for case, (shape, people) in CASES.items():
            found[f"{kind}: {case}"] = compare(dit, plain, shape, people)
        found[f"{kind}: at work"], found[f"{kind}: after"] = list(seen), held_share(dit, plain)
        found[f"{kind}: error"] = compare_after_error(dit, plain)
    found["half precision"] = compare_halves(group)
    found["control"] = compare_with_other_part(plain, group)
    if rank == 0:
        (folder / "found.json").write_text(json.dumps(found))
    close_group()


def compare(dit, plain, shape, people: int) -> float:
    """Keys, absorbed keys and velocity, twice, the largest difference."""
    ours, theirs = inputs(dit, shape, people), inputs(plain, shape, people)
    same = inputs(plain, shape, people, frames_of(dit, shape))[4]
    errors = [apart(ours[3], theirs[3]), apart(ours[4], same)]
    expected = plain(*theirs)
    errors += [difference(dit(*ours), expected) for _ in range(2)]
    if people == 1:
        mine, plains = dit.absorb_audio(ours[4]), plain.absorb_audio(theirs[4])
        errors.append(apart(mine, plain.absorb_audio(same)))
        for skip in (0, 1):
            errors.append(difference(dit(*ours[:4], mine, None, skip), plain(*theirs[:4], plains, None, skip)))
    return max(errors)


def apart(ours, theirs) -> float:
    """The largest difference of two lists of tuples of tensors."""
    if isinstance(ours, torch.Tensor):
        return difference(ours, theirs)
    pairs = zip(ours, theirs, strict=True)
    return max((apart(a, b) for a, b in pairs if a is not None), default=0.0)


def compare_after_error(dit, plain) -> float:
    """An error in the middle of the second block, on all processes alike."""
    handle = dit.blocks[1].ffn.register_forward_pre_hook(lambda *_: 1 / 0)
    try:
        dit(*inputs(dit, UNEVEN, 1))
    except ZeroDivisionError:
        handle.remove()
        return compare(dit, plain, UNEVEN, 1)
    raise AssertionError("the error did not come")


def compare_halves(group) -> float:
    """In bfloat16, against the plain model in bfloat16."""
    dit, plain = small_model(), small_model().bfloat16()
    shard_blocks(dit, group, torch.bfloat16)
    return compare(dit, plain, EVEN, 1)


def compare_with_other_part(plain, group) -> float:
    """The control: one process has another part of a weight than it should."""
    dit = small_model()
    if group.rank == 1:
        dit.blocks[0].ffn[0].weight.data += 0.1
    shard_blocks(dit, group, torch.float32)
    return compare(dit, plain, EVEN, 1)


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("sharded")
    start_processes(__file__, SIZE, folder)
    return json.loads((folder / "found.json").read_text())


@pytest.mark.parametrize("kind", ["weights", "weights and tokens"])
def test_sharded_weights_give_the_keys_and_velocity_of_one_process(found, kind):
    for case in CASES:
        assert found[f"{kind}: {case}"] <= LIMIT, case
    assert found[f"{kind}: error"] <= LIMIT, "and again after an error in the middle"
    assert found[f"{kind}: names"]
    assert found["control"] > 100 * LIMIT


def test_half_precision_is_bit_equal(found):
    assert found["half precision"] == 0


@pytest.mark.parametrize("kind", ["weights", "weights and tokens"])
def test_each_process_holds_half_of_the_blocks_and_one_gathered_block(found, kind):
    assert abs(found[f"{kind}: after"] - 0.5) < 0.02
    for block, whole, share in found[f"{kind}: at work"]:
        assert whole == 1 and share < 0.5 + 0.5 / 2 + 0.02, f"block {block} of 2 is whole, the other is not"


def talk(engine):
    stream = engine.open(engine.reference(pixels()), StreamSettings(seed=3, steps=2))
    return torch.cat([chunk.frames_THWC for chunk in [*stream.push(torch.from_numpy(speech_like(1.5))), *stream.finish()]])


@pytest.mark.parametrize("memory", ["sharded", "offload"])
def test_a_pool_talks_as_one_process_wherever_its_weights_are_kept(memory, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    write_published_folder(tmp_path / "m")
    place = Placement(num_workers=2, ulysses_degree=1, ring_degree=2)
    pool = Pool(place, Recipe(options=EngineOptions(model=tmp_path / "m", device="cpu", memory=memory)))
    try:
        ours = talk(pool)
    finally:
        pool.close()
    theirs = talk(load_engine(tmp_path / "m", "cpu"))
    assert (ours.int() - theirs.int()).abs().max() <= 1 and theirs.float().std() > 1


def test_sharding_with_a_single_worker_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    place = Placement(num_workers=1, ulysses_degree=1, ring_degree=1)
    pool = Pool(place, Recipe(options=EngineOptions(model="tiny", device="cpu", memory="sharded")))
    with pytest.raises(ValueError, match="memory='sharded' shares the weights over 2 processes or more, and this is one"):
        pool.start()


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_process(int(sys.argv[1]), Path(sys.argv[2]))
    leave(0)
