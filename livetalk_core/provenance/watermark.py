"""Puts the watermark into frames. Axes: T frames, H W size, C channels."""

from __future__ import annotations

import secrets

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from livetalk_core.provenance.pattern import ID_BITS, TILE, tile_of

LEAST, MOST = 1.0, 3.0
"""The mark's strength in even and in busy parts of a picture, RMS in levels of 255. Its PSNR is 20 log10(255 / 3) = 38.6 dB or more."""
SLOPE = 0.25
"""Growth of the strength with the noise level that a square looks like, by its second differences; even shading has none."""
USUAL = 720 * 416
"""Pixels; smaller pictures hold fewer tiles and get a stronger mark."""
SQUARE, STEP = 8, 2
"""Pixels: the side of the squares in which that is measured, and of which one in so many is looked at."""
LUMA = (0.2126, 0.7152, 0.0722)
"""BT.709."""


def new_id() -> int:
    """A random id of 32 bits."""
    return secrets.randbits(ID_BITS)


class Watermark:
    """Adds one id's pattern to frames. Each frame is marked by itself, so it does not matter how a video is cut into pieces."""

    def __init__(self, mark_id: int) -> None:
        self.mark_id = mark_id
        self.tile = torch.from_numpy(tile_of(mark_id))
        self.pattern_HW = torch.zeros(0, 0)

    def __call__(self, frames_THWC: Tensor | np.ndarray) -> Tensor:
        """Marked copies of uint8 RGB frames [T, H, W, 3]."""
        frames_THWC = torch.as_tensor(frames_THWC)
        height, width = frames_THWC.shape[1:3]
        if self.pattern_HW.shape != (height, width):
            self.pattern_HW = self.tile.repeat(-(-height // TILE), -(-width // TILE))[:height, :width].contiguous()
        return torch.stack([self.mark(frame_HWC) for frame_HWC in frames_THWC])

    def mark(self, frame_HWC: Tensor) -> Tensor:
        change_HW = (self.pattern_HW * strength(frame_HWC)).round_().to(torch.int16)
        return (frame_HWC.to(torch.int16) + change_HW[..., None]).clamp_(0, 255).to(torch.uint8)


def strength(frame_HWC: Tensor) -> Tensor:
    """How strong the mark may be at each pixel [H, W]: stronger where the picture is busy and hides it."""
    height, width = frame_HWC.shape[:2]
    luma_HW = frame_HWC[::STEP, ::STEP].float() @ torch.tensor(LUMA)
    curved_HW = luma_HW.diff(n=2, dim=0).square()[:, 1:-1] + luma_HW.diff(n=2, dim=1).square()[1:-1]
    busy = (F.avg_pool2d(curved_HW[None, None], SQUARE // STEP, ceil_mode=True, count_include_pad=False) / 12).sqrt_()
    busy = -F.max_pool2d(-busy, 3, 1, 1)[0, 0]  # the least of the squares around: no halo beside an edge
    gain = min(2.0, max(1.0, (USUAL / (height * width)) ** 0.25))
    strong = (gain * (LEAST + SLOPE * busy)).clamp_(max=MOST)
    return F.interpolate(strong[None, None], size=(height, width), mode="bilinear", align_corners=False)[0, 0]
