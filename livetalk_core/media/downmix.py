"""Any number of channels -> the mono sound that a listener hears. Axes: C channels, N samples, H hops of 20 ms."""

from __future__ import annotations

import functools

import av
import numpy as np
from av.audio.frame import AudioFrame

GUESSED = {2: "stereo", 6: "5.1", 8: "7.1"}
"""What so many channels are when nothing says it."""
HOP_S, MEMORY_HOPS = 0.02, 20
"""The two sides are compared every hop, over about 0.4 s."""
CANCELS, HOLDS = 4.0, 2.0
"""How many times the power of half the difference must be that of half the sum for the sides to cancel; and, once they do, to go on."""


class Downmix:
    """Sides as FFmpeg mixes them, then their mean. Where the sides cancel each other the left one alone is heard: a listener hears both.

    Sound of one channel passes at once; of more, what does not fill a hop waits for the next `push` or `flush`.
    """

    def __init__(self, rate: int) -> None:
        self._hop = max(1, round(HOP_S * rate))
        self._waiting_2N = np.zeros((2, 0), np.float32)
        self._sum, self._difference = 0.0, 0.0
        self._share = 0.0
        self._sided = False

    def push(self, block_CN: np.ndarray, layout: str | None = None) -> np.ndarray:
        """[C, N] float32 in `layout`, in FFmpeg's words -> the mono samples that are certain by now."""
        if len(block_CN) == 1 and not self._sided:
            return block_CN[0]
        self._sided = True
        self._waiting_2N = np.concatenate([self._waiting_2N, sides_of(block_CN, layout)], axis=1)
        return self._take(self._waiting_2N.shape[1] // self._hop * self._hop)

    def flush(self) -> np.ndarray:
        """The rest."""
        return self._take(self._waiting_2N.shape[1])

    def _take(self, count: int) -> np.ndarray:
        sides_2N, self._waiting_2N = np.split(self._waiting_2N, [count], axis=1)
        mean_N = sides_2N.mean(axis=0, dtype=np.float32)
        half_N = sides_2N[0] - mean_N
        shares = [self._share]
        for at in range(0, count, self._hop):
            self._compare(mean_N[at : at + self._hop], half_N[at : at + self._hop], shares)
        self._share = shares[-1]
        if count == 0 or not any(shares):
            return mean_N
        ramps = [np.linspace(a, b, self._hop, dtype=np.float32) for a, b in zip(shares, shares[1:], strict=False)]
        return mean_N + np.concatenate(ramps)[:count] * half_N

    def _compare(self, mean_N: np.ndarray, half_N: np.ndarray, shares: list[float]) -> None:
        """Add a hop's share of half the difference: 1 where the sides cancel, else 0. To a stream's first sound there is no ramp."""
        first = self._sum + self._difference == 0
        weight = 1.0 if first else 1 / MEMORY_HOPS
        self._sum += (float(np.square(mean_N).mean()) - self._sum) * weight
        self._difference += (float(np.square(half_N).mean()) - self._difference) * weight
        cancels = self._difference > (HOLDS if shares[-1] else CANCELS) * self._sum
        if first:
            shares[-1] = float(cancels)
        shares.append(float(cancels))


def sides_of(block_CN: np.ndarray, layout: str | None) -> np.ndarray:
    """Left and right [2, N], each a weighted mean of the channels."""
    if len(block_CN) == 1:
        return np.repeat(block_CN, 2, axis=0)
    if len(block_CN) == 2:
        return block_CN
    return side_weights(len(block_CN), layout or GUESSED.get(len(block_CN), "")) @ block_CN


@functools.cache
def side_weights(channels: int, layout: str) -> np.ndarray:
    """FFmpeg's weights [2, C] for stereo, each side's summing to 1; equal ones for channels whose places are not known."""
    equal = np.full((2, channels), 1 / channels, np.float32)
    if not layout or layout.endswith(" channels"):
        return equal
    try:
        frame = AudioFrame.from_ndarray(np.eye(channels, dtype=np.float32).reshape(1, -1), format="flt", layout=layout)
        frame.sample_rate = 48000
        (mixed,) = av.AudioResampler(format="flt", layout="stereo").resample(frame)
        weights_2C = mixed.to_ndarray().reshape(-1, 2).T
    except (ValueError, av.error.FFmpegError):
        return equal
    total = np.abs(weights_2C).sum(axis=1, keepdims=True)
    return (weights_2C / total).astype(np.float32) if weights_2C.shape == (2, channels) and total.all() else equal
