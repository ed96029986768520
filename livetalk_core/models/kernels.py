"""Times attention kernels on random inputs of a given shape."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

log = logging.getLogger(__name__)

CALLS = 5
"""Timed calls per kernel; the shortest counts."""
MARGIN = 0.97
"""A kernel is preferred to an earlier one in the list only if it takes less than this share of its time, so ties end the same way."""

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries [B, L, heads, K], keys and values [B, M, heads, K] -> [B, L, heads, K]."""


class Case(NamedTuple):
    """The properties of an attention call that a kernel's speed depends on."""

    device: torch.device
    dtype: torch.dtype
    batch: int
    queries: int
    keys: int
    heads: int
    width: int

    def __str__(self) -> str:
        shape = f"{self.batch} x {self.queries} queries, {self.keys} keys, {self.heads} heads of {self.width}"
        return f"{shape}, {str(self.dtype).removeprefix('torch.')} on {self.device}"

    def random(self) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values from a fixed seed."""
        generator = torch.Generator(self.device).manual_seed(0)
        make = lambda length: torch.randn(  # noqa: E731
            self.batch, length, self.heads, self.width, device=self.device, dtype=self.dtype, generator=generator
        )
        return make(self.queries), make(self.keys), make(self.keys)


@torch.no_grad()
def time_kernels(kernels: Mapping[str, Kernel], case: Case) -> dict[str, float]:
    """Seconds of each kernel that works. A kernel that fails is left out and a warning is logged."""
    inputs, seconds = case.random(), {}
    for name, kernel in kernels.items():
        try:
            seconds[name] = min_seconds(kernel, inputs)
        except (RuntimeError, ImportError, TypeError, AssertionError) as error:
            log.warning("attention kernel %s is left out: %s", name, (str(error).splitlines() or [type(error).__name__])[0])
    return seconds


def fastest(seconds: Mapping[str, float]) -> str:
    """The first kernel whose time is within MARGIN of the best."""
    return next(name for name, taken in seconds.items() if MARGIN * taken <= min(seconds.values()))


def min_seconds(kernel: Kernel, inputs: tuple[Tensor, Tensor, Tensor]) -> float:
    """Shortest time of CALLS calls, each synchronized, after one warm-up call."""
    times = []
    for _ in range(CALLS + 1):
        start = time.perf_counter()
        kernel(*inputs)
        if inputs[0].is_cuda:
            torch.cuda.synchronize(inputs[0].device)
        times.append(time.perf_counter() - start)
    return min(times[1:])
