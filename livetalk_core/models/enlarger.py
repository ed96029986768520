"""Doubles the side of a small model's frames, with detail from the reference picture (reference-based super-resolution).

The picture shows the person at full size, so most detail of a frame is in it, a little out of place. The network estimates where each part
of the frame is in the picture (optical flow), moves the picture there, and merges both. What the picture does not show, such as a mouth
that opens, is made from the frame alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TIMES = 2
"""Side of the enlarged frames, in sides of the small ones."""
CELL = 4
"""Pixels of a small frame, in each direction, to one cell where flow is estimated."""
PASSES = 2
"""Estimates of the flow; each corrects the one before."""
FLOW_PIXELS = 4.0
"""Pixels of a small frame to one unit of the network's flow."""


@dataclass(frozen=True, kw_only=True)
class EnlargerConfig:
    """Sizes. `width`: channels where flow is estimated; `fine_width`: channels where frame and picture are merged."""

    width: int = 96
    blocks: int = 3
    fine_width: int = 32
    fine_blocks: int = 4


class Enlarged(NamedTuple):
    frames_BCHW: Tensor
    moved_BCHW: Tensor
    """The picture, moved to each frame."""


class Enlarger(nn.Module):
    """Small frames and a picture of twice their side, in [-1, 1] -> frames of the picture's size."""

    def __init__(self, config: EnlargerConfig):
        super().__init__()
        self.config = config
        self.frame = nn.Conv2d(3 * CELL**2, config.width, 3, padding=1)
        self.picture = nn.Conv2d(3 * CELL**2, config.width, 3, padding=1)
        self.blocks = nn.ModuleList(FlatBlock(config.width) for _ in range(config.blocks))
        self.flow = nn.Conv2d(config.width, 2, 3, padding=1)
        parts = 3 * TIMES**2 + 3 + 3 + config.width // CELL**2
        self.merge = nn.Conv2d(parts, config.fine_width, 3, padding=1)
        self.fine = nn.ModuleList(FlatBlock(config.fine_width) for _ in range(config.fine_blocks))
        self.head = nn.Conv2d(config.fine_width, 4 * TIMES**2, 3, padding=1)
        for last in (self.flow, self.head, *(block.second for block in (*self.blocks, *self.fine))):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, frames_BCHW: Tensor, picture_BCHW: Tensor) -> Enlarged:
        """[B, 3, H, W] and [B or 1, 3, 2 H, 2 W] -> [B, 3, 2 H, 2 W], and the picture where it was moved. H and W: multiples of CELL.

        The layers compute in the weights' type, all else in that of the frames.
        """
        dtype = self.flow.weight.dtype
        small_BCHW, size = halve(picture_BCHW), frames_BCHW.shape[-2:]
        seen = self.frame(F.pixel_unshuffle(frames_BCHW.to(dtype), CELL))
        scale_211 = 2 * FLOW_PIXELS / seen.new_tensor(size[::-1], dtype=torch.float32).view(2, 1, 1)
        flow_B2HW = seen.new_zeros(len(seen), 2, *seen.shape[-2:], dtype=torch.float32)
        for _ in range(PASSES):
            x = seen + self.picture(F.pixel_unshuffle(move(small_BCHW, flow_B2HW, size).to(dtype), CELL))
            for block in self.blocks:
                x = block(x)
            flow_B2HW = flow_B2HW + scale_211 * self.flow(x)
        moved_BCHW = move(picture_BCHW, flow_B2HW, (TIMES * size[0], TIMES * size[1]))
        small_moved = halve(moved_BCHW)
        rough = F.pixel_shuffle(x, CELL)
        near = torch.cat([F.pixel_unshuffle(moved_BCHW, TIMES), frames_BCHW, frames_BCHW - small_moved], dim=1)
        y = self.merge(torch.cat([near.to(dtype), rough], dim=1))
        for block in self.fine:
            y = block(y)
        added, share = F.pixel_shuffle(self.head(y), TIMES).to(frames_BCHW.dtype).split([3, 1], dim=1)
        share, detail = torch.sigmoid(share), moved_BCHW - double(small_moved)
        made = torch.lerp(soften(added), added, share)
        return Enlarged(double(frames_BCHW) + share * detail + made, moved_BCHW)


class FlatBlock(nn.Module):
    """x + conv(act(conv(x))) on pictures."""

    def __init__(self, width: int):
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(x)))


def halve(pixels: Tensor) -> Tensor:
    """Means of 2 x 2 pixels: [..., H, W] -> [..., H / 2, W / 2]."""
    return F.avg_pool2d(pixels, TIMES)


def double(pixels_BCHW: Tensor) -> Tensor:
    return F.interpolate(pixels_BCHW, scale_factor=TIMES, mode="bilinear", align_corners=False)


def soften(pixels_BCHW: Tensor) -> Tensor:
    """Weighs each pixel with its neighbors 1 2 1 in both directions: what alternates from pixel to pixel is gone.

    A loss on the amount of detail draws such hatching where the detail itself is unknown, as inside of a mouth.
    """
    means_BCHW = F.avg_pool2d(F.pad(pixels_BCHW, (1, 1, 1, 1), mode="reflect"), 2, stride=1)
    return F.avg_pool2d(means_BCHW, 2, stride=1)


def move(picture_BCHW: Tensor, flow_B2HW: Tensor, size: tuple[int, int]) -> Tensor:
    """The picture [B or 1, 3, ...] as [B, 3, *size], seen from places moved by a coarse flow (x, y), in half sides of the picture.

    Beyond its edge the picture repeats the edge. Computed in float32.
    """
    fine_B2HW = F.interpolate(flow_B2HW.float(), size=size, mode="bilinear", align_corners=False)
    rows, columns = ((2 * torch.arange(n, device=flow_B2HW.device) + 1) / n - 1 for n in size)
    still_HW2 = torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1], dim=-1)
    places_BHW2 = still_HW2 + fine_B2HW.permute(0, 2, 3, 1)
    pixels = picture_BCHW.float().expand(len(flow_B2HW), -1, -1, -1)
    return F.grid_sample(pixels, places_BHW2, padding_mode="border", align_corners=False).to(picture_BCHW.dtype)
