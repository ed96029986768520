"""The LATENT of a stream: the picture's own latent frame, then the new latent frames, so that any decoder shows them in time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from . import engines

if TYPE_CHECKING:
    from torch import Tensor

    from livetalk_core.types import Reference

NUM_FRAMES = "livetalk_num_frames"
"""Extra entry of our LATENT: frames of its video. The frame of the picture comes before them."""
PICTURE = "livetalk_picture"
"""Extra entry of our LATENT if its frames are enlarged when they are decoded: the picture [3, H, W] in [-1, 1] with their detail."""
LEAD_FRAMES = 1
"""Frames before those: the picture's latent frame decodes to one."""


class LatentSource(Protocol):
    """A stream, as far as its latents are concerned."""

    spec: engines.EngineSpec
    reference: Reference

    @property
    def num_frames(self) -> int: ...

    def latents(self) -> Tensor:
        """Normalized latents [C, t, h, w] of the whole stream."""
        ...


class LazyLatent(dict):
    """The LATENT of a stream. Its entries are computed when a node first accesses the dict, in any way."""

    def __init__(self, stream: LatentSource) -> None:
        super().__init__()
        self.stream: LatentSource | None = stream

    def fill(self) -> None:
        """Run the stream, once. Samples [1, C, t, h, w] are in the VAE's own scale, as core nodes expect."""
        if self.stream is None:
            return
        stream, preset = self.stream, engines.engine_for(self.stream.spec).preset
        raw_CTHW = preset.vae.unscale(stream.latents())[None].float().cpu()
        self.update({"samples": guard(raw_CTHW, preset.name), NUM_FRAMES: stream.num_frames})
        if preset.enlarges(*reversed(stream.reference.pixels_CHW.shape[1:])):
            self[PICTURE] = stream.reference.pixels_CHW.float().cpu()
        self.stream = None

    def __missing__(self, name: str):
        if self.stream is None:
            raise KeyError(name)
        self.fill()
        return self[name]

    def __contains__(self, name: object) -> bool:
        self.fill()
        return super().__contains__(name)

    def __iter__(self):
        self.fill()
        return super().__iter__()

    def keys(self):
        self.fill()
        return super().keys()

    def items(self):
        self.fill()
        return super().items()

    def get(self, name, default=None):
        self.fill()
        return super().get(name, default)

    def copy(self) -> dict:
        self.fill()
        return dict(super().items())


def join_latents(chunks, picture_CTHW: Tensor, motion_latents: int, num_frames: int, temporal_stride: int) -> Tensor:
    """[C, t, h, w] of a whole stream: the picture's latent frame [C, 1, h, w], then the new ones, as many as its frames need."""
    import torch

    new = [latents_CTHW[:, motion_latents:] for latents_CTHW in chunks]
    num_latents = -(-num_frames // temporal_stride)
    return torch.cat([picture_CTHW.to(new[0]), *new], dim=1)[:, : 1 + num_latents]


def frames_to_show(latent: dict, total: int, num_spoken: int | None) -> tuple[int, int]:
    """(frames to skip, frames to keep) of `total` decoded ones.

    A LATENT that was saved and loaded has lost its extra entry: then the number of frames of the connected speech tells whether the
    latent is a stream's.
    """
    keep = latent.get(NUM_FRAMES, num_spoken)
    if keep is None or not 0 <= total - LEAD_FRAMES - keep < 4:
        return 0, total
    return LEAD_FRAMES, keep


def guard(samples: Tensor, model: str) -> Tensor:
    """Latents of nano, whose 64 channels no core VAE knows: a convolution over them says so. Others are returned as they are."""
    import torch

    if model != "nano":
        return samples

    class NanoLatents(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            if func.__name__ in ("conv2d", "conv3d"):
                raise ValueError(
                    "these latents are nano's, which a core VAE cannot decode; use LiveTalk Parallel VAE Decode with its engine"
                )
            return super().__torch_function__(func, types, args, kwargs or {})

    return samples.as_subclass(NanoLatents)
