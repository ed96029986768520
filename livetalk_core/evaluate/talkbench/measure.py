"""What a measure is: it watches one video and gives numbers, or says why it cannot."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

from livetalk_core.evaluate.talkbench.clips import BenchClip
from livetalk_core.media.video import open_video

Item = TypeVar("Item")


class NotMeasured(Exception):
    """A video, or a machine, on which a measure gives no number. The text says why, and what would help."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A video to measure, and the clip that it was made from."""

    video: Path
    clip: BenchClip


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one measure found in one video."""

    numbers: dict[str, float]
    weight: float = 1.0
    """How much this video counts in the mean over a set."""
    series: dict[str, list[float]] = field(default_factory=dict)
    """Means of successive windows of `window_s` seconds."""
    window_s: float = 1.0
    notes: tuple[str, ...] = ()


class Measure(Protocol):
    """One measure. Its numbers are kept under `name`; they are found again only if `version` is equal."""

    name: str
    version: str
    """Settings and weights that change the numbers."""

    def measure(self, shown: Shown) -> Measured:
        """Raises NotMeasured, or ValueError for a video that cannot be decoded."""
        ...


class WindowMeans:
    """Means of successive windows of `length` values; values left over at the end are dropped, so memory grows by windows only."""

    def __init__(self, length: int) -> None:
        self.length, self.means = max(1, length), []
        self._sum, self._count = 0.0, 0

    def add(self, value: float) -> None:
        self._sum, self._count = self._sum + value, self._count + 1
        if self._count == self.length:
            self.means.append(self._sum / self.length)
            self._sum, self._count = 0.0, 0


def frames_in_a_second(path: Path) -> int:
    """The video's own rate, rounded; 25 if the file does not say."""
    with open_video(path) as container:
        return round(container.streams.video[0].average_rate or 25)


def in_batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Successive lists of `size` items; the last one may be shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
