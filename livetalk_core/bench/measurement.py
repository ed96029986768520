"""What a stream costs on this machine: chunk latency, time to first frame, memory, and each part against this machine's best rates."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Sequence

import torch

from livetalk_core.bench.counts import chunk_work, count_parts, count_weights, work_in
from livetalk_core.bench.machine import describe_machine, peak_memory_mb, reset_peak
from livetalk_core.bench.parts import Part, RandomInputs, list_parts
from livetalk_core.bench.timing import measure_rates, percentile, time_calls
from livetalk_core.bench.work import Work
from livetalk_core.engine.denoiser import Cuts
from livetalk_core.engine.engine import Engine
from livetalk_core.plan import StreamPlan
from livetalk_core.pool.overhead import measure as measure_pool
from livetalk_core.pool.pool import Pool
from livetalk_core.sizes import BUCKETS, parse_size
from livetalk_core.types import Reference, StreamSettings

STAGES = ("audio", "denoise", "decode", "color", "encode")


def measure_engine(
    engine: Engine | Pool, size: str, chunks: int, steps: int | None = None, tiny_decoder: bool = False, seconds: float = 1.0
) -> dict:
    """A stream's times, and the work of every part. In one process each part is also timed alone.

    `seconds` is spent on each part and each rate.
    """
    plan = plan_of_size(engine, size)
    rates = measure_rates(engine.device, engine.dtype, seconds)
    report = measure_stream(engine, size, chunks, steps)
    if isinstance(engine, Pool):
        devices = engine.placement.num_workers if engine.device.type == "cuda" else 1
        return report | pool_report(engine) | work_report(engine, plan, Cuts(), report, rates, {}, tiny_decoder, devices)
    cuts = engine.cuts(plan)
    taken = time_parts(engine, list_parts(engine, plan, cuts), seconds)
    return report | options_report(engine) | work_report(engine, plan, cuts, report, rates, taken, tiny_decoder)


def measure_without_encoders(engine: Engine, size: str, chunks: int, seconds: float) -> dict:
    """As `measure_engine`, of a random picture and prompt that are encoded already: for a model that fills the device."""
    plan = plan_of_size(engine, size)
    cuts, settings = engine.cuts(plan), StreamSettings(steps=engine.preset.steps)
    rates = measure_rates(engine.device, engine.dtype, seconds)
    report = time_stream(engine, RandomInputs(engine, plan, cuts, settings.steps).reference(), settings, plan, chunks)
    taken = time_parts(engine, list_parts(engine, plan, cuts, encoders=False), seconds)
    return report | options_report(engine) | work_report(engine, plan, cuts, report, rates, taken)


def work_report(
    engine: Engine | Pool,
    plan: StreamPlan,
    cuts: Cuts,
    report: dict,
    rates: dict,
    seconds: dict[str, float],
    tiny_decoder: bool = False,
    devices: int = 1,
) -> dict:
    """The work of every part and stage, with its shares of the rates of so many devices."""
    counted = count_parts(engine.preset, (plan.width, plan.height), engine.dtype, cuts, tiny_decoder)
    return {
        "dit_parameters": count_weights(engine.preset),
        "cuts": vars(cuts),
        "rates": rates,
        "parts": part_rows(counted, seconds, rates),
        "stages": stage_rows(counted, report, rates, devices),
    }


def measure_stream(engine: Engine | Pool, size: str = "auto", chunks: int = 5, steps: int | None = None) -> dict:
    """Times of a stream of `chunks` chunks. `steps` None: the model's own number.

    A first stream of one chunk warms up and gives the cold time to first frame. The second stream's first chunk gives the warm one.
    """
    if chunks < 1:
        raise ValueError(f"chunks={chunks} must be 1 or more")
    plan = plan_of_size(engine, size)
    settings = StreamSettings(steps=engine.preset.steps if steps is None else steps)
    pixels_CHW = torch.rand(3, plan.height, plan.width, generator=torch.Generator().manual_seed(0)) * 2 - 1
    start = time.perf_counter()
    reference = engine.reference(pixels_CHW)
    taken = {"reference_s": time.perf_counter() - start}
    return time_stream(engine, reference, settings, plan, chunks) | taken


def time_stream(engine: Engine | Pool, reference: Reference, settings: StreamSettings, plan: StreamPlan, chunks: int) -> dict:
    """Times of two streams of a prepared picture, the first of one chunk."""
    (cold,) = time_chunks(engine, reference, settings, plan, 1)
    reset_peak(engine.device)
    first, *timed = time_chunks(engine, reference, settings, plan, chunks + 1)
    latencies = [seconds["chunk"] for seconds in timed]
    latency_s = statistics.median(latencies)
    return describe_machine(engine.device) | {
        "dtype": str(engine.dtype).removeprefix("torch."),
        "model": engine.preset.name,
        "size": f"{plan.width}x{plan.height}",
        "steps": settings.steps,
        "chunks": chunks,
        "first_frame_s": cold["first"],
        "first_frame_warm_s": first["first"],
        "chunk_s": {"median": latency_s, "p95": percentile(latencies, 95), "max": max(latencies)},
        "stage_s": {stage: statistics.median(seconds[stage] for seconds in timed) for stage in STAGES},
        "fps": plan.new_frames / latency_s,
        "real_time_factor": latency_s * plan.fps / plan.new_frames,
        "peak_memory_mb": peak_memory_mb(engine.device),
    }


def plan_of_size(engine: Engine | Pool, size: str) -> StreamPlan:
    """The plan of WIDTHxHEIGHT; auto: the first size of the model's own bucket."""
    return engine.plan(*(BUCKETS[engine.preset.bucket][0] if size == "auto" else parse_size(size)))


def time_chunks(
    engine: Engine | Pool, reference: Reference, settings: StreamSettings, plan: StreamPlan, chunks: int
) -> list[dict[str, float]]:
    """Seconds of each chunk of a new stream."""
    generator = torch.Generator().manual_seed(0)
    stream = engine.open(reference, settings)
    sound = torch.rand(chunks, plan.new_samples, generator=generator) * 0.2 - 0.1
    timed = [time_chunk(stream, samples_N) for samples_N in sound]
    stream.close()
    return timed


def time_chunk(stream, samples_N: torch.Tensor) -> dict[str, float]:
    """Seconds of one chunk: by stage, until its first frames are on the host, and until the stream can take the next sound."""
    start, arrivals, seconds = time.perf_counter(), [], Counter()
    for piece in stream.push(samples_N):
        arrivals.append(time.perf_counter() - start)
        seconds.update(piece.seconds)
    return {**seconds, "first": arrivals[0], "chunk": time.perf_counter() - start}


@torch.no_grad()
def time_parts(engine: Engine, parts: Sequence[Part], seconds: float) -> dict[str, float]:
    """Median seconds of each part alone, by name. Each is called for so many seconds, three times at least."""
    return {part.name: statistics.median(time_calls(part.prepare(), engine.device, seconds)) for part in parts}


def pool_report(pool: Pool) -> dict:
    return {"peak_memory_mb": pool.stats()["peak_mb"], "pool": measure_pool(pool)}


def options_report(engine: Engine) -> dict:
    """The errors of options that change the result, as measured on the first chunk."""
    return {
        "deviations": {option: error for (option, *_), error in engine.deviations.found.items()},
        "decoder_psnr_db": next(iter(engine.deviations.psnr_db.values()), None),
    }


def part_rows(counted: Sequence[dict], seconds: dict[str, float], rates: dict) -> list[dict]:
    """The counted parts with the seconds of each alone (None: not timed) and its shares of the rates."""
    return [row | shares(work_in(row), seconds.get(row["name"]), rates) for row in counted]


def stage_rows(counted: Sequence[dict], report: dict, rates: dict, devices: int = 1) -> list[dict]:
    """One row for each stage of a chunk: its work, its seconds in the stream, its shares of the rates of so many devices."""
    rows = []
    for name, seconds in report["stage_s"].items():
        work = chunk_work(counted, report["steps"], name)
        rows.append({"name": name, **vars(work), **shares(work, seconds, rates, devices)})
    return rows


def shares(work: Work, seconds: float | None, rates: dict, devices: int = 1) -> dict[str, float | None]:
    """FLOPs per second as a share of the matmul rate, and bytes per second as a share of the copy rate."""
    if seconds is None:
        return {"seconds": None, "matmul_share": None, "copy_share": None}
    return {
        "seconds": seconds,
        "matmul_share": work.flops / seconds / (devices * rates["matmul_tflops"] * 1e12),
        "copy_share": work.num_bytes / seconds / (devices * rates["copy_gb_s"] * 1e9),
    }
