"""What a chunk costs on this machine: seconds by stage, frames per second, time to first frame, memory."""

from __future__ import annotations

import platform
import resource
import statistics
import time

import torch

from livetalk_core.engine import Engine
from livetalk_core.sizes import BUCKETS, parse_size
from livetalk_core.types import StreamSettings

STAGES = ("audio", "denoise", "decode", "color", "encode")


def run_bench(engine: Engine, size: str = "auto", chunks: int = 5) -> dict:
    """Times `chunks` chunks of one stream after a first, which is the warm-up and gives the time to first frame."""
    if chunks < 1:
        raise ValueError(f"chunks={chunks} must be 1 or more")
    width, height = BUCKETS[engine.preset.bucket][0] if size == "auto" else parse_size(size)
    plan = engine.plan(width, height)
    generator = torch.Generator().manual_seed(0)
    pixels_CHW = torch.rand(3, height, width, generator=generator) * 2 - 1
    start = time.perf_counter()
    reference = engine.reference(pixels_CHW)
    prepared = time.perf_counter()
    stream = engine.open(reference, StreamSettings(steps=engine.preset.steps, shift=engine.preset.shift))
    sound = torch.rand(chunks + 1, plan.new_samples, generator=generator) * 0.2 - 0.1
    first, *timed = [timed_chunk(stream, samples_N) for samples_N in sound]
    latency_s = statistics.median(seconds["chunk"] for seconds in timed)
    return {
        "device": device_name(engine.device),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "dtype": str(engine.dtype).removeprefix("torch."),
        "model": engine.preset.name,
        "size": f"{width}x{height}",
        "chunks": chunks,
        "reference_s": prepared - start,
        "first_frame_s": first["chunk"],
        "chunk_s": {"median": latency_s, "max": max(seconds["chunk"] for seconds in timed)},
        "stage_s": {stage: statistics.median(seconds[stage] for seconds in timed) for stage in STAGES},
        "fps": plan.new_frames / latency_s,
        "real_time_factor": latency_s * plan.fps / plan.new_frames,
        "peak_memory_mb": peak_memory_mb(engine.device),
    }


def timed_chunk(stream, samples_N: torch.Tensor) -> dict[str, float]:
    """Seconds of one chunk by stage, and from its sound to its frames on the host."""
    start = time.perf_counter()
    (chunk,) = stream.push(samples_N)
    return chunk.seconds | {"chunk": time.perf_counter() - start}


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()} ({device.type})"


def peak_memory_mb(device: torch.device) -> float:
    """The device's peak on CUDA, the process's elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def print_report(report: dict) -> None:
    """The same as a table."""
    for name in ("device", "torch", "threads", "dtype", "model", "size", "chunks"):
        print(f"{name:22} {report[name]}")
    print(f"{'reference':22} {report['reference_s']:.3f} s")
    print(f"{'first frame':22} {report['first_frame_s']:.3f} s (first chunk, not warmed up)")
    for stage, seconds in report["stage_s"].items():
        print(f"  {stage:20} {seconds:.3f} s")
    print(f"{'chunk':22} {report['chunk_s']['median']:.3f} s median, {report['chunk_s']['max']:.3f} s slowest")
    print(f"{'frames per second':22} {report['fps']:.2f}")
    print(f"{'real-time factor':22} {report['real_time_factor']:.3f} (below 1 is faster than real time)")
    print(f"{'peak memory':22} {report['peak_memory_mb']:.0f} MB")
