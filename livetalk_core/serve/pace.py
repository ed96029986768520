"""How well one stream keeps pace with its viewer: first frame, seconds a chunk, late and lost frames."""

from __future__ import annotations

import time
from collections.abc import Callable

from livetalk_core.serve.metrics import Metrics
from livetalk_core.types import Chunk

FPS = 25


class Pace:
    """The clock of one stream, told of what happens to it. `now`: seconds of a clock that never goes back."""

    def __init__(self, metrics: Metrics, now: Callable[[], float] = time.monotonic) -> None:
        self.metrics, self.now = metrics, now
        self.first_sound: float | None = None
        self.shown = float("inf")
        """When all frames sent so far will have been shown."""
        self.excused = False
        """Whether the next piece had to wait for its sound."""
        self.num_made = self.num_sent = 0
        self.chunk, self.chunk_s = 0, 0.0

    def heard(self) -> None:
        """Sound came in."""
        if self.first_sound is None:
            self.first_sound = self.now()

    def waited(self) -> None:
        """The stream had to wait for sound, so its next piece is not late by the server's fault."""
        self.excused = True

    def worked(self, piece: Chunk, seconds: float) -> None:
        """A piece was made in so much time."""
        if piece.index != self.chunk:
            self.metrics.chunk_s.observe(self.chunk_s)
            self.chunk, self.chunk_s = piece.index, 0.0
        self.chunk_s += seconds
        self.num_made += len(piece.frames_THWC)

    def sent(self, num_frames: int) -> None:
        now = self.now()
        if self.num_sent == 0:
            self.shown = now
            self.metrics.first_s.observe(now - (now if self.first_sound is None else self.first_sound))
        elif now > self.shown and not self.excused:
            self.metrics.late.inc(num_frames)
        self.excused = False
        self.shown = max(self.shown, now) + num_frames / FPS
        self.num_sent += num_frames
        self.metrics.frames.inc(num_frames)

    def end(self) -> None:
        """The stream is over."""
        if self.chunk_s:
            self.metrics.chunk_s.observe(self.chunk_s)
        self.metrics.dropped.inc(self.num_made - self.num_sent)
