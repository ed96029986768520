"""Rotary position embeddings in real arithmetic: each adjacent pair (even, odd) is rotated by an angle."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from livetalk_core.models.precision import float64_device


class Grid(NamedTuple):
    """Positions of the local tokens in the chunk. With sequence parallelism every process has its own grid."""

    cos_LK: Tensor
    sin_LK: Tensor
    tokens_per_frame: int
    first: int = 0
    """Index of the first local token, counted from the start of the first latent frame whose audio keys are there."""

    def after(self, skip: int) -> Grid:
        """The grid without its first `skip` tokens."""
        return Grid(self.cos_LK[skip:], self.sin_LK[skip:], self.tokens_per_frame, self.first + skip)


def rotate(x_BLNK: Tensor, cos_LK: Tensor, sin_LK: Tensor) -> Tensor:
    """Rotate the pairs of every head by float32 tables [L, K / 2] or [B, L, K / 2]; the result has x's type."""
    even, odd = x_BLNK.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos_LK.unsqueeze(-2), sin_LK.unsqueeze(-2)
    # Round before stacking: stacking in float32 would write and read the tensor once more, also when compiled.
    turned = [part.to(x_BLNK.dtype) for part in (even * cos - odd * sin, even * sin + odd * cos)]
    return torch.stack(turned, dim=-1).flatten(-2)


def rope_table(frames: int, rows: int, columns: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin [T x H x W, width / 2] float32 of the 3-D embedding: frame, row and column pairs side by side (Wan 2.1)."""
    spatial = width // 6
    pairs = (width // 2 - 2 * spatial, spatial, spatial)
    t, h, w = (axis_angles(n, p, float64_device(device)) for n, p in zip((frames, rows, columns), pairs, strict=True))
    axes = (t[:, None, None], h[None, :, None], w[None, None])
    table = torch.cat([angles.expand(frames, rows, columns, -1) for angles in axes], dim=-1).flatten(0, 2)
    return table.cos().float().to(device), table.sin().float().to(device)


def axis_angles(length: int, pairs: int, device: torch.device) -> Tensor:
    """position x 10000^(-j / pairs), float64 [length, pairs]."""
    frequencies = 10000.0 ** (-torch.arange(pairs, dtype=torch.float64, device=device) / pairs)
    return torch.outer(torch.arange(length, dtype=torch.float64, device=device), frequencies)
