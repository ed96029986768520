"""Loudness of a stream's sound before the audio encoder: as published for speech; other sound is not raised to that level.

The published system measures loudness in each window alone. In a window without speech, that raises a quiet room's noise by 40 dB.
Axes: N samples, F pieces of 20 ms.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Measure = Callable[[Tensor], float]
"""Samples [N] -> the gain that brings them to the encoder's loudness; 1 if there is nothing to measure."""

PIECE_S = 0.02
SYLLABLE_DB, SYLLABLES, SYLLABLES_S = 12.0, 3, 2.0
"""Speech rises and falls by SYLLABLE_DB at least SYLLABLES times in SYLLABLES_S. Noise, hum and held tones do not; a slam does once."""
SOFTEST_DB = 25.0
"""A window this much softer than the median of the stream's speech can still be speech."""
STEADY_S, STEADY_DB = 0.5, 8.0
"""Sound whose level stays within STEADY_DB for STEADY_S is steady."""
NOISE_DB, HEARD_DB = -35.0, -55.0
"""Steady sound with an RMS after gain between HEARD_DB and NOISE_DB is noise that would move the mouth; speech is near -23."""
NOISE_GAIN = 0.03
REMEMBERED = 256
"""Windows whose gains are remembered: about five minutes."""


class Leveler:
    """Levels one speaker's stream. Give it each window once, in order; it remembers the gains of windows with speech."""

    def __init__(self, measure: Measure) -> None:
        self.measure = measure
        self.needed: deque[float] = deque(maxlen=REMEMBERED)

    @property
    def usual(self) -> float | None:
        """Median gain of the windows with speech so far; None before the first."""
        return statistics.median(self.needed) if self.needed else None

    def level(self, samples_N: Tensor, rate: int = 16000) -> Tensor:
        """A window's samples [N] on the CPU, leveled for the encoder, float32. A window with speech and no noise is as published."""
        levels_F = piece_levels(samples_N, rate)
        gain = self.next_gain(self.measure(samples_N), levels_F)
        scaled_N = samples_N.numpy().astype(np.float64) * gain
        quiet_F = noise_pieces(levels_F, rms_levels(scaled_N, rate))
        if quiet_F.any():
            scaled_N *= piece_gains(quiet_F, len(scaled_N), rate)
        return torch.from_numpy(scaled_N.astype(np.float32))

    def next_gain(self, own: float, levels_F: np.ndarray) -> float:
        """The window's own gain if it has speech; else at most the usual gain of speech, and at most 1 before the first speech."""
        usual = self.usual
        if speaks(levels_F) and (usual is None or own <= usual * 10 ** (SOFTEST_DB / 20)):
            self.needed.append(own)
            return own
        return min(own, max(1.0, usual or 1.0))


def piece_levels(samples_N: Tensor, rate: int) -> np.ndarray:
    """Level [F] of each piece in decibels, of the differences of samples, so that rumble hides no syllables. Digital silence is -90."""
    differences_N = np.diff(samples_N.numpy().astype(np.float64), prepend=0.0)
    return rms_levels(differences_N, rate)


def rms_levels(samples_N: np.ndarray, rate: int) -> np.ndarray:
    """RMS [F] of each whole piece in decibels of full scale, -90 or more."""
    size = round(PIECE_S * rate)
    pieces_FN = samples_N[: len(samples_N) // size * size].reshape(-1, size)
    return 10 * np.log10(np.square(pieces_FN).mean(axis=1) + 1e-9)


def speaks(levels_F: np.ndarray) -> bool:
    """Whether the level rises and falls as in speech: enough syllables close together, at any loudness."""
    ends = syllables(levels_F)
    return any(last - first <= SYLLABLES_S / PIECE_S for first, last in zip(ends, ends[SYLLABLES - 1 :], strict=False))


def syllables(levels_F: np.ndarray) -> list[int]:
    """Indices of the pieces at which the level has fallen after a rise."""
    ends, turn, rising = [], levels_F[0] if len(levels_F) else 0.0, False
    for piece, level in enumerate(levels_F.tolist()):
        turn = max(turn, level) if rising else min(turn, level)
        if rising and level <= turn - SYLLABLE_DB:
            ends.append(piece)
        elif rising or level < turn + SYLLABLE_DB:
            continue
        turn, rising = level, not rising
    return ends


def noise_pieces(levels_F: np.ndarray, heard_F: np.ndarray) -> np.ndarray:
    """Whether each piece [F] is steady noise: part of a stretch of even level, audible but well below speech."""
    length = round(STEADY_S / PIECE_S)
    noise_F = np.zeros(len(levels_F), bool)
    if len(levels_F) < length:
        return noise_F
    stretches = np.lib.stride_tricks.sliding_window_view(levels_F, length)
    power = np.lib.stride_tricks.sliding_window_view(10 ** (heard_F / 10), length).mean(axis=1)
    even = np.ptp(stretches, axis=1) <= STEADY_DB
    for first in np.flatnonzero(even & (power < 10 ** (NOISE_DB / 10)) & (power > 10 ** (HEARD_DB / 10))):
        noise_F[first : first + length] = True
    return noise_F


def piece_gains(quiet_F: np.ndarray, num_samples: int, rate: int) -> np.ndarray:
    """A gain for each sample [N]: NOISE_GAIN in the middle of quiet pieces, 1 in the middle of others, linear in between."""
    size = round(PIECE_S * rate)
    middles_F = (np.arange(len(quiet_F)) + 0.5) * size
    return np.interp(np.arange(num_samples), middles_F, np.where(quiet_F, NOISE_GAIN, 1.0))
