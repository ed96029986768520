"""Finds the watermark in frames, at any scale and offset. Axes: H W size, K waves, Y X frequencies.

The frames' small detail is averaged. For each scale that is tried, the waves of the pattern are measured in it, and only their phases are
used. Without a mark they are as good as random against the key's phases: the sum of K cosines then exceeds z sqrt(K / 2) with a
probability below exp(-z^2 / 2), whatever the picture is. The probability of a false find is that, times all scales and offsets tried.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from livetalk_core.provenance.pattern import BYTES, TILE, WORD, code, waves
from livetalk_core.provenance.watermark import LUMA

SCALES = 1.005 ** np.array(sorted(range(-184, 140), key=abs)[1:])
"""Sizes of the video against the marked one that are tried, 0.4 to 2, half a percent apart, the likeliest first."""
SURE = 16.0
"""An agreement above this ends the search: chance gives it less than once in 10^48 videos."""
NEAR = (0.995, 0.9975, 1.0, 1.0025, 1.005)
"""Around the best scale, height and width are tried apart."""
FALSE_FIND = 1e-4
"""A mark is said to be there when a false find is at most this likely."""
AROUND = 16
"""Pixels, the side of the squares whose mean and contrast detail is taken from."""
CONTRAST_FLOOR = 2.0
"""Levels; below this, detail is compression noise and is not made louder."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was found of a mark."""

    mark_id: int
    scale: float
    """Size of this video against the marked one."""
    false_find: float
    """Upper bound of the probability that a video without a mark looks like this."""
    wrong_id: float
    """Probability that a mark has another id than this."""

    @property
    def there(self) -> bool:
        return self.false_find <= FALSE_FIND

    @property
    def readable(self) -> bool:
        return self.there and self.wrong_id <= FALSE_FIND


def find_mark(frames: Iterable[np.ndarray]) -> Found:
    """Look for a mark in uint8 RGB frames [H, W, 3] of one size. ValueError without frames."""
    detail_HW = average_detail(frames)
    best = search(detail_HW)
    tried = (1 + len(SCALES) + len(NEAR) ** 2) * TILE * TILE
    mark_id, wrong_id = read_id(best)
    return Found(
        mark_id=mark_id,
        scale=math.sqrt(best.scale_down * best.scale_right),
        false_find=min(1.0, tried * math.exp(-(best.z**2) / 2)),
        wrong_id=wrong_id,
    )


def search(detail_HW: Tensor) -> Measured:
    """The scale at which the waves agree best; the search ends at one that leaves no doubt."""
    best = measure(detail_HW, 1.0, 1.0)
    for scale in SCALES:
        if best.z > SURE:
            break
        best = max(best, measure(detail_HW, scale, scale), key=lambda one: one.z)
    around = [measure(detail_HW, best.scale_down * down, best.scale_right * right) for down in NEAR for right in NEAR]
    return max(best, *around, key=lambda one: one.z)


def average_detail(frames: Iterable[np.ndarray]) -> Tensor:
    """The frames' mean small detail [H, W]: luma less its surroundings' mean, by their contrast."""
    total, count = None, 0
    for frame_HWC in frames:
        luma_HW = torch.from_numpy(np.ascontiguousarray(frame_HWC)).float() @ torch.tensor(LUMA)
        mean, square = (blur(each) for each in (luma_HW, luma_HW.square()))
        detail = (luma_HW - mean) / ((square - mean.square()).clamp(min=0).sqrt() + CONTRAST_FLOOR)
        total = detail if total is None else total + detail
        count += 1
    if total is None:
        raise ValueError("0 frames were given; a watermark is looked for in at least one")
    return total / count


def blur(values_HW: Tensor) -> Tensor:
    """The mean of the square around each pixel, as two passes of one direction each."""
    side = AROUND + 1
    rows = F.avg_pool2d(values_HW[None, None], (side, 1), 1, (side // 2, 0), count_include_pad=False)
    return F.avg_pool2d(rows, (1, side), 1, (0, side // 2), count_include_pad=False)[0, 0]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The waves at one scale, turned to the most likely offset."""

    scale_down: float
    scale_right: float
    z: float
    """How far the waves of every mark agree with the key: a standard normal deviate without a mark."""
    agreement_K: np.ndarray
    """cos of the angle between each wave and its phase in the key."""


def measure(detail_HW: Tensor, scale_down: float, scale_right: float) -> Measured:
    of = waves()
    spectrum_YX = transform(detail_HW, scale_down, scale_right)
    wave_K = spectrum_YX[of.down_K, of.right_K]
    turned_K = wave_K / np.maximum(np.abs(wave_K), 1e-12) * of.phase_K.conj()
    sync = slice(0, of.num_sync)
    surface = np.zeros((TILE, TILE), complex)
    surface[of.down_K[sync], of.right_K[sync]] = turned_K[sync]
    surface = np.fft.ifft2(surface).real * TILE * TILE
    down, right = np.unravel_index(surface.argmax(), surface.shape)
    agreement_K = (turned_K * np.exp(2j * np.pi * (of.down_K * down + of.right_K * right) / TILE)).real
    return Measured(
        scale_down=scale_down, scale_right=scale_right, z=float(surface.max()) / math.sqrt(of.num_sync / 2), agreement_K=agreement_K
    )


def transform(detail_HW: Tensor, scale_down: float, scale_right: float) -> np.ndarray:
    """The Fourier transform at the waves' frequencies, as if the picture had its marked size: [TILE, TILE], filled in the band."""
    of = waves()
    rows, columns = np.unique(of.down_K), np.unique(of.right_K)
    height, width = detail_HW.shape
    down_YH = kernel(rows, height, scale_down)
    right_WX = kernel(columns, width, scale_right).T
    half_HX = torch.complex(detail_HW @ right_WX.real, detail_HW @ right_WX.imag)  # the detail is real: half the work of a complex product
    found = torch.zeros(TILE, TILE, dtype=torch.complex64)
    found[rows[:, None], columns[None]] = down_YH @ half_HX
    return found.numpy()


def kernel(periods: np.ndarray, size: int, scale: float) -> Tensor:
    """exp(-2 pi i k x / (TILE scale)) for each number of periods and pixel, at the pixels' centers."""
    pixels = (np.arange(size) + 0.5) / scale - 0.5
    return torch.from_numpy(np.exp(-2j * np.pi * np.outer(periods, pixels) / TILE).astype(np.complex64))


def read_id(measured: Measured) -> tuple[int, float]:
    """The most likely id, and the probability that it is another one, if there is a mark.

    The strength c of the mark is the mean agreement of the waves that are in every mark. Of a word that was sent, the 128 agreements add up
    to 128 c, and of any other to 0, both with a variance of 64; so the logarithms of two words' odds differ by 2 c times their sums.
    """
    strength = measured.z / math.sqrt(2 * waves().num_sync)
    words = measured.agreement_K[-BYTES * WORD :].reshape(BYTES, WORD) @ code().T
    sums = np.concatenate([words, -words], axis=1)
    best = sums.max(axis=1, keepdims=True)
    right = np.prod(1 / np.exp(2 * strength * (sums - best)).sum(axis=1))
    return int.from_bytes(bytes(sums.argmax(axis=1).tolist()), "big"), float(1 - right)
