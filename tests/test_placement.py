"""Which GPUs a pool takes, in what degrees and why; and what is said when that is impossible."""

from __future__ import annotations

import re

import pytest
import torch

from livetalk_core.engine.files import SHIPPED, find_files
from livetalk_core.engine.options import EngineOptions
from livetalk_core.models.weights import read_tensors
from livetalk_core.pool import place as placement
from livetalk_core.pool import pool
from livetalk_core.pool.place import Box, Demand, Gpu, blocks_in, demand_of, place_on_cpu, place_on_gpus, visible_gpus

GIB = 2**30
LARGE = Demand(heads=40, num_bytes=40 * GIB, tokens=10530)


def box(*free_gib: float, host_gib: int | None = None) -> Box:
    gpus = tuple(Gpu(index=i, uuid=f"GPU-{i}", free_bytes=int(free * GIB), name="H100") for i, free in enumerate(free_gib))
    return Box(gpus=gpus, host_bytes=None if host_gib is None else host_gib * GIB)


@pytest.mark.parametrize(
    "free, heads, count, degrees",
    [
        ((79,) * 8, 40, 8, (8, 1)),
        ((79,) * 4, 40, 4, (4, 1)),
        ((79,) * 7, 40, 5, (5, 1)),
        ((79, 10, 79, 10), 40, 2, (2, 1)),
        ((79,), 40, 1, (1, 1)),
        ((79,) * 8, 12, 6, (6, 1)),
    ],
)
def test_auto_takes_as_many_free_gpus_as_divide_the_heads(free, heads, count, degrees):
    place = place_on_gpus("auto", Demand(heads=heads, num_bytes=40 * GIB, tokens=10530), box(*free))
    assert (place.num_workers, (place.ulysses_degree, place.ring_degree)) == (count, degrees)
    assert len(place.gpus) == count and f"of {len(free)} GPUs have 40 GiB free each" in place.reason


def test_gpus_in_use_are_left_alone_and_the_reason_says_which_are_taken():
    place = place_on_gpus(2, LARGE, box(30, 79, 5, 60))
    assert place.gpus == ("GPU-1", "GPU-3")
    assert place.reason == "2 of 4 GPUs have 40 GiB free each; taking 1, 3; 2 divides the 40 heads: Ulysses alone, 20 heads a GPU"


@pytest.mark.parametrize(
    "wanted, gpus, message",
    [
        ("auto", box(), "gpus=auto needs NVIDIA GPUs, and none is visible here; use --workers N"),
        (9, box(*[79] * 4), "gpus=9 is not possible: 4 GPUs are visible, 4 with 40 GiB free each; choose 1, 2, 3, 4"),
        (4, box(79, 79, 10), "gpus=4 is not possible: 3 GPUs are visible, 2 with 40 GiB free each; choose 1, 2"),
        ("auto", box(24, 24), "gpus=auto: the model needs 40 GiB free on each GPU .*none of 2 has that \\(most: 24 GiB\\)"),
    ],
)
def test_the_impossible_is_refused_with_the_choices(wanted, gpus, message):
    with pytest.raises(ValueError, match=message):
        place_on_gpus(wanted, LARGE, gpus)


PUBLISHED = Demand(heads=40, num_bytes=51_100_000_000, tokens=10530, block_bytes=928_000_000, num_blocks=40)
"""The 14B model, in bytes as its files have them."""


@pytest.mark.parametrize(
    "memory, free, wanted, count, reason",
    [
        ("resident", (79,) * 8, "auto", 8, "Ulysses alone, 5 heads a GPU"),
        (
            "sharded",
            (46,) * 4,
            "auto",
            4,
            "4 of 4 GPUs have 25 GiB free each; .*weights sharded: 1/4 of the DiT's blocks on each, 9 GiB of 35 GiB",
        ),
        ("sharded", (23,) * 8, "auto", 8, "8 of 8 GPUs have 21 GiB free each; .*1/8 of the DiT's blocks on each, 4 GiB of 35 GiB"),
        ("sharded", (46, 46, 10), 2, 2, "2 of 3 GPUs have 34 GiB free each; taking 0, 1"),
        (
            "offload",
            (23, 23),
            2,
            2,
            "2 of 2 GPUs have 15 GiB free each; .*weights offloaded: .* in host memory, up to 35 GiB for each of 2",
        ),
    ],
)
def test_small_gpus_will_do_when_the_weights_are_shared_out_or_stay_on_the_host(memory, free, wanted, count, reason):
    place = place_on_gpus(wanted, PUBLISHED, box(*free), memory)
    assert place.num_workers == count and re.search(reason, place.reason), place.reason


@pytest.mark.parametrize(
    "memory, wanted, free, message",
    [
        (
            "resident",
            2,
            (46, 46),
            "gpus=2: the model needs 48 GiB free on each GPU with memory=resident; none of 2 has that \\(most: 46 GiB\\); "
            "free memory or use --memory sharded or --memory offload$",
        ),
        ("resident", "auto", (23,), "the model needs 48 GiB free on each GPU .*; free memory or use --memory offload$"),
        ("sharded", 2, (26,) * 4, "gpus=2 is not possible: 4 GPUs are visible, 0 with 34 GiB free each; choose 4$"),
        ("sharded", "auto", (26, 26), "the model needs 34 GiB free on each GPU with memory=sharded; .*--memory offload"),
        ("sharded", 1, (79, 79), "memory='sharded' shares the weights over 2 processes or more, and this is one"),
        ("offload", "auto", (10,), "the model needs 15 GiB .* with memory=offload; none of 1 has that \\(most: 10 GiB\\); free memory$"),
        ("auto", "auto", (10, 10), "the model needs 15 GiB .* with memory=offload; none of 2 has that \\(most: 10 GiB\\); free memory$"),
    ],
)
def test_what_does_not_fit_says_which_memory_would(memory, wanted, free, message):
    with pytest.raises(ValueError, match=message):
        place_on_gpus(wanted, PUBLISHED, box(*free), memory)


@pytest.mark.parametrize(
    "free, host, wanted, can_shard, expected",
    [
        ((80,) * 8, 64, "auto", True, ("resident", 8)),
        ((44.5,) * 8, 64, "auto", True, ("sharded", 8)),
        ((44.5,) * 2, 64, "auto", True, ("sharded", 2)),
        ((23,) * 8, 64, "auto", True, ("sharded", 8)),
        ((44.5,) * 2, 128, 2, False, ("offload", 2)),
        ((23,), 64, 1, True, ("offload", 1)),
        ((16,) * 8, 128, "auto", True, ("offload", 2)),
        ((16,) * 8, None, "auto", True, ("offload", 8)),
    ],
)
def test_auto_is_resident_then_sharded_then_offload(free, host, wanted, can_shard, expected):
    place = place_on_gpus(wanted, PUBLISHED, box(*free, host_gib=host), can_shard=can_shard)
    assert (place.memory, place.num_workers) == expected
    assert place.memory == "resident" or "since whole ones need 48 GiB on each GPU" in place.reason


def test_processes_on_the_cpu_all_get_tokens_or_are_refused():
    few = Demand(heads=4, num_bytes=0, tokens=9)
    assert place_on_cpu(3, few).num_workers == 3
    with pytest.raises(ValueError, match="workers=8 are too many for 9 tokens in a chunk; choose 5 or fewer"):
        place_on_cpu(8, few)
    with pytest.raises(ValueError, match="memory='sharded' shares the weights over 2 processes or more, and this is one"):
        place_on_cpu(1, few, "sharded")
    assert place_on_cpu(2, few, "sharded").num_workers == 2


@pytest.mark.parametrize(
    "visible, found", [(None, ["GPU-a", "GPU-b"]), ("1", ["GPU-b"]), ("1,0", ["GPU-b", "GPU-a"]), ("GPU-a", ["GPU-a"]), ("", [])]
)
def test_the_driver_is_asked_and_what_is_hidden_stays_hidden(visible, found, tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho '0, GPU-a, 81000, NVIDIA H100 80GB'\necho '1, GPU-b, 500, NVIDIA H100 80GB'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    gpus = visible_gpus()
    assert [gpu.uuid for gpu in gpus] == found
    assert all(gpu.free_bytes == (81000 if gpu.uuid == "GPU-a" else 500) * 2**20 for gpu in gpus)


def test_without_a_driver_there_are_no_gpus(monkeypatch):
    monkeypatch.setattr(placement, "QUERY", ["no-such-program"])
    assert visible_gpus() == []


def test_heads_and_memory_are_read_from_the_files_headers(published):
    demand = demand_of(str(published), "48x32")
    assert demand.heads == 1, "a width of 128, and heads of 128"
    size = sum(path.stat().st_size for path in published.rglob("*") if path.suffix in (".safetensors", ".pth", ".bin"))
    assert 0 < demand.num_bytes <= size and demand.tokens == 9 * 2 * 3
    assert demand_of("tiny").heads == 4
    state = read_tensors(find_files(published).dit)
    blocks = sum(tensor.nbytes for name, tensor in state.items() if name.startswith("blocks."))
    assert (demand.block_bytes, demand.num_blocks) == (blocks // 2, 2), "over all shards"


def test_a_model_without_encoder_files_has_a_demand_too():
    shipped = demand_of(str(SHIPPED / "nano"))
    assert shipped.num_blocks == 6 and 0 < shipped.num_blocks * shipped.block_bytes < shipped.num_bytes < GIB
    assert shipped.tokens == demand_of("nano").tokens


def test_a_dit_in_another_kind_of_file_counts_as_the_published_blocks(tmp_path):
    torch.save({"a": torch.zeros(100_000)}, tmp_path / "dit.pth")
    size = (tmp_path / "dit.pth").stat().st_size
    assert blocks_in([tmp_path / "dit.pth"]) == (size // 40, 40)


@pytest.mark.parametrize("data", [b"", b"\x10\0\0\0\0\0\0\0{", b"\xff" * 100])
def test_a_damaged_file_is_refused_by_name(tmp_path, data):
    (tmp_path / "dit.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match="dit.safetensors is not a whole safetensors file; download it again"):
        blocks_in([tmp_path / "dit.safetensors"])


def test_a_pool_leaves_the_cores_that_it_is_told_to_leave(monkeypatch):
    loads = []
    monkeypatch.setattr(pool, "Workers", lambda load, *others: loads.append(load))
    monkeypatch.setattr(pool.os, "sched_getaffinity", lambda process: {0, 1, 2, 3})
    place = place_on_cpu(2, LARGE)
    for spare_cores in (0, 1, 2, 4):
        pool.Pool(place, pool.Recipe(options=EngineOptions(model="tiny")), spare_cores=spare_cores).launch()
    assert [load.num_threads for load in loads] == [2, 1, 1, 1]
