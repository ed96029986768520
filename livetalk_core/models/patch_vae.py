"""A small causal VAE for a CPU: 8 x 8 pixels of 4 frames (the first alone) to one latent.

The encoder is a linear block transform. The decoder is its inverse plus a network that sees neighboring and earlier blocks and restores
lost detail. Most of the work is done at latent resolution. Interface, causality and `past` are those of the large VAE in `vae.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from livetalk_core.models.borders import WHOLE, Borders
from livetalk_core.models.convolution import CausalConv3d, Past
from livetalk_core.models.vae import fit_groups, split_video

FRAMES = 4
"""Video frames per latent frame; the first latent frame has one."""
PATCH = 8
"""Pixels per latent, in each direction."""
FINE = 4
"""Pixels per cell, in each direction, where the decoder adds detail."""
SPACE, TIME = (1, 3, 3), (3, 1, 1)


@dataclass(frozen=True, kw_only=True)
class PatchVAEConfig:
    """Sizes. `width`: channels at latent resolution; `fine_width`: channels per cell."""

    z_dim: int = 64
    width: int = 224
    blocks: int = 4
    fine_width: int = 96
    fine_blocks: int = 2
    temporal_stride: ClassVar[int] = FRAMES
    spatial_stride: ClassVar[int] = PATCH

    def scale(self, latents_CTHW: Tensor) -> Tensor:
        """The latents unchanged, in float32: no other program uses another scale for them."""
        return latents_CTHW.float()

    unscale = scale


class PatchVAE(nn.Module):
    """Pixels in [-1, 1] to normalized latents and back."""

    temporal_stride = FRAMES
    spatial_stride = PATCH

    def __init__(self, config: PatchVAEConfig):
        super().__init__()
        self.config = config
        self.encoder = PatchEncoder(config)
        self.decoder = PatchDecoder(config)

    def encode(self, video_CTHW: Tensor, groups: tuple[int, ...] = (), borders: Borders = WHOLE) -> Tensor:
        """[3, 4 k + 1, H, W] in [-1, 1] -> [C, k + 1, h, w]. `groups`: latent frames at a time. `borders` is unused."""
        latent_frames = (video_CTHW.shape[1] - 1) // FRAMES + 1
        past: Past | None = {} if groups else None
        pieces = split_video(video_CTHW.to(self.decoder.embed.weight.dtype)[None], fit_groups(groups, latent_frames), FRAMES)
        return torch.cat([self.encoder(piece, past) for piece in pieces], dim=2)[0]

    def decode(self, latents_CTHW: Tensor, groups: tuple[int, ...] = (), borders: Borders = WHOLE) -> Iterator[Tensor]:
        """[C, t, h, w] -> pieces of [3, 4 t - 3, H, W] in [-1, 1], one per group of latent frames (all at once by default)."""
        z = latents_CTHW.to(self.decoder.embed.weight.dtype)[None]
        past: Past | None = {} if groups else None
        for piece in z.split(fit_groups(groups, latents_CTHW.shape[1]), dim=2):
            yield self.decoder(piece, past, borders)[0].clamp(-1, 1)


class FirstRest(nn.Module):
    """Two 1 x 1 x 1 convolutions: one for the first latent frame, one for all others."""

    def __init__(self, first: tuple[int, int], rest: tuple[int, int]):
        super().__init__()
        self.first, self.rest = nn.Conv3d(*first, 1), nn.Conv3d(*rest, 1)


class PatchEncoder(nn.Module):
    def __init__(self, config: PatchVAEConfig):
        super().__init__()
        self.code = FirstRest((3 * PATCH**2, config.z_dim), (3 * FRAMES * PATCH**2, config.z_dim))

    def forward(self, video_BCTHW: Tensor, past: Past | None) -> Tensor:
        first, rest = split_first(self, video_BCTHW, past)
        parts = ((self.code.first, first, 1), (self.code.rest, rest, FRAMES))
        return torch.cat([layer(fold(part, frames, PATCH)) for layer, part, frames in parts if part.shape[2]], dim=2)


class PatchDecoder(nn.Module):
    def __init__(self, config: PatchVAEConfig):
        super().__init__()
        one, four = 3 * PATCH**2, 3 * FRAMES * PATCH**2
        self.picture = FirstRest((config.z_dim, one), (config.z_dim, four))
        self.embed = CausalConv3d(config.z_dim, config.width, SPACE)
        self.blocks = nn.ModuleList(ResidualBlock(config.width, (SPACE, TIME)) for _ in range(config.blocks))
        cells = (PATCH // FINE) ** 2 * config.fine_width
        self.refine = FirstRest((config.width, cells), (config.width, FRAMES * cells))
        self.fine = nn.ModuleList(ResidualBlock(config.fine_width, (SPACE, SPACE)) for _ in range(config.fine_blocks))
        self.head = CausalConv3d(config.fine_width, 3 * FINE**2, SPACE)

    def forward(self, z_BCTHW: Tensor, past: Past | None, borders: Borders = WHOLE) -> Tensor:
        x = self.embed(z_BCTHW, past, borders)
        for block in self.blocks:
            x = block(x, past, borders)
        xs, zs = split_first(self, x, past), split_first(self.picture, z_BCTHW, past)
        parts = ((self.refine.first, self.picture.first, 1), (self.refine.rest, self.picture.rest, FRAMES))
        cells, pictures = [], []
        for (refine, picture, frames), x, z in zip(parts, xs, zs, strict=True):
            if x.shape[2]:
                cells.append(unfold(refine(x), frames, PATCH // FINE))
                pictures.append(unfold(picture(z), frames, PATCH))
        x = torch.cat(cells, dim=2)
        for block in self.fine:
            x = block(x, past, borders)
        return torch.cat(pictures, dim=2) + unfold(self.head(x, past, borders), 1, FINE)


class ResidualBlock(nn.Module):
    """x + conv(act(conv(x))), without norms: a net this shallow works without, and on a CPU a norm costs as much as a convolution."""

    def __init__(self, width: int, kernels: tuple[tuple[int, int, int], tuple[int, int, int]]):
        super().__init__()
        self.convs = nn.ModuleList(CausalConv3d(width, width, kernel) for kernel in kernels)

    def forward(self, x: Tensor, past: Past | None, borders: Borders) -> Tensor:
        first, second = self.convs
        return x + second(F.silu(first(x, past, borders)), past, borders)


def split_first(layer: nn.Module, x_BCTHW: Tensor, past: Past | None) -> tuple[Tensor, Tensor]:
    """The clip's first frame, if it is in this group, and the other frames."""
    started = past is not None and layer in past
    if past is not None:
        past[layer] = x_BCTHW.new_zeros(())
    return x_BCTHW.split([0 if started else 1, x_BCTHW.shape[2] - (0 if started else 1)], dim=2)


def fold(x_BCTHW: Tensor, frames: int, size: int) -> Tensor:
    """Space-time to depth: [B, C f s s, T / f, H / s, W / s]."""
    return rearrange(x_BCTHW, "b c (t f) (h p) (w q) -> b (c f p q) t h w", f=frames, p=size, q=size)


def unfold(x_BCTHW: Tensor, frames: int, size: int) -> Tensor:
    """The inverse of `fold`."""
    return rearrange(x_BCTHW, "b (c f p q) t h w -> b c (t f) (h p) (w q)", f=frames, p=size, q=size)
