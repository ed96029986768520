"""What a chunk costs on this machine: seconds by stage and by part, chunk latency, time to first frame, frames per second, memory."""

from __future__ import annotations

import os
import platform
import resource
import statistics
import time
from collections import Counter
from pathlib import Path

import torch

from livetalk_core.bench.ceilings import times_of
from livetalk_core.bench.components import components
from livetalk_core.engine.denoiser import Cuts
from livetalk_core.engine.engine import Engine
from livetalk_core.plan import StreamPlan
from livetalk_core.sizes import BUCKETS, parse_size
from livetalk_core.types import StreamSettings

STAGES = ("audio", "denoise", "decode", "color", "encode")
COMPONENT_S = 1.0
"""Spent on each part, three calls at least."""


def run_bench(engine: Engine, size: str = "auto", chunks: int = 5, steps: int | None = None) -> dict:
    """Times `chunks` chunks of a stream. A stream before it warms up, and gives the cold time to first frame; this one's first chunk
    gives the warm one, of a picture that is prepared. `steps`: the model's own unless given."""
    if chunks < 1:
        raise ValueError(f"chunks={chunks} must be 1 or more")
    plan = bench_plan(engine, size)
    settings = StreamSettings(steps=engine.preset.steps if steps is None else steps)
    pixels_CHW = torch.rand(3, plan.height, plan.width, generator=torch.Generator().manual_seed(0)) * 2 - 1
    start = time.perf_counter()
    reference = engine.reference(pixels_CHW)
    prepared = time.perf_counter()
    (cold,) = time_chunks(engine, reference, settings, plan, 1)
    reset_peak(engine.device)
    first, *timed = time_chunks(engine, reference, settings, plan, chunks + 1)
    latencies = [seconds["chunk"] for seconds in timed]
    latency_s = statistics.median(latencies)
    return machine(engine.device) | {
        "dtype": str(engine.dtype).removeprefix("torch."),
        "model": engine.preset.name,
        "size": f"{plan.width}x{plan.height}",
        "steps": settings.steps,
        "chunks": chunks,
        "reference_s": prepared - start,
        "first_frame_s": cold["first"],
        "first_frame_warm_s": first["first"],
        "chunk_s": {"median": latency_s, "p95": percentile(latencies, 95), "max": max(latencies)},
        "stage_s": {stage: statistics.median(seconds[stage] for seconds in timed) for stage in STAGES},
        "fps": plan.new_frames / latency_s,
        "real_time_factor": latency_s * plan.fps / plan.new_frames,
        "peak_memory_mb": peak_memory_mb(engine.device),
    }


def bench_plan(engine: Engine, size: str) -> StreamPlan:
    """The plan of WIDTHxHEIGHT, or of the first size of the model's own bucket."""
    return engine.plan(*(BUCKETS[engine.preset.bucket][0] if size == "auto" else parse_size(size)))


def time_chunks(engine: Engine, reference, settings: StreamSettings, plan: StreamPlan, chunks: int) -> list[dict[str, float]]:
    """Seconds of a new stream's chunks."""
    generator = torch.Generator().manual_seed(0)
    stream = engine.open(reference, settings)
    sound = torch.rand(chunks, plan.new_samples, generator=generator) * 0.2 - 0.1
    timed = [timed_chunk(stream, samples_N) for samples_N in sound]
    stream.close()
    return timed


def timed_chunk(stream, samples_N: torch.Tensor) -> dict[str, float]:
    """Seconds of one chunk by stage, from its sound to its first frames on the host, and until the stream is ready for the next sound."""
    start, arrivals, seconds = time.perf_counter(), [], Counter()
    for piece in stream.push(samples_N):
        arrivals.append(time.perf_counter() - start)
        seconds.update(piece.seconds)
    return {**seconds, "first": arrivals[0], "chunk": time.perf_counter() - start}


def percentile(values: list[float], percent: int) -> float:
    """Between the two nearest values, linearly."""
    return values[0] if len(values) == 1 else statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


@torch.no_grad()
def time_components(engine: Engine, plan: StreamPlan, cuts: Cuts) -> dict[str, float]:
    """Median seconds of every part alone, with random inputs, by its name."""
    seconds = {}
    for component in components(engine, plan, cuts):
        call = component.prepare()
        seconds[component.name] = statistics.median(times_of(call, engine.device, COMPONENT_S))
    return seconds


def machine(device: torch.device) -> dict[str, str | int | float]:
    """What the numbers were measured on, and what else it was doing."""
    return {
        "device": device_name(device),
        "device_type": device.type,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()} ({device.type})"


def reset_peak(device: torch.device) -> None:
    """Forget the peak of preparing and warming up, where it can be."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_mb(device: torch.device) -> float:
    """The device's peak of the stream on CUDA, this process's so far elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
