"""Streams whose frames are made at half the size and then enlarged: for them the VAE and the enlarger are one VAE of twice the stride."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from livetalk_core.models.enlarger import TIMES, Enlarger, halve
from livetalk_core.types import VideoVAE


class EnlargedVAE:
    """A VAE and an enlarger, for one picture."""

    def __init__(self, vae: VideoVAE, enlarger: Enlarger, picture_CHW: Tensor):
        """`picture_CHW`: the stream's reference [3, H, W] in [-1, 1], at full size."""
        self.vae, self.enlarger, self.picture_CHW = vae, enlarger, picture_CHW

    @property
    def temporal_stride(self) -> int:
        return self.vae.temporal_stride

    @property
    def spatial_stride(self) -> int:
        return TIMES * self.vae.spatial_stride

    def encode(self, video_CTHW: Tensor, groups: tuple[int, ...] = ()) -> Tensor:
        """[3, 4 k + 1, H, W] in [-1, 1] -> the latents [C, k + 1, h, w] of the halved video."""
        return self.vae.encode(halve(video_CTHW), groups)

    def decode(self, latents_CTHW: Tensor, groups: tuple[int, ...] = ()) -> Iterator[Tensor]:
        """[C, t, h, w] -> pieces of [3, 4 t - 3, H, W] in [-1, 1], enlarged."""
        for piece_CTHW in self.vae.decode(latents_CTHW, groups):
            yield self.enlarged(piece_CTHW)

    def enlarged(self, piece_CTHW: Tensor) -> Tensor:
        """Frames [3, T, H, W] at twice the side."""
        picture = self.picture_CHW[None].to(piece_CTHW)
        return self.enlarger(piece_CTHW.transpose(0, 1), picture).frames_BCHW.clamp(-1, 1).transpose(0, 1)
