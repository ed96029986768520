"""Subject-C and BG-C: how alike a video's frames stay, by the features of a network (VBench).

Axes in names: N pictures in a batch, D features.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from livetalk_core.evaluate.talkbench.measure import Measured, NotMeasured, Shown, WindowMeans, frames_in_a_second, in_batches
from livetalk_core.media.video import read_frames

Encode = Callable[[Tensor], Tensor]
"""Pictures [N, 3, H, W] float32, 0 to 255 -> features [N, D]."""
BATCH = 16


class Consistency:
    """Mean over all frames but the first of the likeness to the frame before and to the first frame, each 0 to 1.

    `column` is the number's name. VBench weighs a set's videos by their frames, so `weight` is the number of pairs.
    """

    def __init__(self, name: str, column: str, encode: Encode, device: torch.device, version: str) -> None:
        self.name, self.column, self.encode, self.device, self.version = name, column, encode, device, version

    @torch.no_grad()
    def measure(self, shown: Shown) -> Measured:
        likeness, means = Likeness(), WindowMeans(frames_in_a_second(shown.video))
        to_first = WindowMeans(means.length)
        for frames in in_batches(read_frames(shown.video), BATCH):
            features_ND = self.encode(pictures_of(frames, self.device)).float()
            for value, first in likeness.add(features_ND):
                means.add(value)
                to_first.add(first)
        if likeness.count == 0:
            raise NotMeasured("the video has 1 frame, and likeness needs 2")
        series = {self.column: means.means, f"{self.column}_to_first": to_first.means}
        return Measured(numbers={self.column: likeness.total / likeness.count}, weight=likeness.count, series=series)


class Likeness:
    """The running sum of a video's likeness; it keeps the features of two frames."""

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0
        self.first_1D: Tensor | None = None
        self.before_1D: Tensor | None = None

    def add(self, features_ND: Tensor) -> list[tuple[float, float]]:
        """(likeness, likeness to the first frame) of each frame but the video's first."""
        unit_ND = F.normalize(features_ND, dim=-1)
        if self.first_1D is None:
            self.first_1D = self.before_1D = unit_ND[:1]
            unit_ND = unit_ND[1:]
        if len(unit_ND) == 0:
            return []
        before_ND = torch.cat([self.before_1D, unit_ND[:-1]])
        to_before_N = F.cosine_similarity(before_ND, unit_ND).clamp_min(0)
        to_first_N = F.cosine_similarity(self.first_1D, unit_ND).clamp_min(0)
        found = [((a + b) / 2, b) for a, b in zip(to_before_N.tolist(), to_first_N.tolist(), strict=True)]
        self.total, self.count = self.total + sum(value for value, _ in found), self.count + len(found)
        self.before_1D = unit_ND[-1:]
        return found


def pictures_of(frames: list[np.ndarray], device: torch.device) -> Tensor:
    """uint8 pictures [H, W, 3] -> [N, 3, H, W] float32, 0 to 255."""
    return torch.from_numpy(np.stack(frames)).to(device).permute(0, 3, 1, 2).float()


def resize_short(pictures_N3HW: Tensor, side: int, mode: str) -> Tensor:
    """Scale the shorter side to `side` pixels, the longer one in proportion (rounded down), without antialiasing, as VBench does."""
    height, width = pictures_N3HW.shape[-2:]
    short = min(height, width)
    size = (int(side * height / short), int(side * width / short))
    if size == (height, width):
        return pictures_N3HW
    return F.interpolate(pictures_N3HW, size=size, mode=mode, align_corners=False)


def crop_center(pictures_N3HW: Tensor, side: int) -> Tensor:
    """The middle square; halves round to even."""
    top, left = (round((length - side) / 2) for length in pictures_N3HW.shape[-2:])
    return pictures_N3HW[..., top : top + side, left : left + side]


def normalize(pictures_N3HW: Tensor, mean: tuple[float, ...], deviation: tuple[float, ...]) -> Tensor:
    """0 to 255 -> the range of a network."""
    of = {"device": pictures_N3HW.device, "dtype": pictures_N3HW.dtype}
    mean_311, deviation_311 = (torch.tensor(values, **of)[:, None, None] for values in (mean, deviation))
    return (pictures_N3HW / 255 - mean_311) / deviation_311


def file_version(path: Path) -> str:
    """Tells two weight files apart: name and size."""
    return f"{path.name}, {path.stat().st_size} bytes"
