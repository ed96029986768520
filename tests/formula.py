"""Weights and pictures by formula, the same everywhere, so that golden files need not hold them."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor, nn


def uniform(count: int, seed: int) -> np.ndarray:
    """`count` numbers in [-0.5, 0.5) from integers alone: a multiplicative hash of the index."""
    x = (np.arange(1, count + 1, dtype=np.uint64) * 2654435761 + seed) % 2**32
    for shift, factor in ((15, 2246822519), (13, 3266489917)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor) % 2**32
    return (x ^ (x >> np.uint64(16))).astype(np.float64) / 2**32 - 0.5


def formula_tensor(name: str, like: Tensor, gain: float) -> Tensor:
    """Matrices and kernels of variance gain^2 / inputs; scales near 1, biases and means near 0."""
    values = uniform(like.numel(), zlib.crc32(name.encode()))
    if like.ndim > 1 and "embed" not in name and name != "cls_token":
        values = values * gain * (12 / (like.numel() / like.shape[0])) ** 0.5
    elif name.endswith(("bias", "running_mean")) or "embed" in name or name == "cls_token":
        values = values * 0.2
    else:
        values = 1 + 0.4 * values
    return torch.from_numpy(values).to(like.dtype).reshape(like.shape)


def fill(module: nn.Module, gain: float = 1.0, prefix: str = "") -> nn.Module:
    """Put formula weights into a module; counters stay."""
    state = {name: formula_tensor(prefix + name, value, gain) for name, value in module.state_dict().items() if value.is_floating_point()}
    module.load_state_dict(state, strict=False)
    return module.eval()


def made_frames(count: int, height: int, width: int, speed: int = 2, first: int = 0) -> np.ndarray:
    """uint8 [T, H, W, 3]: three triangle waves that cross, each moving its own way."""
    t, y, x = np.ogrid[first : first + count, :height, :width]
    waves = [(5 * x + 3 * y + speed * 5 * t), (2 * x - 7 * y + speed * 3 * t), (9 * x + 4 * y - speed * 7 * t)]
    return np.stack([np.abs(wave % 510 - 255) for wave in waves], axis=-1).clip(0, 255).astype(np.uint8)
