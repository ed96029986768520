"""Color matching to the reference: Lab mean and deviation of each frame (Reinhard et al. 2001, as in the published system)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# sRGB to XYZ and back, D65 white (IEC 61966-2-1).
RGB_TO_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
XYZ_TO_RGB = ((3.2404542, -1.5371385, -0.4985314), (-0.9692660, 1.8760108, 0.0415560), (0.0556434, -0.2040259, 1.0572252))
WHITE = (0.95047, 1.0, 1.08883)
EPSILON, KAPPA = 0.008856, 903.3
FLOAT64 = {"cpu", "cuda", "meta"}
"""Device types with float64; meta stands in for CUDA."""


class LabStats(NamedTuple):
    """Per-channel statistics of a frame in Lab: [3, T, 1, 1]."""

    mean: Tensor
    std: Tensor


Stats = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Mean and population deviation of each frame's pixels: [3, T, H, W] -> two of [3, T, 1, 1]."""


def match_color(video_CTHW: Tensor, target: LabStats, strength: float, stats: Stats | None = None) -> Tensor:
    """Frames [3, T, H, W] in [-1, 1] with each frame's Lab statistics moved to the target's; blended in RGB by strength 0..1.

    `stats` measures Lab frames; pass another function than `stats_of` if this process has only a part of each frame.
    """
    if strength == 0:
        return video_CTHW
    rgb = (video_CTHW + 1) / 2
    lab = rgb_to_lab(rgb)
    own = LabStats(*(stats or stats_of)(lab))
    std = torch.where(own.std < 1e-8, torch.ones_like(own.std), own.std)
    matched = lab_to_rgb((lab - own.mean) * (target.std / std) + target.mean)
    return ((1 - strength) * rgb + strength * matched) * 2 - 1


def lab_stats(video_CTHW: Tensor) -> LabStats:
    """Statistics of frames in [-1, 1]."""
    return stats_of(rgb_to_lab((video_CTHW + 1) / 2))


def stats_of(lab_CTHW: Tensor) -> LabStats:
    """Mean and population deviation over each frame's pixels. Summed in float64, so that the order of summation does not matter:
    several processes with parts of a frame get the same float32 values. In float32 on a device without float64, such as mps."""
    dtype = torch.float64 if lab_CTHW.device.type in FLOAT64 else torch.float32
    std, mean = torch.std_mean(lab_CTHW.to(dtype), dim=(-2, -1), correction=0, keepdim=True)
    return LabStats(mean.to(lab_CTHW.dtype), std.to(lab_CTHW.dtype))


def rgb_to_lab(rgb_CTHW: Tensor) -> Tensor:
    """sRGB [0, 1] -> CIE Lab."""
    linear = torch.where(rgb_CTHW > 0.04045, ((rgb_CTHW + 0.055) / 1.055).clamp(min=0) ** 2.4, rgb_CTHW / 12.92)
    space = lab_space(rgb_CTHW.dtype, rgb_CTHW.device)
    ratio = (torch.tensordot(space.to_xyz, linear, dims=1) / space.white_C111).clamp(1e-8, 1)
    f = torch.where(ratio > EPSILON, ratio ** (1 / 3), (KAPPA * ratio + 16) / 116)
    x, y, z = f.unbind(0)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def lab_to_rgb(lab_CTHW: Tensor) -> Tensor:
    """CIE Lab -> sRGB, clamped to [0, 1]."""
    lightness, a, b = lab_CTHW.unbind(0)
    y = (lightness + 16) / 116
    f = torch.stack([y + a / 500, y, y - b / 200])
    ratio = torch.where(f**3 > EPSILON, f**3, (116 * f - 16) / KAPPA)
    space = lab_space(lab_CTHW.dtype, lab_CTHW.device)
    linear = torch.tensordot(space.to_rgb, ratio * space.white_C111, dims=1)
    return torch.where(linear > 0.0031308, 1.055 * linear.clamp(min=1e-8) ** (1 / 2.4) - 0.055, 12.92 * linear).clamp(0, 1)


class LabSpace(NamedTuple):
    """Constants of the conversion between RGB and Lab, as tensors."""

    to_xyz: Tensor
    to_rgb: Tensor
    white_C111: Tensor


@functools.cache
def lab_space(dtype: torch.dtype, device: torch.device) -> LabSpace:
    """Made once for each device, since the host waits for each copy to it."""
    to_xyz, to_rgb, white = (torch.tensor(values, dtype=dtype, device=device) for values in (RGB_TO_XYZ, XYZ_TO_RGB, WHITE))
    return LabSpace(to_xyz, to_rgb, white.view(-1, 1, 1, 1))
