"""Seconds per stage, without stopping the device: events on CUDA, the clock elsewhere."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class StageClock:
    """Collects spans by name; `seconds()` sums them, once the results have reached the host."""

    def __init__(self, device: torch.device):
        self.on_cuda = device.type == "cuda"
        self.spans: list[tuple[str, object, object]] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = self.mark()
        yield
        self.spans.append((name, start, self.mark()))

    def mark(self) -> torch.cuda.Event | float:
        if not self.on_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self) -> dict[str, float]:
        """Seconds by stage. On CUDA waits for the last event."""
        if self.on_cuda and self.spans:
            self.spans[-1][2].synchronize()
        total: dict[str, float] = defaultdict(float)
        for name, start, end in self.spans:
            total[name] += start.elapsed_time(end) / 1000 if self.on_cuda else end - start
        return dict(total)
