"""How long a live session's chunks take, and what follows: how many frames must wait when one is begun."""

from __future__ import annotations

import math
from collections import deque

FPS = 25
REMEMBERED = 8
"""Chunks that are looked back on."""
UNKNOWN_S = 0.6
"""Taken as needed before the first chunk was made."""


class Work:
    """Times of the last chunks, in seconds."""

    def __init__(self) -> None:
        self.needed: deque[float] = deque(maxlen=REMEMBERED)
        self.taken: deque[float] = deque(maxlen=REMEMBERED)
        self.first: deque[float] = deque(maxlen=REMEMBERED)

    def made(self, pieces: list[tuple[float, int]]) -> None:
        """A whole chunk: for each piece, the seconds from the chunk's beginning to its end, and its frames."""
        needed_s, frames = 0.0, 0
        for seconds, count in pieces:
            needed_s, frames = max(needed_s, seconds - frames / FPS), frames + count
        self.needed.append(needed_s)
        self.taken.append(pieces[-1][0])
        self.first.append(pieces[0][0])

    @property
    def needed_s(self) -> float:
        """Video that must wait when a chunk is begun, or its frames come too late: the most of the last chunks."""
        return max(self.needed, default=UNKNOWN_S)

    def frames_with(self, spare_s: float) -> int:
        """The same in frames, with so much to spare."""
        return math.ceil((self.needed_s + spare_s) * FPS)

    def step_s(self, steps: int) -> float:
        """Mean time of a denoising step, taking the first piece's decode for one more; 0 before the first chunk."""
        return sum(self.first) / len(self.first) / (steps + 1) if self.first else 0.0

    @property
    def chunk_s(self) -> float:
        """Mean time of a whole chunk; NaN before the first."""
        return sum(self.taken) / len(self.taken) if self.taken else math.nan
