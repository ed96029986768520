"""What this machine can do at best: its rates of matrix products and of copies, measured in the precision that is used."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

SECONDS = 1.0
"""Spent on each rate."""
MATRIX = {"cpu": 1024, "cuda": 8192}
COPY_BYTES = {"cpu": 1 << 28, "cuda": 1 << 31}
"""Larger than any cache."""


def measure_ceilings(device: torch.device, dtype: torch.dtype) -> dict[str, float | str]:
    """The best rates seen in a second each: TFLOP/s of square products of random numbers, and GB/s of a copy, read and written."""
    side, num_bytes = MATRIX[device.type], COPY_BYTES[device.type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    product_s = best_time(lambda: torch.mm(a, b, out=out), device)
    source = torch.ones(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy_s = best_time(lambda: target.copy_(source), device)
    return {
        "matmul_tflops": 2 * side**3 / product_s / 1e12,
        "copy_gb_s": 2 * num_bytes / copy_s / 1e9,
        "dtype": str(dtype).removeprefix("torch."),
        "matmul_size": side,
        "copy_mb": num_bytes / 1e6,
    }


def best_time(call: Callable[[], object], device: torch.device) -> float:
    """The shortest of the seconds that calls take, after a first."""
    return min(times_of(call, device, SECONDS))


def times_of(call: Callable[[], object], device: torch.device, seconds: float, least: int = 3, most: int = 1000) -> list[float]:
    """Seconds of each call, the first left out, until `seconds` have gone by."""
    call()
    synchronize(device)
    times, begun = [], time.perf_counter()
    while len(times) < least or (time.perf_counter() - begun < seconds and len(times) < most):
        start = time.perf_counter()
        call()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return times


def synchronize(device: torch.device) -> None:
    """Wait for the device; only a measurement may."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
