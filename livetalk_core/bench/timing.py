"""How long calls take, and the best rates of this machine to compare them with."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

MATRIX_SIZE = {"cpu": 1024, "cuda": 8192}
COPY_BYTES = {"cpu": 1 << 28, "cuda": 1 << 31}
"""Larger than any cache."""


def measure_rates(device: torch.device, dtype: torch.dtype, seconds: float = 1.0) -> dict[str, float | str]:
    """The best rates of this machine: TFLOP/s of a square matmul of random numbers, and GB/s of a copy, bytes read and written.

    Each rate takes `seconds`.
    """
    size, num_bytes = MATRIX_SIZE[device.type], COPY_BYTES[device.type]
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    matmul_s = min(time_calls(lambda: torch.mm(a, b, out=out), device, seconds))
    source = torch.ones(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy_s = min(time_calls(lambda: target.copy_(source), device, seconds))
    return {
        "matmul_tflops": 2 * size**3 / matmul_s / 1e12,
        "copy_gb_s": 2 * num_bytes / copy_s / 1e9,
        "dtype": str(dtype).removeprefix("torch."),
        "matmul_size": size,
        "copy_mb": num_bytes / 1e6,
    }


def time_calls(call: Callable[[], object], device: torch.device, seconds: float, least: int = 3, most: int = 1000) -> list[float]:
    """Seconds of each call until `seconds` have passed. A first call warms up and is not counted."""
    call()
    synchronize(device)
    times, begun = [], time.perf_counter()
    while len(times) < least or (time.perf_counter() - begun < seconds and len(times) < most):
        start = time.perf_counter()
        call()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return times


def percentile(values: list[float], percent: int) -> float:
    """Linear between the two nearest values."""
    return values[0] if len(values) == 1 else statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
