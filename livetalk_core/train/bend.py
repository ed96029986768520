"""Motion frames that are bent a little out of place, as a long roll-out may leave them.

A network that has only seen true motion frames takes them as they are, so what has once moved, such as a part of the background, stays
there in every later chunk. One that has seen bent ones puts them back where the reference shows them.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from livetalk_core.train.draws import Draws

SHIFT, PARTS, ZOOM = 0.016, 0.023, 0.01
"""Largest shift of the whole picture, and of each node of a coarse grid, as a share of the picture's sides; largest change of scale."""
NODES = 4
"""Nodes of the grid along each side."""


def bend_frames(frames_CTHW: Tensor, draws: Draws) -> Tensor:
    """Frames [3, T, H, W], all warped alike by one random smooth field; what comes from outside the picture repeats its edge.

    Computed in float32 for frames of any type, since half precision cannot tell neighboring pixels of a large picture apart.
    """
    channels, frames, height, width = frames_CTHW.shape
    scale = 1 + ZOOM * signed(draws, "zoom")
    far, angle = 2 * SHIFT * draws.number("shift"), 2 * math.pi * draws.number("angle")
    theta_23 = torch.tensor([[scale, 0, far * math.cos(angle)], [0, scale, far * math.sin(angle)]], device=frames_CTHW.device)
    grid_1HW2 = F.affine_grid(theta_23[None], [1, channels, height, width], align_corners=False)
    nodes_12NN = torch.tensor([[[[signed(draws, f"node {axis} {y} {x}") for x in range(NODES)] for y in range(NODES)] for axis in "xy"]])
    nodes_12NN = 2 * PARTS * draws.number("parts") * nodes_12NN.to(grid_1HW2)
    grid_1HW2 = grid_1HW2 + F.interpolate(nodes_12NN, (height, width), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    stack_1XHW = frames_CTHW.flatten(0, 1)[None].float()
    bent_1XHW = F.grid_sample(stack_1XHW, grid_1HW2, mode="bicubic", padding_mode="border", align_corners=False)
    return bent_1XHW[0].unflatten(0, (channels, frames)).clamp(-1, 1).to(frames_CTHW.dtype)


def signed(draws: Draws, name: str) -> float:
    """Uniform in [-1, 1)."""
    return 2 * draws.number(name) - 1
