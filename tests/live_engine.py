"""A live session against a clock of the test: an engine whose frames count up, and sound that comes when the test says."""

from __future__ import annotations

import heapq
import itertools

import numpy as np
import torch

from livetalk_core.presets import tiny
from livetalk_core.serve.session import LiveSession
from livetalk_core.types import Chunk, Reference, Shown, StreamSettings

FRAME_S = 0.04


class CountingEngine:
    """A frame's first two values are its number, counted on from the last frame shown; the third says whether it has sound."""

    preset = tiny()

    def __init__(self, work, step_s: float = 0.05) -> None:
        self.work, self.step_s, self.opened = work, step_s, []

    def plan(self, width, height):
        return self.preset.plan(width, height)

    def reference(self, pixels_CHW, prompt="none", on_step=None):
        empty = torch.zeros(1)
        return Reference(text_LD=empty, image_LD=empty, cond_CTHW=empty, first_CTHW=empty, pixels_CHW=pixels_CHW)

    def open(self, reference, settings, people=1, on_step=None, on_latents=None, start=None):
        self.opened.append((reference, settings, start))
        return CountingStream(self, on_step, start)


class CountingStream:
    def __init__(self, engine, on_step, start: Shown | None) -> None:
        self.engine, self.on_step = engine, on_step
        self.number = 0 if start is None else number_of(start.frames_THWC[-1].numpy()) + 1

    def push(self, samples_N):
        sound_TN = samples_N.view(-1, 640)
        for step in range(4):
            self.on_step(step, 4)
            self.engine.work(self.engine.step_s)
        for first, end in ((0, 4), (4, 16), (16, 28)):
            self.on_step(4, 4)
            self.engine.work(self.engine.step_s / 2)
            frames_THWC = torch.zeros(end - first, 32, 48, 3, dtype=torch.uint8)
            for k in range(end - first):
                frames_THWC[k, ..., 0], frames_THWC[k, ..., 1] = divmod(self.number, 256)
                frames_THWC[k, ..., 2] = 255 * bool(sound_TN[first + k].any())
                self.number += 1
            yield Chunk(index=0, first_frame=first, frames_THWC=frames_THWC, samples=sound_TN[first:end].flatten())

    def close(self):
        pass


def number_of(frame_HWC: np.ndarray) -> int:
    return 256 * int(frame_HWC[0, 0, 0]) + int(frame_HWC[0, 0, 1])


class Stage:
    """A session, its clock and its viewer. Time passes only by `until`, and by the work of the engine."""

    def __init__(self, step_s: float = 0.05) -> None:
        self.clock, self.shots, self.events, self.order = 0.0, [], [], itertools.count()
        self.engine = CountingEngine(self.pass_time, step_s)
        self.session = LiveSession(
            self.engine, self.engine.reference(torch.zeros(3, 32, 48)), StreamSettings(seed=7), now=lambda: self.clock
        )

    def at(self, seconds: float, act) -> None:
        heapq.heappush(self.events, (seconds, next(self.order), act))

    def speak_at(self, seconds: float, length_s: float, block_s: float = 0.1) -> np.ndarray:
        """Sound in real time, each block when its last sample has been spoken. Returns it all."""
        sound_N = np.linspace(0.1, 0.9, round(length_s * 16000), dtype=np.float32)
        blocks = np.split(sound_N, range(round(block_s * 16000), len(sound_N), round(block_s * 16000)))
        ends = np.cumsum([len(block_N) for block_N in blocks]) / 16000
        for block_N, end in zip(blocks, ends, strict=True):
            self.at(seconds + float(end), lambda block_N=block_N: self.session.say(block_N))
        return sound_N

    def pass_time(self, seconds: float) -> None:
        end = self.clock + seconds
        while (due := min(len(self.shots) * FRAME_S, self.events[0][0] if self.events else np.inf)) <= end:
            self.clock = max(self.clock, due)
            if self.events and self.events[0][0] <= due:
                heapq.heappop(self.events)[2]()
            else:
                self.shots.append(self.session.tick())
        self.clock = end

    def until(self, seconds: float) -> None:
        while self.clock < seconds:
            if self.session.is_due():
                self.session.make_next()
            else:
                self.pass_time(FRAME_S)

    def numbers(self) -> list[int]:
        """The numbers of the frames that were shown once they are made, without those held."""
        return [number_of(shot.frame_HWC) for shot in self.shots if not shot.held]

    def spoken(self) -> np.ndarray:
        """All sound that left with frames of speech."""
        return np.concatenate([np.zeros(0, np.float32)] + [shot.samples_N for shot in self.shots if shot.speaking])

    def first_speaking(self) -> float:
        return next(shot.number for shot in self.shots if shot.speaking) * FRAME_S
