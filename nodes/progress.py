"""The running node's progress: a bar that also moves within a chunk, the time left, and the last picture."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from livetalk_core.plan import StreamPlan

from . import host
from .words import name_inputs

if TYPE_CHECKING:
    from livetalk_core.types import Chunk

NEW_FRAMES = StreamPlan.chunk_frames - StreamPlan.motion_frames


class Progress:
    """Progress of one stream, in frames. Half of a chunk's frames count when it is denoised, half when they are decoded."""

    def __init__(self, total: int, pictures: bool = True) -> None:
        """`pictures`: show the last picture too; a node with a player has it in its player."""
        self.total, self.done, self.pictures = total, 0, pictures
        self.denoised = 0.0
        """Fraction of the steps of the chunk that is being made."""
        self.denoising = False
        self.note = ""
        """What the core has measured: the error of a lossy setting."""
        self.start = time.perf_counter()

    @property
    def value(self) -> float:
        """Frames done, with fractions for the chunk that is being made."""
        first = self.done // NEW_FRAMES * NEW_FRAMES
        size = min(NEW_FRAMES, self.total - first)
        return first + size * self.denoised / 2 + (self.done - first) / 2

    def step(self, step: int, steps: int) -> None:
        """Called before each denoising step, and with (steps, steps) before later work. Raises if the user has stopped the prompt."""
        host.check_interrupt()
        self.denoising = self.denoising or step < steps
        if self.denoising and step / steps > self.denoised:
            self.denoised = step / steps
            self.show(f"step {step} of {steps}, " if self.done == 0 else "")

    def add(self, piece: Chunk) -> None:
        """Count a finished piece and show its last picture."""
        self.done += len(piece.frames_THWC)
        if self.done % NEW_FRAMES == 0 or self.done == self.total:
            self.denoised, self.denoising = 0.0, False
        picture = piece.frames_THWC[-1] if self.pictures else None
        host.show_progress(self.done if self.done == self.total else self.value, self.total, picture)
        self.show_text("")

    def show(self, before: str) -> None:
        host.show_progress(self.value, self.total)
        self.show_text(before)

    def show_text(self, before: str) -> None:
        value = self.total if self.done == self.total else self.value
        elapsed = time.perf_counter() - self.start
        left = f", about {describe_time(elapsed / value * (self.total - value))} left" if 0 < value < self.total else ""
        host.show_text(f"{before}{self.done} of {self.total} frames{left}{self.note and chr(10)}{self.note}")


class NoteTaker(logging.Handler):
    """Shows the core's warnings on the running node."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(logging.WARNING)
        self.progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        self.progress.note = name_inputs(record.getMessage())


@contextmanager
def showing_warnings(progress: Progress) -> Iterator[None]:
    core, taker = logging.getLogger("livetalk_core"), NoteTaker(progress)
    core.addHandler(taker)
    try:
        yield
    finally:
        core.removeHandler(taker)


def describe_time(seconds: float) -> str:
    """'8 s', '3 min', '2 h 5 min'."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
