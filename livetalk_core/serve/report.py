"""Tells a live session's figures: to its client every second, and to the server's metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict

from livetalk_core.serve.figures import Figures
from livetalk_core.serve.metrics import Metrics
from livetalk_core.serve.session import LiveSession

EVERY_S = 1.0


class Report:
    """What one session has told the metrics so far."""

    def __init__(self, session: LiveSession, metrics: Metrics) -> None:
        self.session, self.metrics = session, metrics
        self.frames = self.late = self.dropped = self.utterances = 0

    async def run(self, send: Callable[[dict[str, object]], Awaitable[None]]) -> None:
        """Send the figures every second, for ever."""
        while True:
            await asyncio.sleep(EVERY_S)
            await send({"figures": asdict(self.count())})

    def count(self) -> Figures:
        """The figures now; what is new in them is added to the metrics. Call it once more at the session's end."""
        figures = self.session.figures()
        self.metrics.frames.inc(figures.shown_frames - self.frames)
        self.metrics.late.inc(figures.late_frames - self.late)
        self.metrics.dropped.inc(figures.dropped_frames - self.dropped)
        if figures.utterances > self.utterances:
            self.metrics.delay_s.observe(figures.delay_s)
        self.frames, self.late, self.dropped = figures.shown_frames, figures.late_frames, figures.dropped_frames
        self.utterances = figures.utterances
        return figures
