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
    """Values per window slot: audio layers x channels."""
    audio_hidden: int = 512
    audio_width: int = 768
    audio_tokens: int = 32
    patch_size: int = 2
    temporal_stride: int = 4
    eps: float = 1e-6
    predicts: str = "velocity"
    """velocity, or change: x0 less the reference latents. A narrow model can say that of wide latents, since it need repeat neither the
    noise (Li and He 2025) nor what stays."""
    picture_in: str = "first"
    """The latent frames whose condition has the picture: the first, the others grey, as published; or every."""
    shifts: int = 0
    """Kernels that move the reference latents, for a change to be mixed of too, place by place (Jia et al. 2016): what a head's motion
    does to wide latents, a narrow model need only point at."""

    def __post_init__(self) -> None:
        for name, allowed in (("predicts", ("velocity", "change")), ("picture_in", ("first", "every"))):
            if vars(self)[name] not in allowed:
                raise ValueError(f"{name}={vars(self)[name]!r} must be {' or '.join(allowed)}")
        if self.shifts and self.predicts != "change":
            raise ValueError(f"shifts={self.shifts} are part of a change; set predicts='change', or shifts=0")
