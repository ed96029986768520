"""Speech that waits to be spoken: bounded, and each block with the time at which it came. N samples."""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from livetalk_core.serve.timeline import FRAME_SAMPLES, UNHEARD

SAMPLE_RATE = 16000
PAUSE_S = 0.3
"""When no more sound has come for so long, an utterance counts as over, whether its end was announced or not."""


class Speech:
    """float32 mono samples at 16 kHz in order. `most_s`: seconds that may wait."""

    def __init__(self, most_s: float) -> None:
        self.most_s = most_s
        self.blocks: deque[tuple[np.ndarray, float]] = deque()
        self.num_samples = 0
        self.last_at = 0.0
        self.announced_end = False

    def put(self, samples_N: np.ndarray, now: float) -> None:
        """Add sound. ValueError if more would wait than may, and for samples that are not numbers."""
        waiting_s = (self.num_samples + len(samples_N)) / SAMPLE_RATE
        if waiting_s > self.most_s:
            raise ValueError(f"{waiting_s:.0f} s of speech would wait; the most is {self.most_s:g} s, so send it later, or interrupt first")
        if not np.isfinite(samples_N).all():
            raise ValueError("speech contains NaN or infinity; decode the sound again")
        if len(samples_N):
            self.blocks.append((np.asarray(samples_N, np.float32), now))
            self.num_samples += len(samples_N)
            self.last_at, self.announced_end = now, False

    def end(self) -> None:
        """The utterance is complete: the rest of its chunk is silence."""
        self.announced_end = True

    def is_over(self, now: float) -> bool:
        """Whether nothing more belongs to what waits."""
        return self.announced_end or now - self.last_at > PAUSE_S

    def complete_at(self, num_samples: int) -> float:
        """When so many samples will wait if sound goes on coming in real time; infinity if none waits."""
        return self.last_at + (num_samples - self.num_samples) / SAMPLE_RATE if self.num_samples else math.inf

    def take(self, num_samples: int) -> tuple[np.ndarray, list[float]]:
        """So many samples [N], silence after the end, and for each frame when the last of its sound came."""
        samples_N, came_N = np.zeros(num_samples, np.float32), np.full(num_samples, UNHEARD)
        at = 0
        while self.blocks and at < num_samples:
            block_N, now = self.blocks.popleft()
            part_N, rest_N = np.split(block_N, [num_samples - at])
            samples_N[at : at + len(part_N)], came_N[at : at + len(part_N)] = part_N, now
            at += len(part_N)
            if len(rest_N):
                self.blocks.appendleft((rest_N, now))
        self.num_samples -= at
        return samples_N, [UNHEARD if np.isnan(frame_N[0]) else float(np.nanmax(frame_N)) for frame_N in came_N.reshape(-1, FRAME_SAMPLES)]

    def clear(self) -> None:
        self.blocks.clear()
        self.num_samples, self.announced_end = 0, False
