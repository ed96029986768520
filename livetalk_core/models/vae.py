"""The causal 3-D VAE of Wan 2.1, published state-dict names: 8 x 8 pixels and 4 frames (the first alone) to 16 channels.

Convolutions are causal in time, so a clip can be processed in groups of latent frames of any size: `past` caches, per layer, the last
frames it needs. With `past=None` the whole clip is one group; the result is the same. `borders`: what lies outside the local pixels.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from livetalk_core.models.borders import WHOLE, Borders
from livetalk_core.models.convolution import CausalConv3d, DoublingConv, HalvingConv, Past, TimeConv, convolve_causal

# Wan 2.1 latents: per-channel statistics (published constants).
WAN_MEAN = (
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
WAN_STD = (
    *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
    *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
)


DECODER_FORM = {"force_pointwise_cat": True, "reorder_for_locality": False}
"""Compiler options. The first writes new frames directly next to the cached ones instead of copying both. The second keeps the convolution
on the whole group first, because the first use of a tensor decides its memory layout."""


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """Sizes of the VAE; the defaults are Wan 2.1's."""

    dim: int = 96
    z_dim: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    mean: tuple[float, ...] = WAN_MEAN
    std: tuple[float, ...] = WAN_STD

    @property
    def temporal_stride(self) -> int:
        """Video frames per latent frame; the first latent frame has one."""
        return 2 ** sum(self.temporal_downsample)

    @property
    def spatial_stride(self) -> int:
        """Pixels per latent, in each direction."""
        return 2 ** len(self.temporal_downsample)

    def unscale(self, latents_CTHW: Tensor) -> Tensor:
        """Normalized latents -> the VAE's own scale, which other programs use; float32."""
        mean, std = self.statistics(latents_CTHW.device)
        return latents_CTHW.float() * std + mean

    def scale(self, latents_CTHW: Tensor) -> Tensor:
        """Latents in the VAE's own scale -> normalized: the inverse of `unscale`."""
        mean, std = self.statistics(latents_CTHW.device)
        return (latents_CTHW.float() - mean) / std

    def statistics(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The latents' mean and deviation per channel, [C, 1, 1, 1]."""
        mean, std = (torch.tensor(values, device=device).view(-1, 1, 1, 1) for values in (self.mean, self.std))
        return mean, std


class CausalVAE(nn.Module):
    """Pixels in [-1, 1] to normalized latents and back."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.conv1 = CausalConv3d(2 * config.z_dim, 2 * config.z_dim, 1)
        self.conv2 = CausalConv3d(config.z_dim, config.z_dim, 1)
        self.decoder = Decoder(config)
        mean, std = config.statistics(torch.device("cpu"))
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    @property
    def temporal_stride(self) -> int:
        return self.config.temporal_stride

    @property
    def spatial_stride(self) -> int:
        return self.config.spatial_stride

    def encode(self, video_CTHW: Tensor, groups: tuple[int, ...] = (), borders: Borders = WHOLE) -> Tensor:
        """[3, 4 k + 1, H, W] in [-1, 1] -> [16, k + 1, h, w]. `groups`: latent frames at a time, to bound memory."""
        latent_frames = (video_CTHW.shape[1] - 1) // self.temporal_stride + 1
        past: Past | None = {} if groups else None
        pieces = split_video(video_CTHW.to(self.conv1.weight.dtype)[None], fit_groups(groups, latent_frames), self.temporal_stride)
        parts = [self.conv1(self.encoder(piece, past, borders), past).chunk(2, dim=1)[0] for piece in pieces]
        mean, std = self.mean.to(video_CTHW.device, parts[0].dtype), self.std.to(video_CTHW.device, parts[0].dtype)
        return (torch.cat(parts, dim=2)[0] - mean) * (1 / std)

    def decode(self, latents_CTHW: Tensor, groups: tuple[int, ...] = (), borders: Borders = WHOLE) -> Iterator[Tensor]:
        """[16, t, h, w] -> pieces of [3, 4 t - 3, H, W] in [-1, 1], one piece per group of latent frames (by default one group)."""
        parts = latents_CTHW.split(fit_groups(groups, latents_CTHW.shape[1]), dim=1)
        yield from self.decode_parts(parts, borders, {} if groups else None)

    def decode_parts(self, parts: Iterable[Tensor], borders: Borders, past: Past | None) -> Iterator[Tensor]:
        """The same for latents [16, t, h, w] that come part by part: a piece for each, decoded when it is asked for."""
        dtype = self.conv2.weight.dtype
        for part_CTHW in parts:
            mean, std = self.mean.to(part_CTHW.device, dtype), self.std.to(part_CTHW.device, dtype)
            z = (part_CTHW.to(dtype) / (1 / std) + mean)[None]
            yield self.decoder(self.conv2(z, past), past, borders)[0].clamp(-1, 1)

    def decode_later(self, parts: Iterable[Tensor]) -> Iterator[Tensor]:
        """As `decode_parts`, for a whole picture in several parts."""
        return self.decode_parts(parts, WHOLE, {})


class Encoder(nn.Module):
    def __init__(self, config: VAEConfig):
        super().__init__()
        widths = [config.dim * m for m in (1, *config.dim_mult)]
        self.conv1 = CausalConv3d(3, widths[0], 3)
        self.downsamples = nn.ModuleList()
        for level, (width_in, width) in enumerate(itertools.pairwise(widths)):
            self.downsamples.extend(ResidualBlock(width_in if i == 0 else width, width) for i in range(config.num_res_blocks))
            if level < len(config.temporal_downsample):
                self.downsamples.append(Downsample(width, config.temporal_downsample[level]))
        self.middle = middle(widths[-1])
        self.head = head(widths[-1], 2 * config.z_dim)

    def forward(self, x: Tensor, past: Past | None, borders: Borders = WHOLE) -> Tensor:
        x = self.conv1(x, past, borders)
        for layer in (*self.downsamples, *self.middle):
            x = layer(x, past, borders)
        return run_head(self.head, x, past, borders)


class Decoder(nn.Module):
    def __init__(self, config: VAEConfig):
        super().__init__()
        widths = [config.dim * m for m in (config.dim_mult[-1], *reversed(config.dim_mult))]
        temporal = tuple(reversed(config.temporal_downsample))
        self.conv1 = CausalConv3d(config.z_dim, widths[0], 3)
        self.middle = middle(widths[0])
        self.upsamples = nn.ModuleList()
        for level, (width_in, width) in enumerate(itertools.pairwise(widths)):
            width_in = width_in if level == 0 else width_in // 2
            self.upsamples.extend(ResidualBlock(width_in if i == 0 else width, width) for i in range(config.num_res_blocks + 1))
            if level < len(temporal):
                self.upsamples.append(Upsample(width, temporal[level]))
        self.head = head(widths[-1], 3)

    def forward(self, x: Tensor, past: Past | None, borders: Borders = WHOLE) -> Tensor:
        x = self.conv1(x, past, borders)
        for layer in (*self.middle, *self.upsamples):
            x = layer(x, past, borders)
        return run_head(self.head, x, past, borders)


class ResidualBlock(nn.Module):
    def __init__(self, dim_in: int, dim_out: int):
        super().__init__()
        layers = {
            "0": ActivatedNorm(dim_in),
            "2": CausalConv3d(dim_in, dim_out, 3),
            "3": ActivatedNorm(dim_out),
            "6": CausalConv3d(dim_out, dim_out, 3),
        }
        self.residual = nn.ModuleDict(layers)
        self.shortcut = CausalConv3d(dim_in, dim_out, 1) if dim_in != dim_out else None

    def forward(self, x: Tensor, past: Past | None, borders: Borders) -> Tensor:
        norm1, conv1, norm2, conv2 = self.residual.values()
        y = conv1(norm1(x), past, borders)
        y = conv2(norm2(y), past, borders)
        return y + (x if self.shortcut is None else self.shortcut(x, past))


class FrameAttention(nn.Module):
    """Single-head attention over all pixels of each frame."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm = RMSNorm(dim, image=True)
        self.to_qkv = nn.Conv2d(dim, 3 * dim, 1)
        self.proj = nn.Conv2d(dim, dim, 1)

    def forward(self, x_BCTHW: Tensor, past: Past | None, borders: Borders) -> Tensor:
        frames = fold_time(x_BCTHW)
        qkv = self.to_qkv(self.norm(frames)).flatten(2).transpose(1, 2)
        y = borders.attend(*(part[:, :, None] for part in qkv.chunk(3, dim=-1)))[:, :, 0]
        y = self.proj(y.transpose(1, 2).reshape(frames.shape))
        return x_BCTHW + unfold_time(y, x_BCTHW.shape[0])


class Downsample(nn.Module):
    """Halves the size, and with `temporal` the frame rate: the first frame is kept, the rest are convolved with stride 2."""

    def __init__(self, dim: int, temporal: bool):
        super().__init__()
        self.resample = nn.ModuleDict({"1": HalvingConv(dim)})
        self.time_conv = TimeConv(dim, dim, stride=2) if temporal else None

    def forward(self, x: Tensor, past: Past | None, borders: Borders) -> Tensor:
        batch = x.shape[0]
        x = unfold_time(self.resample["1"](fold_time(x), borders), batch)
        if self.time_conv is None:
            return x
        started = past is not None and self.time_conv in past
        joined = torch.cat([past[self.time_conv], x], dim=2) if started else x
        if past is not None:
            past[self.time_conv] = x[:, :, -1:].clone()
        first = [] if started else [x[:, :, :1]]
        rest = [self.time_conv(joined)] if joined.shape[2] >= 3 else []
        return torch.cat(first + rest, dim=2)


class Upsample(nn.Module):
    """Doubles the size and halves the channels; with `temporal` it also doubles all frames but the first, which the others do not see."""

    def __init__(self, dim: int, temporal: bool):
        super().__init__()
        self.resample = nn.ModuleDict({"1": DoublingConv(dim, dim // 2)})
        self.time_conv = TimeConv(dim, 2 * dim, stride=1) if temporal else None

    def forward(self, x: Tensor, past: Past | None, borders: Borders) -> Tensor:
        if self.time_conv is not None:
            x = self.double_frames(x, past)
        return unfold_time(self.resample["1"](fold_time(x), borders), x.shape[0])

    def double_frames(self, x: Tensor, past: Past | None) -> Tensor:
        started = past is not None and self in past
        if past is not None and not started:
            past[self] = x.new_zeros(())
        first, rest = ([], x) if started else ([x[:, :, :1]], x[:, :, 1:])
        if rest.shape[2]:
            halves = convolve_causal(self.time_conv, rest, past, (0, 0)).unflatten(1, (2, -1))
            first = [*first, halves.permute(0, 2, 3, 1, 4, 5).flatten(2, 3)]
        return torch.cat(first, dim=2)


class RMSNorm(nn.Module):
    """sqrt(C) gamma x / |x|, with the norm over channels, per pixel."""

    def __init__(self, dim: int, image: bool = False):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim, 1, 1) if image else torch.ones(dim, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1) * self.gamma.shape[0] ** 0.5 * self.gamma


class ActivatedNorm(RMSNorm):
    """SiLU of the norm."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(super().forward(x))


def middle(dim: int) -> nn.ModuleList:
    return nn.ModuleList([ResidualBlock(dim, dim), FrameAttention(dim), ResidualBlock(dim, dim)])


def head(dim_in: int, dim_out: int) -> nn.ModuleDict:
    return nn.ModuleDict({"0": ActivatedNorm(dim_in), "2": CausalConv3d(dim_in, dim_out, 3)})


def run_head(layers: nn.ModuleDict, x: Tensor, past: Past | None, borders: Borders) -> Tensor:
    return layers["2"](layers["0"](x), past, borders)


def fold_time(x_BCTHW: Tensor) -> Tensor:
    return x_BCTHW.transpose(1, 2).flatten(0, 1)


def unfold_time(x: Tensor, batch: int) -> Tensor:
    return x.unflatten(0, (batch, -1)).transpose(1, 2)


def fit_groups(groups: tuple[int, ...], total: int) -> list[int]:
    """The groups, with the last one repeated or cut so that they sum to `total`. One group if none are given."""
    if any(n < 1 for n in groups):
        raise ValueError(f"groups={groups} must be counts of 1 or more latent frames, such as (1, 4, 4)")
    sizes, left = [], total
    for n in itertools.chain(groups or (total,), itertools.repeat(groups[-1] if groups else total)):
        if left == 0:
            return sizes
        sizes.append(min(n, left))
        left -= sizes[-1]
    raise AssertionError("unreachable: the last group repeats without end")


def split_video(video_BCTHW: Tensor, latent_groups: list[int], stride: int) -> tuple[Tensor, ...]:
    """Split the video: the first piece has 1 + 4 (n - 1) frames, every later one 4 n."""
    sizes = [stride * n for n in latent_groups]
    sizes[0] -= stride - 1
    return video_BCTHW.split(sizes, dim=2)
