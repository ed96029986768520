"""Noise in space: one random block of values, repeated in all directions and read at any scale.

Axes: P places, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, pad

CELLS = 48
CHANNELS = 3


def make_block(seed: int) -> Tensor:
    """[1, CHANNELS, CELLS + 1, ...] standard normal, the same at opposite faces."""
    rng = torch.Generator().manual_seed(seed)
    block = torch.randn(1, CHANNELS, CELLS, CELLS, CELLS, generator=rng, device="cpu")
    return pad(block, (0, 1, 0, 1, 0, 1), mode="circular")


def noise(block: Tensor, places_P3: Tensor, per_unit: float, shift: float = 0.0) -> Tensor:
    """[P, CHANNELS]: about -1.5 to 1.5, `per_unit` bumps in each unit of length."""
    turned_P3 = places_P3 + 0.31 * places_P3.roll(1, 1) + 7.3 * shift
    at_P3 = torch.remainder(turned_P3 * per_unit, CELLS) / CELLS * 2 - 1
    return grid_sample(block.to(places_P3.device), at_P3.view(1, 1, 1, -1, 3), mode="bilinear", align_corners=True)[0, :, 0, 0].T


def layers(block: Tensor, places_P3: Tensor, per_unit: float, octaves: int) -> Tensor:
    """[P, CHANNELS]: noise over halving scales."""
    return sum(noise(block, places_P3, per_unit * 2**k, k) * 0.55**k for k in range(octaves))
