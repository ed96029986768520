"""A tiny decoder of Wan 2.1 latents, for drafts: the layers and state-dict names published as taew2_1 (TAEHV for Wan 2.1).

Each frame passes through 2-D convolutions. Only memory blocks look back, by one frame: `past` caches the last input frame of each.
Latent frames are always decoded one by one. So the result is bit-equal for any groups (a convolution over a larger batch may round
differently), and memory is that of four frames.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from livetalk_core.models.convolution import Past
from livetalk_core.models.vae import CausalVAE, VAEConfig, fit_groups

CHANNELS, TEMPORAL_STRIDE, SPATIAL_STRIDE = 16, 4, 8
"""Shape of the latents that it was trained for."""
WIDTHS = (256, 128, 64, 64)
"""Channels at latent resolution and after each upsampling."""
GROWTH = (1, 2, 2)
"""Output frames per frame at each upsampling."""


class DraftVAE(nn.Module):
    """A Wan 2.1 VAE that decodes with a tiny decoder. It encodes as before and keeps its exact decoder for comparison."""

    def __init__(self, exact: CausalVAE, decoder: TinyDecoder):
        super().__init__()
        self.exact, self.decoder = exact, decoder

    @property
    def config(self) -> VAEConfig:
        return self.exact.config

    @property
    def temporal_stride(self) -> int:
        return self.exact.temporal_stride

    @property
    def spatial_stride(self) -> int:
        return self.exact.spatial_stride

    def encode(self, video_CTHW: Tensor, groups: tuple[int, ...] = ()) -> Tensor:
        """[3, 4 k + 1, H, W] in [-1, 1] -> [16, k + 1, h, w], exact. `groups`: latent frames at a time, to bound memory."""
        return self.exact.encode(video_CTHW, groups)

    def decode(self, latents_CTHW: Tensor, groups: tuple[int, ...] = ()) -> Iterator[Tensor]:
        """[16, t, h, w] -> pieces of [3, 4 t - 3, H, W] in [-1, 1], one piece per group of latent frames (by default one group)."""
        z, past = latents_CTHW.to(next(self.decoder.parameters()).dtype)[None], {}
        skip = self.temporal_stride - 1  # the first latent frame stands for one video frame: the last of the four decoded
        for group in z.split(fit_groups(groups, latents_CTHW.shape[1]), dim=2):
            frames_CTHW = torch.cat([self.decoder(x, past)[0] for x in group.split(1, dim=2)], dim=1)
            yield frames_CTHW[:, skip:]
            skip = 0


class TinyDecoder(nn.Module):
    """Normalized latents [1, 16, t, h, w] from the DiT -> frames [1, 3, 4 t, 8 h, 8 w] in [-1, 1]."""

    def __init__(self):
        super().__init__()
        layers = [SoftClamp(), conv3(CHANNELS, WIDTHS[0]), nn.ReLU()]
        for (width, narrower), growth in zip(itertools.pairwise(WIDTHS), GROWTH, strict=True):
            layers += [MemoryBlock(width) for _ in range(3)]
            layers += [nn.Identity(), Upsample(width, growth), conv3(width, narrower, bias=False)]
        self.decoder = nn.Sequential(*layers, nn.ReLU(), conv3(WIDTHS[-1], 3))

    def forward(self, x_1CTHW: Tensor, past: Past) -> Tensor:
        x_TCHW = x_1CTHW[0].transpose(0, 1)
        for layer in self.decoder:
            x_TCHW = layer(x_TCHW, past) if isinstance(layer, MemoryBlock) else layer(x_TCHW)
        return (x_TCHW.clamp(0, 1) * 2 - 1).transpose(0, 1)[None]


class SoftClamp(nn.Module):
    """Limits latents smoothly to -3..3."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class MemoryBlock(nn.Module):
    """Residual block whose convolutions also see the previous frame (zeros before the clip)."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Sequential(conv3(2 * width, width), nn.ReLU(), conv3(width, width), nn.ReLU(), conv3(width, width))

    def forward(self, x_TCHW: Tensor, past: Past) -> Tensor:
        last_1CHW = past[self] if self in past else torch.zeros_like(x_TCHW[:1])
        before_TCHW = torch.cat([last_1CHW, x_TCHW[:-1]])
        past[self] = x_TCHW[-1:].clone()
        return F.relu(self.conv(torch.cat([x_TCHW, before_TCHW], dim=1)) + x_TCHW)


class Upsample(nn.Module):
    """Turns every frame into `growth` frames of twice the size (nearest).

    The published order is upsampling, then 1 x 1 convolution; nn.Identity keeps the upsampling's index. The reverse order gives the same
    result for a quarter of the work.
    """

    def __init__(self, width: int, growth: int):
        super().__init__()
        self.growth = growth
        self.conv = nn.Conv2d(width, growth * width, 1, bias=False)

    def forward(self, x_TCHW: Tensor) -> Tensor:
        grown = self.conv(x_TCHW).unflatten(1, (self.growth, -1)).flatten(0, 1)
        return F.interpolate(grown, scale_factor=2, mode="nearest-exact")


def conv3(dim_in: int, dim_out: int, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(dim_in, dim_out, 3, padding=1, bias=bias)
