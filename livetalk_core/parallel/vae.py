"""A causal VAE on a group of processes, with exact results: every process has a band of the picture.

Convolutions receive a halo of one row from the neighboring bands, and the large VAE's attention gathers the keys of all bands; all other
layers are local. Nothing is computed twice. `past` caches frames with their halo, so they are not exchanged again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from livetalk_core.models.attention import attention
from livetalk_core.models.borders import Borders
from livetalk_core.models.convolution import fold_kernels
from livetalk_core.models.patch_vae import PatchVAE
from livetalk_core.models.precision import widest_dtype
from livetalk_core.models.vae import CausalVAE, FrameAttention, fit_groups
from livetalk_core.parallel.bands import Bands, cut_bands
from livetalk_core.parallel.exchange import exchange_halos, gather_on_first, gather_parts
from livetalk_core.parallel.group import SequenceGroup

PlainVAE = CausalVAE | PatchVAE


def parallelize_vae(vae: PlainVAE, group: SequenceGroup) -> ParallelVAE:
    """The VAE on the group, with folded kernels. Every process must make the same calls."""
    fold_kernels(vae)
    return ParallelVAE(vae, group)


class ParallelVAE:
    """The plain VAE's interface: whole pictures in and out on every process."""

    def __init__(self, vae: PlainVAE, group: SequenceGroup):
        self.vae, self.group = vae, group

    @property
    def temporal_stride(self) -> int:
        return self.vae.temporal_stride

    @property
    def spatial_stride(self) -> int:
        return self.vae.spatial_stride

    def banded(self, latent_height: int, latent_width: int) -> BandVAE:
        """The VAE for pictures of one size; every process keeps only its band."""
        bands = cut_bands(latent_height, latent_width, self.group.size)
        return BandVAE(self.vae, self.group, bands, BandBorders(bands, self.group))

    def encode(self, video_CTHW: Tensor, groups: tuple[int, ...] = ()) -> Tensor:
        """[3, 4 k + 1, H, W] in [-1, 1] -> [C, k + 1, h, w], the same on every process."""
        stride = self.spatial_stride
        banded = self.banded(video_CTHW.shape[-2] // stride, video_CTHW.shape[-1] // stride)
        return banded.encode(banded.bands.cut(video_CTHW, self.group.rank, stride), groups)

    def decode(self, latents_CTHW: Tensor, groups: tuple[int, ...] = ()) -> Iterator[Tensor]:
        """[C, t, h, w] -> pieces of [3, 4 t - 3, H, W] in [-1, 1], the same on every process."""
        banded = self.banded(*latents_CTHW.shape[-2:])
        for piece_CTHW in banded.decode(latents_CTHW, groups):
            yield banded.gather_frames(piece_CTHW)


class BandVAE:
    """Whole latents, but pixels in bands: decoding, color matching and encoding a chunk need no whole frame on any process."""

    def __init__(self, vae: PlainVAE, group: SequenceGroup, bands: Bands, borders: Borders):
        self.vae, self.group, self.bands, self.borders = vae, group, bands, borders
        self.pixel_lengths = [length * vae.spatial_stride for length in bands.lengths]

    @property
    def idle(self) -> bool:
        """Whether this process has no band, because the picture's longer side has fewer latents than the group has processes."""
        return self.group.rank >= self.bands.active

    def encode(self, band_CTHW: Tensor, groups: tuple[int, ...] = ()) -> Tensor:
        """This process's band of [3, 4 k + 1, H, W] -> the whole latents [C, k + 1, h, w] on every process."""
        latent_frames = (band_CTHW.shape[1] - 1) // self.vae.temporal_stride + 1
        if self.idle:
            for size in fit_groups(groups, latent_frames):
                self.join_collectives(self.vae.encoder, size)
            part_CTHW = self.empty((self.vae.config.z_dim, latent_frames, *self.bands.size(self.group.rank)))
        else:
            part_CTHW = self.vae.encode(band_CTHW, groups, self.borders)
        return gather_parts(part_CTHW, self.bands.dim, self.bands.lengths, self.group.whole)

    def decode(self, latents_CTHW: Tensor, groups: tuple[int, ...] = ()) -> Iterator[Tensor]:
        """Whole latents [C, t, h, w] -> pieces of this process's band of [3, 4 t - 3, H, W] in [-1, 1]."""
        part_CTHW = self.bands.cut(latents_CTHW, self.group.rank)
        if self.idle:
            yield from self.decode_idle(part_CTHW.split(fit_groups(groups, part_CTHW.shape[1]), dim=1))
        else:
            yield from self.vae.decode(part_CTHW, groups, self.borders)

    def decode_later(self, parts: Iterable[Tensor]) -> Iterator[Tensor]:
        """The same for whole latents that come part by part: a piece for each, decoded when it is asked for."""
        mine = (self.bands.cut(part_CTHW, self.group.rank) for part_CTHW in parts)
        return self.decode_idle(mine) if self.idle else self.vae.decode_parts(mine, self.borders, {})

    def decode_idle(self, parts: Iterable[Tensor]) -> Iterator[Tensor]:
        """The decode of an idle process: it joins the collectives and yields empty pieces."""
        for i, part_CTHW in enumerate(parts):
            height, width = (n * self.vae.spatial_stride for n in part_CTHW.shape[-2:])
            self.join_collectives(self.vae.decoder, part_CTHW.shape[1])
            frames = self.vae.temporal_stride * part_CTHW.shape[1] - (self.vae.temporal_stride - 1 if i == 0 else 0)
            yield self.empty((3, frames, height, width))

    def join_collectives(self, half: nn.Module, latent_frames: int) -> None:
        """Join the attention's collectives without keys, for one group of latent frames."""
        for width in [layer.to_qkv.in_channels for layer in half.modules() if isinstance(layer, FrameAttention)]:
            nothing = self.empty((latent_frames, 0, 1, width))
            self.borders.attend(nothing, nothing, nothing)

    def empty(self, shape: tuple[int, ...]) -> Tensor:
        return next(self.vae.parameters()).new_empty(shape)

    def stats(self, band_CTHW: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and population deviation of each whole frame's pixels, [C, T, 1, 1], from the bands (Chan et al. 1979)."""
        dtype = widest_dtype(band_CTHW.device)
        if self.idle:
            var = mean = band_CTHW.new_zeros(*band_CTHW.shape[:2], 1, 1, dtype=dtype)
        else:
            var, mean = torch.var_mean(band_CTHW.to(dtype), dim=(-2, -1), correction=0, keepdim=True)
        parts = gather_parts(torch.stack([mean, var])[None], 0, [1] * self.group.size, self.group.whole)
        shares = [length / sum(self.bands.lengths) for length in self.bands.lengths]
        mean = sum(share * part[0] for share, part in zip(shares, parts, strict=True))
        var = sum(share * (part[1] + (part[0] - mean) ** 2) for share, part in zip(shares, parts, strict=True))
        return mean.to(band_CTHW.dtype), var.sqrt().to(band_CTHW.dtype)

    def gather_frames(self, band_CTHW: Tensor) -> Tensor:
        """Bands of [3, T, H, W] -> whole frames on every process."""
        return gather_parts(band_CTHW, self.bands.dim, self.pixel_lengths, self.group.whole)

    def collect_frames(self, band_THWC: Tensor) -> Tensor:
        """Bands of finished frames -> whole frames on process 0, an empty tensor on the others."""
        return gather_on_first(band_THWC, self.bands.dim - 1, self.pixel_lengths, self.group.whole)


class BandBorders:
    """Borders of one process's band: neighbors give their nearest row (or column), and attention gathers all bands."""

    def __init__(self, bands: Bands, group: SequenceGroup):
        self.bands, self.group = bands, group

    def add_halo(self, x: Tensor, before: int, after: int) -> tuple[Tensor, tuple[int, int]]:
        """The split side gets its halo; the other side still needs zeros."""
        wide = exchange_halos(x, self.bands.dim, before, after, self.bands.active, self.group.whole)
        return wide, (0, 1) if self.bands.dim == -2 else (1, 0)

    def attend(self, q_TLNK: Tensor, k_TLNK: Tensor, v_TLNK: Tensor) -> Tensor:
        """Attention of the band's pixels to all bands. Keys are in the whole picture's order, so sums round as in one process."""
        band_THWNK = torch.cat([k_TLNK, v_TLNK], dim=-1).unflatten(1, self.bands.size(self.group.rank))
        keys = gather_parts(band_THWNK, self.bands.dim + 3, self.bands.lengths, self.group.whole).flatten(1, 2)
        return attention(q_TLNK, *keys.chunk(2, dim=-1)) if q_TLNK.shape[1] else q_TLNK
