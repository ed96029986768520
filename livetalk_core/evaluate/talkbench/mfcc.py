"""Mel-frequency cepstral coefficients as SyncNet was trained with them: those of python_speech_features with its defaults.

Axes: N samples, F frames of 25 ms every 10 ms, C 13 coefficients.
"""

from __future__ import annotations

import math

import numpy as np

RATE, WINDOW, HOP, FFT = 16000, 400, 160, 512
FILTERS, COEFFICIENTS, LIFTER, EMPHASIS = 26, 13, 22, 0.97
BLOCK = 3000
"""Frames computed at a time, so that memory does not grow with the sound."""


def mfcc(samples_N: np.ndarray) -> np.ndarray:
    """16-bit samples at 16 kHz -> [F, 13] float32; coefficient 0 is the frame's log energy. The last frame is filled with zeros."""
    count = 1 if len(samples_N) <= WINDOW else 1 + math.ceil((len(samples_N) - WINDOW) / HOP)
    blocks = [block_mfcc(samples_N, first, min(BLOCK, count - first)) for first in range(0, count, BLOCK)]
    return np.concatenate(blocks).astype(np.float32)


def block_mfcc(samples_N: np.ndarray, first: int, count: int) -> np.ndarray:
    """Frames `first` to `first + count` - 1."""
    start, length = first * HOP, (count - 1) * HOP + WINDOW
    piece = samples_N[start : start + length].astype(np.float64)
    before = np.concatenate([[samples_N[start - 1] if start else 0.0], piece[:-1]])
    emphasized = np.pad(piece - EMPHASIS * before, (0, length - len(piece)))
    frames = np.lib.stride_tricks.sliding_window_view(emphasized, WINDOW)[::HOP]
    power = np.abs(np.fft.rfft(frames, FFT)) ** 2 / FFT
    smallest = np.finfo(float).eps
    energy, mel = power.sum(1), power @ filter_bank().T
    cepstra = np.log(np.where(mel == 0, smallest, mel)) @ cosines().T
    cepstra *= 1 + LIFTER / 2 * np.sin(np.pi * np.arange(COEFFICIENTS) / LIFTER)
    cepstra[:, 0] = np.log(np.where(energy == 0, smallest, energy))
    return cepstra


def filter_bank() -> np.ndarray:
    """[26, 257]: triangles evenly spaced in mel, their corners rounded down to FFT bins."""
    mel = np.linspace(0, 2595 * np.log10(1 + RATE / 2 / 700), FILTERS + 2)
    corners = np.floor((FFT + 1) * 700 * (10 ** (mel / 2595) - 1) / RATE)
    bins = np.arange(FFT // 2 + 1)
    left, middle, right = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        up, down = (bins - left) / (middle - left), (right - bins) / (right - middle)
    return np.where((bins >= left) & (bins < middle), up, np.where((bins >= middle) & (bins < right), down, 0.0))


def cosines() -> np.ndarray:
    """[13, 26]: the first rows of the orthonormal DCT-II."""
    rows, columns = np.arange(COEFFICIENTS)[:, None], np.arange(FILTERS)
    matrix = np.cos(np.pi * rows * (2 * columns + 1) / (2 * FILTERS)) * np.sqrt(2 / FILTERS)
    matrix[0] /= np.sqrt(2)
    return matrix
