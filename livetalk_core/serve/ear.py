"""What a live client's binary messages are: a microphone's sound, speech, or a sound file, at any rate."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from livetalk_core.media.audio import LiveResampler
from livetalk_core.serve.inbox import read_samples
from livetalk_core.serve.session import LiveSession
from livetalk_core.serve.voice import VoiceGate

RATES = range(8000, 192001)
RATE = 16000


class Ear:
    """Turns one client's sound into its session's speech. `most_s`: seconds that one message may hold."""

    def __init__(self, session: LiveSession, most_s: float) -> None:
        self.session, self.most_s = session, most_s
        self.gate: VoiceGate | None = None
        self.resample: Callable[[np.ndarray], np.ndarray] = np.asarray

    def listen(self, kind: str, rate: object) -> None:
        """What the next sound is: "speech", or a "microphone", of which noise is dropped. ValueError for a rate that no sound has."""
        if type(rate) is not int or rate not in RATES:
            raise ValueError(f"rate={rate!r} must be {RATES[0]} to {RATES[-1]} samples a second")
        self.gate = VoiceGate() if kind == "microphone" else None
        self.resample = np.asarray if rate == RATE else LiveResampler(rate, RATE).push

    def hear(self, data: bytes) -> int:
        """One message of sound; how many samples at 16 kHz it had."""
        samples_N, ended = self.resample(read_samples(data, self.most_s)), False
        num_samples = len(samples_N)
        if self.gate is not None:
            samples_N, ended = self.gate.push(samples_N)
        if len(samples_N):
            self.session.say(samples_N)
        if ended:
            self.session.end_speech()
        return num_samples

    def say(self, samples_N: np.ndarray) -> None:
        """Speech that is complete."""
        self.session.say(samples_N)
        self.session.end_speech()
