"""Which GPUs a pool takes, in what degrees and why; and what is said when that is impossible."""

from __future__ import annotations

import pytest

from livetalk_core import placement
from livetalk_core.placement import Demand, Gpu, demand_of, place_on_cpu, place_on_gpus, visible_gpus

GIB = 2**30
LARGE = Demand(heads=40, num_bytes=40 * GIB, tokens=10530)


def box(*free_gib: int) -> list[Gpu]:
    return [Gpu(index=i, uuid=f"GPU-{i}", free_bytes=free * GIB, name="H100") for i, free in enumerate(free_gib)]


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
    place = place_on_gpus("2", LARGE, box(30, 79, 5, 60))
    assert place.gpus == ("GPU-1", "GPU-3")
    assert place.reason == "2 of 4 GPUs have 40 GiB free each; taking 1, 3; 2 divides the 40 heads: Ulysses alone, 20 heads a GPU"


@pytest.mark.parametrize(
    "wanted, gpus, message",
    [
        ("auto", [], "gpus=auto needs NVIDIA GPUs, and none is visible here; use --workers N"),
        ("9", box(*[79] * 4), "gpus=9 is not possible: 4 GPUs are visible, 4 with 40 GiB free each; choose 1, 2, 3, 4"),
        ("4", box(79, 79, 10), "gpus=4 is not possible: 3 GPUs are visible, 2 with 40 GiB free each; choose 1, 2"),
        ("auto", box(24, 24), "gpus=auto: none of 2 GPUs has the 40 GiB free each that this model needs \\(most: 24 GiB\\)"),
        ("0", box(79), "gpus=0 must be 1 or more, or auto"),
        ("many", box(79), "gpus=many must be 1 or more, or auto"),
    ],
)
def test_the_impossible_is_refused_with_the_choices(wanted, gpus, message):
    with pytest.raises(ValueError, match=message):
        place_on_gpus(wanted, LARGE, gpus)


def test_processes_on_the_cpu_all_get_tokens_or_are_refused():
    few = Demand(heads=4, num_bytes=0, tokens=9)
    assert place_on_cpu("3", few).num_workers == 3
    with pytest.raises(ValueError, match="workers=8 leave some without work: 9 tokens in a chunk; choose 5 or fewer"):
        place_on_cpu("8", few)
    with pytest.raises(ValueError, match="workers=two must be 1 or more"):
        place_on_cpu("two", few)


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
