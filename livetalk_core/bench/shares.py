"""Counted work and measured seconds together: how near a part comes to what the machine can do."""

from __future__ import annotations

from collections.abc import Sequence

from livetalk_core.bench.counted import chunk_work, work_in
from livetalk_core.bench.counters import Work


def part_rows(rows: Sequence[dict], seconds: dict[str, float], ceilings: dict) -> list[dict]:
    """Rows of `count_components` with each part's seconds alone, None where it was not timed, and its shares of the ceilings."""
    return [row | shares(work_in(row), seconds.get(row["name"]), ceilings) for row in rows]


def stage_rows(rows: Sequence[dict], report: dict, ceilings: dict, devices: int = 1) -> list[dict]:
    """A row a stage of a chunk: the work of its parts, its seconds in the stream, its shares of the ceilings of `devices` such devices."""
    stages = []
    for name, taken in report["stage_s"].items():
        work = chunk_work(rows, report["steps"], name)
        stages.append({"name": name, **vars(work), **shares(work, taken, ceilings, devices)})
    return stages


def shares(work: Work, taken: float | None, ceilings: dict, devices: int = 1) -> dict[str, float | None]:
    """Seconds, FLOPs over seconds as a share of the rate of products, and bytes over seconds of the rate of copies."""
    if taken is None:
        return {"seconds": None, "matmul_fraction": None, "copy_fraction": None}
    return {
        "seconds": taken,
        "matmul_fraction": work.flops / taken / (devices * ceilings["matmul_tflops"] * 1e12),
        "copy_fraction": work.num_bytes / taken / (devices * ceilings["copy_gb_s"] * 1e9),
    }
