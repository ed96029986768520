"""Motion-S: how well the frames between can be told from their neighbors (VBench, motion smoothness).

Every other frame is dropped and made again by AMT-S from the two beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from livetalk_core.evaluate.talkbench.amt import load_amt
from livetalk_core.evaluate.talkbench.consistency import file_version, pictures_of
from livetalk_core.evaluate.talkbench.flicker import mean_difference
from livetalk_core.evaluate.talkbench.measure import Measured, NotMeasured, Shown, WindowMeans, frames_in_a_second
from livetalk_core.evaluate.talkbench.weights import read_state
from livetalk_core.media.video import read_frames

Interpolate = Callable[[Tensor, Tensor], Tensor]
"""Two pictures [1, 3, H, W] in [0, 1] -> the one between them."""
MULTIPLE, LEAST_SIDE = 16, 128


class MotionSmoothness:
    """(255 - mean |difference to the made frame|) / 255, over the dropped frames that have a neighbor on both sides."""

    name = "motion_smoothness"

    def __init__(self, interpolate: Interpolate, device: torch.device, version: str) -> None:
        self.interpolate, self.device, self.version = interpolate, device, version

    @torch.no_grad()
    def measure(self, shown: Shown) -> Measured:
        total, count, means = 0.0, 0, WindowMeans(frames_in_a_second(shown.video) // 2)
        for before, dropped, after in threes(read_frames(shown.video)):
            difference = mean_difference(dropped, self.between(before, after))
            total, count = total + difference, count + 1
            means.add(1 - difference / 255)
        if count == 0:
            raise NotMeasured("the video has fewer than 3 frames, and a frame between two others needs 3")
        return Measured(numbers={"motion_s": (255 - total / count) / 255}, series={"motion_s": means.means})

    def between(self, before_HWC: np.ndarray, after_HWC: np.ndarray) -> np.ndarray:
        """The made frame, uint8 [H, W, 3]; fractions are cut off, as published."""
        height, width = before_HWC.shape[:2]
        if min(height, width) + MULTIPLE <= LEAST_SIDE:
            raise NotMeasured(f"the video is {width}x{height} pixels, and AMT-S needs {LEAST_SIDE} or more a side")
        pads = padding(height, width)
        a, b = (F.pad(pictures_of([frame], self.device) / 255, pads, mode="replicate") for frame in (before_HWC, after_HWC))
        made_HWC = self.interpolate(a, b)[0, :, pads[2] : pads[2] + height, pads[0] : pads[0] + width].permute(1, 2, 0)
        return (made_HWC * 255).clamp(0, 255).cpu().numpy().astype(np.uint8)


def threes(frames: Iterator[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(frame 0, 1, 2), (2, 3, 4), ...: an even number of frames leaves the last one out."""
    before = next(frames, None)
    while (dropped := next(frames, None)) is not None and (after := next(frames, None)) is not None:
        yield before, dropped, after
        before = after


def padding(height: int, width: int) -> tuple[int, int, int, int]:
    """(left, right, top, bottom) that make both sides multiples of 16, the smaller half first."""
    down, across = -height % MULTIPLE, -width % MULTIPLE
    return across // 2, across - across // 2, down // 2, down - down // 2


def motion_smoothness(path: Path, device: torch.device) -> MotionSmoothness:
    """Motion-S by AMT-S. Frames are never scaled down, as VBench does where a GPU's memory is short."""
    return MotionSmoothness(load_amt(read_state(path)).to(device), device, file_version(path))
