"""What a live session says of itself: delay, speed, frames that came late or were dropped."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from livetalk_core.serve.timeline import FPS, Shot
from livetalk_core.serve.work import Work

REMEMBERED = 200
"""Utterances whose delay is remembered."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Counts since the session's start, and times of the last chunks and utterances."""

    shown_frames: int
    late_frames: int
    """Frames shown twice because the next one was not ready."""
    held_frames: int
    """Frames shown twice before the session's first frame and after interruptions, until the next chunk was ready."""
    dropped_frames: int
    """Frames made but not shown, since speech began or an interruption came."""
    abandoned_chunks: int
    speaking: bool
    utterances: int
    delay_s: float | None
    """From the arrival of the sound of an utterance's first frame to that frame; None before the first utterance."""
    median_delay_s: float | None
    chunk_s: float | None
    rtf: float | None
    """Real-time factor: seconds of work for a second of video. Above 1, frames come late."""
    waiting_frames: int
    waiting_speech_s: float


class Tally:
    """Counts of one session, kept under its lock."""

    def __init__(self) -> None:
        self.shown_frames = self.late_frames = self.held_frames = self.dropped_frames = self.abandoned_chunks = 0
        self.utterances = 0
        self.excused, self.speaking = True, False
        self.delays: deque[float] = deque(maxlen=REMEMBERED)

    def left(self, shot: Shot) -> None:
        """A frame was shown."""
        self.shown_frames += 1
        if shot.held:
            self.held_frames += self.excused
            self.late_frames += not self.excused
            return
        self.excused = False
        if shot.speaking and not self.speaking:
            self.delays.append(shot.delay_s)
            self.utterances += 1
        self.speaking = shot.speaking

    def interrupted(self, num_dropped: int) -> None:
        self.dropped_frames += num_dropped
        self.excused, self.speaking = True, False

    def figures(self, work: Work, new_frames: int, waiting_frames: int, waiting_speech_s: float) -> Figures:
        chunk_s = work.chunk_s if work.taken else None
        return Figures(
            shown_frames=self.shown_frames,
            late_frames=self.late_frames,
            held_frames=self.held_frames,
            dropped_frames=self.dropped_frames,
            abandoned_chunks=self.abandoned_chunks,
            speaking=self.speaking,
            utterances=self.utterances,
            delay_s=self.delays[-1] if self.delays else None,
            median_delay_s=sorted(self.delays)[len(self.delays) // 2] if self.delays else None,
            chunk_s=chunk_s,
            rtf=None if chunk_s is None else chunk_s / (new_frames / FPS),
            waiting_frames=waiting_frames,
            waiting_speech_s=waiting_speech_s,
        )
