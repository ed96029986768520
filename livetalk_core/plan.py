"""All counts of frames, latent frames, samples and tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, kw_only=True)
class StreamPlan:
    """The shape of one stream; all counts derive from these fields.

    By default chunk c covers video frames [28 c - 5, 28 c + 28): 5 motion frames, already shown, and 28 new ones.
    Frame k shows the sound of samples [640 k, 640 (k + 1)).
    Raises ValueError with the nearest valid values for a size, count or rate that does not fit.
    """

    width: int
    height: int
    fps: int = 25
    sample_rate: int = 16000
    chunk_frames: int = 33
    motion_frames: int = 5
    audio_context_s: int = 8
    audio_window: int = 5
    latent_channels: int = 16
    temporal_stride: int = 4
    spatial_stride: int = 8
    patch_size: int = 2

    def __post_init__(self) -> None:
        check_multiple("width", self.width, self.size_multiple)
        check_multiple("height", self.height, self.size_multiple)
        check_frame_count("chunk_frames", self.chunk_frames, self.temporal_stride)
        check_frame_count("motion_frames", self.motion_frames, self.temporal_stride)
        if self.motion_frames >= self.chunk_frames:
            raise ValueError(
                f"motion_frames={self.motion_frames} must be less than chunk_frames={self.chunk_frames}; the published pair is 5 and 33"
            )
        if self.fps <= 0 or self.sample_rate % self.fps:
            raise ValueError(f"fps={self.fps} must divide sample_rate={self.sample_rate}; the published pair is 25 and 16000")
        if self.audio_context_s * self.fps < self.chunk_frames:
            raise ValueError(
                f"audio_context_s={self.audio_context_s} must hold a chunk of {self.chunk_frames} frames; "
                f"use {-(-self.chunk_frames // self.fps)} or more"
            )

    @property
    def size_multiple(self) -> int:
        """Width and height must be multiples of this: a token's pixels per side."""
        return self.spatial_stride * self.patch_size

    @property
    def new_frames(self) -> int:
        return self.chunk_frames - self.motion_frames

    @property
    def samples_per_frame(self) -> int:
        return self.sample_rate // self.fps

    @property
    def new_samples(self) -> int:
        return self.new_frames * self.samples_per_frame

    @property
    def context_samples(self) -> int:
        """Samples that the audio encoder sees for a chunk."""
        return self.audio_context_s * self.sample_rate

    @property
    def latent_frames(self) -> int:
        return self.latents_in(self.chunk_frames)

    @property
    def motion_latents(self) -> int:
        return self.latents_in(self.motion_frames)

    @property
    def latent_height(self) -> int:
        return self.height // self.spatial_stride

    @property
    def latent_width(self) -> int:
        return self.width // self.spatial_stride

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """(C, t, h, w) of one chunk."""
        return (self.latent_channels, self.latent_frames, self.latent_height, self.latent_width)

    @property
    def tokens_per_latent(self) -> int:
        return (self.latent_height // self.patch_size) * (self.latent_width // self.patch_size)

    @property
    def tokens(self) -> int:
        return self.latent_frames * self.tokens_per_latent

    def latents_in(self, frames: int) -> int:
        """Latent frames of `frames` = 4 k + 1 video frames."""
        return (frames - 1) // self.temporal_stride + 1

    def frames_in(self, seconds: Fraction | float) -> int:
        """Video frames for that much sound: fps * seconds to the nearest, halves up, at least one."""
        return nearest_frames(seconds, self.fps)

    def chunks_in(self, frames: int) -> int:
        return -(-frames // self.new_frames)


def nearest_frames(seconds: Fraction | float, fps: int) -> int:
    """fps * seconds to the nearest whole number, halves up, at least one: 0.5 s at 25 a second are 13 frames."""
    return max(1, math.floor(Fraction(seconds) * fps + Fraction(1, 2)))


def check_multiple(name: str, value: int, multiple: int) -> None:
    """ValueError with the nearest valid values unless `value` is a positive multiple."""
    if value > 0 and value % multiple == 0:
        return
    below, above = value // multiple * multiple, -(-value // multiple) * multiple
    good = [str(n) for n in (below, above) if n > 0] or [str(multiple)]
    raise ValueError(f"{name}={value} must be a multiple of {multiple}; nearest: {' or '.join(good)}")


def check_frame_count(name: str, value: int, stride: int = 4) -> None:
    """ValueError with the nearest valid values unless `value` = stride k + 1, k >= 0."""
    if value > 0 and value % stride == 1:
        return
    below = (value - 1) // stride * stride + 1
    good = [str(n) for n in (below, below + stride) if n > 0] or ["1"]
    raise ValueError(f"{name}={value} must be {stride}k + 1; nearest: {' or '.join(good)}")
