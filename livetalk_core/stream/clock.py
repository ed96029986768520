"""Seconds per stage, without synchronizing the device: events on CUDA, the clock elsewhere."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class StageClock:
    """Collects named time spans until `take`."""

    def __init__(self, device: torch.device):
        self.device = device
        self.spans: list[tuple[str, object, object]] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = self.mark()
        yield
        self.spans.append((name, start, self.mark()))

    def mark(self) -> torch.cuda.Event | float:
        if self.device.type != "cuda":
            return time.perf_counter()
        return torch.cuda.current_stream(self.device).record_event(torch.cuda.Event(enable_timing=True))

    def take(self) -> Spans:
        """The spans since the last call."""
        spans, self.spans = self.spans, []
        return Spans(spans)


class Spans:
    """Time spans of a piece of work that the device may not have finished."""

    def __init__(self, spans: list[tuple[str, object, object]]):
        self.spans = spans

    def seconds(self) -> dict[str, float]:
        """Seconds by stage. Call this only after the results have reached the host: then all events have been recorded."""
        total: dict[str, float] = defaultdict(float)
        for name, start, end in self.spans:
            total[name] += end - start if isinstance(start, float) else start.elapsed_time(end) / 1000
        return dict(total)
