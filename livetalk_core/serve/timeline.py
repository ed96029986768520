"""What a live session shows: frames that wait, the one taken every 40 ms with its sound, and the end of what was taken.

Axes: H W size, C channels, T frames, N samples.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
import torch

from livetalk_core.types import Shown

FPS = 25
FRAME_SAMPLES = 640
HEARD_FRAMES = 200
"""Frames whose sound is kept, 8 s: what the audio encoder hears before a chunk."""
UNHEARD = math.nan
"""When the sound of an idle frame came."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """A finished frame [H, W, 3] uint8 and its sound [640]."""

    frame_HWC: np.ndarray
    samples_N: np.ndarray
    heard_at: float
    """When the last of its sound came, on the session's clock; UNHEARD for an idle frame."""

    @property
    def speaking(self) -> bool:
        return not math.isnan(self.heard_at)


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One frame and its sound as they leave. Frame and sound both begin at number / 25 s of one clock."""

    number: int
    frame_HWC: np.ndarray
    samples_N: np.ndarray
    speaking: bool
    held: bool
    """Whether this is the frame before once more, with silence, because the next one was not ready."""
    delay_s: float = UNHEARD
    """From the arrival of this frame's sound to now; UNHEARD for idle frames."""


class Timeline:
    """The frames of one session in their order. Memory does not grow. `first_HWC` is shown until the first frame is there.

    `motion_frames`: how many frames a stream needs to go on from them.
    """

    def __init__(self, first_HWC: np.ndarray, motion_frames: int) -> None:
        self.last_HWC, self.motion_frames, self.number = first_HWC, motion_frames, 0
        self.waiting: deque[Made] = deque()
        self.shown: deque[Made] = deque(maxlen=motion_frames)
        self.heard: deque[np.ndarray] = deque(maxlen=HEARD_FRAMES)

    @property
    def ends_speaking(self) -> bool:
        """Whether the last frame that waits belongs to speech."""
        return bool(self.waiting) and self.waiting[-1].speaking

    @property
    def has_speech(self) -> bool:
        """Whether any frame that waits belongs to speech."""
        return any(made.speaking for made in self.waiting)

    def take(self, now: float) -> Shot:
        """The next frame; the last one again, with silence, if none waits."""
        self.number += 1
        if not self.waiting:
            silence_N = np.zeros(FRAME_SAMPLES, np.float32)
            return Shot(number=self.number - 1, frame_HWC=self.last_HWC, samples_N=silence_N, speaking=False, held=True)
        made = self.waiting.popleft()
        self.shown.append(made)
        self.heard.append(made.samples_N)
        self.last_HWC = made.frame_HWC
        return Shot(
            number=self.number - 1, frame_HWC=made.frame_HWC, samples_N=made.samples_N, speaking=made.speaking, held=False,
            delay_s=now - made.heard_at,
        )  # fmt: skip

    def cut_idle(self, keep: int) -> int:
        """Drop idle frames from the end until `keep` frames wait, but none before the last frame of speech; how many were dropped."""
        before = len(self.waiting)
        while len(self.waiting) > keep and not self.waiting[-1].speaking:
            self.waiting.pop()
        return before - len(self.waiting)

    def clear(self) -> int:
        """Drop all that waits; how many frames that were."""
        dropped = len(self.waiting)
        self.waiting.clear()
        return dropped

    def end(self) -> Shown | None:
        """The last frames, and their sound, once all that waits has been shown; None before there are enough."""
        frames = [*self.shown, *self.waiting][-self.motion_frames :]
        if len(frames) < self.motion_frames:
            return None
        sounds = [*self.heard, *(made.samples_N for made in self.waiting)][-HEARD_FRAMES:]
        return Shown(
            frames_THWC=torch.from_numpy(np.stack([made.frame_HWC for made in frames])),
            samples_N=torch.from_numpy(np.concatenate(sounds)),
            ahead_s=len(self.waiting) / FPS,
        )
