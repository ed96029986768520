"""A live session: one avatar that speaks when sound comes, idles when none does, and can be interrupted.

Two sides share it. A thread of the session makes chunks (`run`); the session's clock takes a frame every 40 ms (`tick`). What is made next
is decided from three facts: the frames that wait, the speech that waits, and how long chunks took so far.

- Speech for a whole chunk is there, or will be within a step: an idle chunk in the making is abandoned at its next step, and idle frames
  that would only delay the speech are dropped. The stream then goes on from the last frames that will have been shown.
- Few frames wait: an idle chunk is made, of silence; or what there is of an utterance, with silence after it.
- An interruption drops waiting speech and waiting frames; the next chunk is idle, from the last frame shown, so the mouth closes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from livetalk_core.engine.engine import Engine
from livetalk_core.pool.pool import Pool
from livetalk_core.serve.figures import Figures, Tally
from livetalk_core.serve.speech import Speech
from livetalk_core.serve.timeline import Made, Shot, Timeline
from livetalk_core.serve.work import Work
from livetalk_core.types import AvatarStream, Chunk, Reference, Shown, StreamSettings

SPARE_S = 0.2
"""Idle video kept before speech, beyond what making its chunk takes. Sound that comes in real time may then be late by the difference
to MARGIN_S without a gap in the speech."""
MARGIN_S = 0.08
"""When so little more waits than making a chunk takes, the next chunk is begun, complete sound or not."""
SHOWS_BEFORE = "euler_noised"
"""Sampler of the models whose condition shows the chunk before."""


class Abandoned(Exception):
    """The chunk in the making is not wanted any more."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """A chunk to be made."""

    samples_N: torch.Tensor
    heard_at: list[float]
    """For each frame, when its sound came; UNHEARD where it idles."""
    shown: Shown | None
    """What the new stream goes on from, if the old one does not fit any more."""
    anew: bool
    round: int
    """How many interruptions there had been."""

    @property
    def idle(self) -> bool:
        return all(np.isnan(self.heard_at))


class LiveSession:
    """One avatar on an engine in this process, or in a pool. All methods may be called from any thread.

    `speech_s`: seconds of speech that may wait. `now`: seconds of a clock that never goes back. `on_chunk` is told the seconds
    that each chunk took.
    """

    def __init__(
        self,
        engine: Engine | Pool,
        reference: Reference,
        settings: StreamSettings = StreamSettings(),  # noqa: B008 (frozen)
        speech_s: float = 600.0,
        now: Callable[[], float] = time.monotonic,
        on_chunk: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self.engine, self.reference, self.settings, self.now, self.on_chunk = engine, reference, settings, now, on_chunk
        if engine.preset.sampler == SHOWS_BEFORE:
            raise ValueError(
                f"model {engine.preset.name} makes no live video: its condition shows the chunk before, so it cannot go on from "
                "other frames; use InfiniteTalk (--kind infinitetalk_4step) or SoulX-FlashTalk"
            )
        height, width = reference.pixels_CHW.shape[1:]
        self.plan = engine.plan(width, height)
        self.timeline, self.speech, self.work, self.tally = (
            Timeline(first_frame(reference), self.plan.motion_frames),
            Speech(speech_s),
            Work(),
            Tally(),
        )
        self.changed = threading.Condition()
        self.stream: AvatarStream | None = None
        self.stale = True
        """Whether the stream does not end where the timeline does, or has another picture, prompt or seed."""
        self.making: Order | None = None
        self.round = self.num_streams = 0
        self.closed, self.failure = False, None
        self.thread = threading.Thread(target=self.run, name="livetalk-session", daemon=True)

    def start(self) -> LiveSession:
        """Begin to make video."""
        self.thread.start()
        return self

    def say(self, samples_N: np.ndarray) -> None:
        """Speech, float32 mono at 16 kHz in [-1, 1], blocks of any length. ValueError if too much would wait."""
        with self.changed:
            self.speech.put(samples_N, self.now())
            self.changed.notify_all()

    def end_speech(self) -> None:
        """The utterance is complete. Without this, it counts as complete when no sound has come for 0.3 s."""
        with self.changed:
            self.speech.end()
            self.changed.notify_all()

    def interrupt(self) -> None:
        """Drop waiting speech and frames. The mouth closes with the next chunk, and the session goes on. Idle video goes on as it is."""
        with self.changed:
            if not self.has_speech:
                return
            self.round += 1
            self.stale = True
            self.speech.clear()
            self.tally.interrupted(self.timeline.clear())
            self.changed.notify_all()

    @property
    def has_speech(self) -> bool:
        """Whether speech waits, is being made, or is shown."""
        making = self.making
        being_made = making is not None and making.round == self.round and not making.idle
        return bool(self.speech.num_samples) or being_made or self.tally.speaking or self.timeline.has_speech

    def change(self, reference: Reference | None = None, seed: int | None = None) -> None:
        """Another prompt (in a new reference of the same picture size) or seed, from the next chunk on."""
        with self.changed:
            if reference is not None and reference.pixels_CHW.shape != self.reference.pixels_CHW.shape:
                raise ValueError("the new picture has another size; open a new session for it")
            self.reference = reference or self.reference
            self.settings = self.settings if seed is None else replace(self.settings, seed=seed)
            self.stale = True

    def tick(self) -> Shot:
        """The frame that is due, with its sound. Call it every 40 ms. Raises what ended the session."""
        with self.changed:
            if self.failure is not None:
                raise self.failure
            shot = self.timeline.take(self.now())
            self.tally.left(shot)
            self.changed.notify_all()
            return shot

    def figures(self) -> Figures:
        """How the session is doing."""
        with self.changed:
            waiting = {"waiting_frames": len(self.timeline.waiting), "waiting_speech_s": self.speech.num_samples / self.plan.sample_rate}
            return self.tally.figures(self.work, self.plan.new_frames, **waiting)

    def close(self) -> None:
        """End the session. A chunk in the making ends at its next step, and is waited for."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()
        if self.thread.ident is not None:
            self.thread.join()

    def run(self) -> None:
        """Make chunks until the session is closed, or fails."""
        try:
            while self.make_next():
                pass
        except Exception as error:
            with self.changed:
                self.failure = error
        finally:
            self.drop_stream()

    def make_next(self) -> bool:
        """Wait until a chunk is due and make it; False once the session is closed."""
        with self.changed:
            while not self.closed and not self.is_due():
                self.changed.wait()
            if self.closed:
                return False
            self.making = self.order()
        try:
            self.make(self.making)
        except Abandoned:
            self.tally.abandoned_chunks += 1
            self.stale = True
        finally:
            self.making = None
        return True

    def is_due(self) -> bool:
        """Whether to begin a chunk now. An idle chunk is begun so early that it can be abandoned and speech made in its place."""
        spare_s = MARGIN_S if self.timeline.ends_speaking else MARGIN_S + self.work.needed_s
        return self.can_speak() or len(self.timeline.waiting) <= self.work.frames_with(spare_s) and not self.will_speak()

    def can_speak(self) -> bool:
        """Whether there is sound for a chunk of speech, and room for its frames: more than two chunks ahead are not made."""
        if self.timeline.ends_speaking and len(self.timeline.waiting) > self.plan.new_frames + self.work.frames_with(SPARE_S):
            return False
        enough = self.speech.num_samples >= self.plan.new_samples
        return enough or self.speech.num_samples > 0 and self.speech.is_over(self.now())

    def will_speak(self) -> bool:
        """Whether speech can be made before one more step of an idle chunk would end."""
        if self.timeline.ends_speaking or self.speech.is_over(self.now()):
            return False
        step_s = self.work.step_s(self.settings.steps or self.engine.preset.steps)
        return self.speech.complete_at(self.plan.new_samples) - self.now() <= step_s

    def order(self) -> Order:
        """Decide what the next chunk is, and take its sound."""
        speaks = self.can_speak() or self.timeline.ends_speaking and self.speech.num_samples > 0
        if speaks:
            cut = self.timeline.cut_idle(self.work.frames_with(SPARE_S))
            self.tally.dropped_frames += cut
            self.stale = self.stale or cut > 0
        samples_N, heard_at = self.speech.take(self.plan.new_samples) if speaks else silence(self.plan.new_frames, self.plan.new_samples)
        return Order(
            samples_N=torch.from_numpy(samples_N),
            heard_at=heard_at,
            shown=self.timeline.end() if self.stale else None,
            anew=self.stale,
            round=self.round,
        )

    def make(self, order: Order) -> None:
        """Make a chunk, and let its frames wait as they come."""
        start = self.now()
        if order.anew or self.stream is None:
            self.open_stream(order.shown)
        pieces, count = [], 0
        for piece in self.stream.push(order.samples_N):
            frames = [
                Made(frame_HWC=frame_HWC, samples_N=samples_N, heard_at=heard_at)
                for frame_HWC, samples_N, heard_at in zip(*parts_of(piece), order.heard_at[count:], strict=False)
            ]
            del piece  # its frames may lie in memory that the pool wants back
            count += len(frames)
            pieces.append((self.now() - start, len(frames)))
            self.add(order, frames)
        self.work.made(pieces)
        self.on_chunk(pieces[-1][0])

    def add(self, order: Order, frames: list[Made]) -> None:
        with self.changed:
            if order.round != self.round:
                raise Abandoned
            self.timeline.waiting.extend(frames)
            self.changed.notify_all()

    def open_stream(self, shown: Shown | None) -> None:
        """A stream that goes on from what was shown, with noise of its own."""
        self.drop_stream()
        with self.changed:
            reference, settings, self.stale = self.reference, self.settings, False
        settings = replace(settings, seed=(settings.seed + self.num_streams) % 2**63)
        self.num_streams += 1
        self.stream = self.engine.open(reference, settings, 1, self.check, start=shown)

    def drop_stream(self) -> None:
        if self.stream is not None:
            self.stream.close()
            self.stream = None

    def check(self, step: int, steps: int) -> None:
        """Called between the steps of a chunk in the making: stops one that is not wanted any more."""
        order = self.making
        with self.changed:
            if self.closed or order is None or order.round != self.round or order.idle and (self.can_speak() or self.will_speak()):
                raise Abandoned


def parts_of(piece: Chunk) -> tuple[np.ndarray, np.ndarray]:
    """Frames [T, H, W, 3], in memory of their own, and the sound [T, 640] of each."""
    return piece.frames_THWC.numpy().copy(), piece.samples.numpy().reshape(len(piece.frames_THWC), -1).copy()


def first_frame(reference: Reference) -> np.ndarray:
    """The reference's picture [H, W, 3] uint8."""
    return ((reference.pixels_CHW.float().cpu() + 1) * 127.5).clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def silence(num_frames: int, num_samples: int) -> tuple[np.ndarray, list[float]]:
    """An idle chunk's sound, and that none of it was heard."""
    return np.zeros(num_samples, np.float32), [float("nan")] * num_frames
