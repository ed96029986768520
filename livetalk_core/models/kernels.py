"""Kernels that do the same, timed on random numbers of the shape they are wanted for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

log = logging.getLogger(__name__)

CALLS = 5
"""Timed calls of each kernel; the shortest counts."""
MARGIN = 0.97
"""Of a kernel's time: what another must stay below to be preferred to one named before it, so that ties fall the same way every time."""

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]
"""[B, L, heads, K] of queries and twice [B, M, heads, K] to [B, L, heads, K]."""


class Case(NamedTuple):
    """What one attention is like, as far as kernels differ by it."""

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
        """Queries, keys and values, the same every time."""
        generator = torch.Generator(self.device).manual_seed(0)
        make = lambda length: torch.randn(  # noqa: E731
            self.batch, length, self.heads, self.width, device=self.device, dtype=self.dtype, generator=generator
        )
        return make(self.queries), make(self.keys), make(self.keys)


@torch.no_grad()
def time_kernels(kernels: Mapping[str, Kernel], case: Case) -> dict[str, float]:
    """Seconds of each kernel that works; one that does not is left out, with a line in the log."""
    inputs, seconds = case.random(), {}
    for name, kernel in kernels.items():
        try:
            seconds[name] = shortest(kernel, inputs)
        except (RuntimeError, ImportError, TypeError, AssertionError) as error:
            log.warning("attention kernel %s is left out: %s", name, (str(error).splitlines() or [type(error).__name__])[0])
    return seconds


def fastest(seconds: Mapping[str, float]) -> str:
    """The first kernel that is as good as the best."""
    return next(name for name, taken in seconds.items() if MARGIN * taken <= min(seconds.values()))


def shortest(kernel: Kernel, inputs: tuple[Tensor, Tensor, Tensor]) -> float:
    """Of several calls after a first, with the device waited for."""
    times = []
    for _ in range(CALLS + 1):
        start = time.perf_counter()
        kernel(*inputs)
        if inputs[0].is_cuda:
            torch.cuda.synchronize(inputs[0].device)
        times.append(time.perf_counter() - start)
    return min(times[1:])
