"""The DiT as a Denoiser. Values that are constant over a chunk, a stream or a schedule are computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from livetalk_core.models.audio_attention import AbsorbedAudio
from livetalk_core.models.dit import AudioDiT, EmbeddedCondition, TimeEmbedding
from livetalk_core.models.dit_config import DiTConfig
from livetalk_core.models.layers import ContextKeys, KeyValue
from livetalk_core.models.runner import EVERY_FRAME
from livetalk_core.types import AudioWindow, Reference


@dataclass(frozen=True, kw_only=True)
class Cuts:
    """Optimizations that change the result by rounding only."""

    absorb_audio: bool = True
    """Fold the projections of audio attention into its keys: a quarter of the work, but 9.4 GB of keys at 14B and 720 x 416 in bfloat16."""
    merge_padding: bool = True
    """Merge the prompt's equal padding rows into one key."""
    skip_motion: bool = True
    """Compute no queries for motion tokens in the last block."""


def absorbed_bytes(config: DiTConfig, latent_frames: int, dtype: torch.dtype) -> int:
    """Bytes of the absorbed audio keys and values of so many of a chunk's latent frames."""
    return 2 * config.num_layers * latent_frames * config.num_heads * config.audio_tokens * config.dim * dtype.itemsize


PLAIN = Cuts(absorb_audio=False, merge_padding=False, skip_motion=False)
"""No optimization, for comparison."""


class DiTDenoiser:
    """x0 from x by the DiT's velocity: x0 = x - t v. It holds the keys of one stream, so each stream needs its own.

    `times`: flow times whose embeddings are computed at the stream's first step; others are computed on first use.
    """

    def __init__(self, dit: AudioDiT, times: Sequence[float] = (), cuts: Cuts | None = None):
        self.dit, self.schedule, self.cuts = dit, times, cuts or Cuts()
        self.reference: Reference | None = None
        self.condition: EmbeddedCondition | None = None
        self.context: list[ContextKeys] = []
        self.window: AudioWindow | None = None
        self.audio: list[KeyValue] | list[AbsorbedAudio] = []
        self.times: dict[float, TimeEmbedding] = {}

    def __call__(self, x_CTHW: Tensor, t: float, reference: Reference, window: AudioWindow, motion_latents: int = 0) -> Tensor:
        """x0 [C, T, H, W] float32; the values of the first `motion_latents` frames do not matter."""
        if reference is not self.reference:
            self.hold_reference(reference)
        if window is not self.window:
            frames = self.dit.sequence.frames(x_CTHW.shape[1], self.condition.grid.tokens_per_frame)
            self.hold_window(window, x_CTHW.device, frames)
        answer = self.dit(
            x_CTHW[None],
            self.condition,
            self.embedded_time(t, x_CTHW.device),
            self.context,
            self.audio,
            reference.speaker_masks_KHW,
            motion_latents if self.cuts.skip_motion else 0,
        )
        return x_CTHW - t * self.dit.to_velocity(answer[0], x_CTHW, t, reference.cond_CTHW)

    def hold_reference(self, reference: Reference) -> None:
        """Compute what depends only on picture, prompt and schedule, once a stream."""
        self.condition = self.dit.embed_condition(reference.cond_CTHW[None])
        self.context = self.dit.embed_context(reference.text_LD[None], reference.image_LD[None], self.cuts.merge_padding)
        for t in self.schedule:
            self.embedded_time(t, reference.cond_CTHW.device)
        self.reference = reference

    def hold_window(self, window: AudioWindow, device: torch.device, frames: slice = EVERY_FRAME) -> None:
        """Compute the audio keys of a chunk, for the latent frames that this process needs."""
        self.audio = self.dit.embed_audio(window.features_PTWSD[None].flatten(-2).to(device), frames)
        if self.cuts.absorb_audio and window.features_PTWSD.shape[0] == 1:
            self.audio = self.dit.absorb_audio(self.audio)
        self.window = window

    def release_window(self) -> None:
        """Free a chunk's audio keys, up to 9.4 GB at 14B, so that streams hold none between chunks."""
        self.audio, self.window = [], None

    def embedded_time(self, t: float, device: torch.device) -> TimeEmbedding:
        if t not in self.times:
            self.times[t] = self.dit.embed_time(torch.tensor([1000 * t], dtype=torch.float32, device=device))
        return self.times[t]
