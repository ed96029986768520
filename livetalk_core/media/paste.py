"""Puts a talking face back into the whole picture that it was cropped from.

Axes: T frames, H W the whole picture, C channels, R S rows and columns of the part around the face.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from livetalk_core.media.faces import Box

LONGEST = 2160
"""A larger picture is scaled down to this length of its longer side: players refuse larger videos."""
EDGE = 0.08
"""Part of the square, at each side, over which the video fades into the picture."""
UNCHANGED = 10.0
"""Where a frame differs from the model's picture by less than about this, of 255, the photograph's own detail is kept."""


class PasteBack:
    """Pastes frames of the part around a face into its picture.

    A model's frames are smaller than the photograph. So where nothing moves the photograph's fine detail is added to them, and where
    something moves they are only enlarged.
    """

    def __init__(self, image: Image.Image, box: Box, reference_CHW: Tensor):
        """`reference_CHW`: what the model sees of the box, [3, h, w] in [-1, 1]. The box must lie inside the picture."""
        whole, self.box = fitting(image, box)
        self.whole_HWC = torch.from_numpy(np.array(whole))
        left, top, right, bottom = self.box
        self.shape = (bottom - top, right - left)
        self.low_CRS = enlarged((reference_CHW.cpu().float() + 1) * 127.5, self.shape)
        self.detail_CRS = self.whole_HWC[top:bottom, left:right].permute(2, 0, 1).float() - self.low_CRS
        self.fade_RS = fade(bottom - top)[:, None] * fade(right - left)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the video."""
        return self.whole_HWC.shape[1], self.whole_HWC.shape[0]

    def frames(self, frames_THWC: Tensor) -> Tensor:
        """uint8 [T, h, w, 3] -> [T, H, W, 3]: the whole picture with these frames in their place."""
        left, top, right, bottom = self.box
        pasted_THWC = self.whole_HWC.repeat(len(frames_THWC), 1, 1, 1)
        for frame_HWC, whole_HWC in zip(frames_THWC, pasted_THWC, strict=True):
            change_CRS = enlarged(frame_HWC.permute(2, 0, 1).float(), self.shape) - self.low_CRS
            still_RS = torch.exp(-(softened(change_CRS.abs().mean(0)) / UNCHANGED).square())
            moved_CRS = (change_CRS + (still_RS - 1) * self.detail_CRS) * self.fade_RS
            part = whole_HWC[top:bottom, left:right]
            part.copy_((part.permute(2, 0, 1) + moved_CRS).round().clamp(0, 255).permute(1, 2, 0))
        return pasted_THWC


def fitting(image: Image.Image, box: Box) -> tuple[Image.Image, Box]:
    """The picture and its box at a size that a video can have: both sides even, none too long."""
    scale = min(1.0, LONGEST / max(image.size))
    size = [2 * max(8, int(scale * side / 2)) for side in image.size]
    if (*size,) == image.size:
        return image.convert("RGB"), box
    ends = [round(at * new / old) for at, new, old in zip(box, 2 * size, 2 * image.size, strict=True)]
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS), tuple(ends)


def enlarged(pixels_CHW: Tensor, shape: tuple[int, int]) -> Tensor:
    return F.interpolate(pixels_CHW[None], shape, mode="bicubic", align_corners=False, antialias=True)[0]


def softened(change_RS: Tensor) -> Tensor:
    """The change around each pixel: the largest nearby, smoothed."""
    reach = max(1, len(change_RS) // 64)
    size = {"kernel_size": 2 * reach + 1, "stride": 1, "padding": reach}
    return F.avg_pool2d(F.max_pool2d(change_RS[None, None], **size), **size, count_include_pad=False)[0, 0]


def fade(length: int) -> Tensor:
    """[length] 1 inside, 0 at the ends."""
    at = torch.linspace(0, 1, length)
    along = (torch.minimum(at, 1 - at) / EDGE).clamp(0, 1)
    return along * along * (3 - 2 * along)
