"""The watermark's pattern: an id of 32 bits as a noise-like tile, and the code that keeps the id readable when signs are lost.

The tile is a sum of waves, each with a whole number of periods in the tile and all of one strength. Some waves are the same in every mark:
they show that there is one, at which scale, and where its tiles begin. The others carry the id by their signs. Each of its 4 bytes is a
word of the first-order Reed-Muller code of length 128: two words differ in 64 or 128 signs, so 31 wrong ones are mended.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass

import numpy as np

TILE = 128
"""Pixels; the pattern repeats after so many in both directions."""
BAND = (0.03, 0.2)
"""Waves' lowest and highest frequency, periods a pixel: H.264 keeps these even at low quality."""
AXIS = 2
"""Waves with fewer periods a tile in one direction are left out: pictures are full of upright and level edges."""
KEY = b"livetalk watermark 1"
"""What the waves' phases are drawn from. It is public: the mark can be found, removed and forged by anybody who wants to."""
ID_BITS, BYTES, WORD = 32, 4, 128


@dataclass(frozen=True, kw_only=True)
class Waves:
    """All waves of the pattern: periods a tile to the right and down, and phases. The first `num_sync` are in every mark."""

    right_K: np.ndarray
    down_K: np.ndarray
    phase_K: np.ndarray
    """Unit complex numbers."""
    num_sync: int


@functools.cache
def waves() -> Waves:
    """Every wave in the band once, in an order drawn from the key."""
    periods = np.arange(-TILE // 2, TILE // 2)
    down, right = np.meshgrid(periods[periods >= 0], periods, indexing="ij")
    radius = np.hypot(down, right) / TILE
    inside = (radius >= BAND[0]) & (radius <= BAND[1]) & (np.abs(right) >= AXIS) & (down >= AXIS)
    down_K, right_K = down[inside], right[inside]
    drawn = np.frombuffer(hashlib.shake_256(KEY).digest(8 * len(down_K)), "<u4").reshape(2, -1) / 2**32
    order = np.argsort(drawn[0], kind="stable")
    phase_K = np.exp(2j * np.pi * drawn[1])
    return Waves(right_K=right_K[order], down_K=down_K[order], phase_K=phase_K, num_sync=len(order) - BYTES * WORD)


@functools.cache
def code() -> np.ndarray:
    """The first 128 words, [128, 128] of +-1: Sylvester's Hadamard matrix. The other 128 are their negatives."""
    words = np.ones((1, 1), np.int8)
    while len(words) < WORD:
        words = np.block([[words, words], [words, -words]])
    return words


def signs_of(mark_id: int) -> np.ndarray:
    """The signs [512] that carry an id."""
    assert 0 <= mark_id < 2**ID_BITS
    found = []
    for byte in mark_id.to_bytes(BYTES, "big"):
        word = code()[byte & 127]
        found.append(-word if byte & 128 else word)
    return np.concatenate(found)


def tile_of(mark_id: int) -> np.ndarray:
    """The pattern [TILE, TILE] float32, of mean 0 and mean square 1."""
    of = waves()
    signs_K = np.concatenate([np.ones(of.num_sync), signs_of(mark_id)])
    spectrum = np.zeros((TILE, TILE), complex)
    spectrum[of.down_K, of.right_K] = of.phase_K * signs_K
    tile = np.fft.ifft2(spectrum).real
    return (tile / tile.std()).astype(np.float32)
