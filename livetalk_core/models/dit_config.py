"""The sizes of the audio-driven DiT."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """Sizes of the DiT; the defaults are the published 14B model's."""

    dim: int = 5120
    ffn_dim: int = 13824
    num_heads: int = 40
    num_layers: int = 40
    in_dim: int = 36
    out_dim: int = 16
    freq_dim: int = 256
    text_dim: int = 4096
    text_len: int = 512
    image_dim: int = 1280
    audio_window: int = 5
    audio_dim: int = 12 * 768
    """Features per window slot: audio layers x channels."""
    audio_hidden: int = 512
    audio_width: int = 768
    audio_tokens: int = 32
    patch_size: int = 2
    temporal_stride: int = 4
    eps: float = 1e-6

    @property
    def answer_dim(self) -> int:
        """Output channels: those of the velocity."""
        return self.out_dim

    def picture_frames(self, frames: int) -> int:
        """How many video frames of the condition show the picture, counted from the first; the others are gray."""
        return 1
