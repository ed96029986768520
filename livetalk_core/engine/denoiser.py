"""The DiT as a Denoiser. Values that are constant over a chunk, a stream or a schedule are computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from livetalk_core.engine.guidance import Guidance, Pass, batches
from livetalk_core.models.audio_attention import AudioKeys, ScaledAudio
from livetalk_core.models.dit import AudioDiT, EmbeddedCondition, TimeEmbedding
from livetalk_core.models.dit_config import DiTConfig
from livetalk_core.models.layers import ContextKeys
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
    batch_passes: bool = True
    """Make the passes of guidance in one call: offloaded weights are then copied once a step. It needs more memory."""


def absorbed_bytes(config: DiTConfig, latent_frames: int, dtype: torch.dtype) -> int:
    """Bytes of the absorbed audio keys and values of so many of a chunk's latent frames."""
    return 2 * config.num_layers * latent_frames * config.num_heads * config.audio_tokens * config.dim * dtype.itemsize


PLAIN = Cuts(absorb_audio=False, merge_padding=False, skip_motion=False, batch_passes=False)
"""No optimization, for comparison."""


KEYED = ("text_LD", "image_LD", "speaker_masks_KHW")
"""What of a reference is in a batch."""


@dataclass(kw_only=True)
class Batch:
    """One call of the DiT in each step: its passes, and the keys that it holds for them."""

    passes: tuple[Pass, ...]
    context: list[ContextKeys]
    audio: Sequence[AudioKeys] = ()
    masks_KHW: Tensor | None = None


class DiTDenoiser:
    """x0 from x by the DiT's velocity: x0 = x - t v. It holds the keys of one stream, so each stream needs its own.

    `times`: flow times whose embeddings are computed at the stream's first step; others are computed on first use.
    `audio_strength` multiplies the output of every audio attention; 1 leaves it out.
    """

    def __init__(
        self,
        dit: AudioDiT,
        times: Sequence[float] = (),
        cuts: Cuts | None = None,
        guidance: Guidance = Guidance(),  # noqa: B008 (frozen)
        audio_strength: float = 1.0,
    ):
        self.dit, self.schedule, self.cuts = dit, times, cuts or Cuts()
        self.guidance, self.audio_strength = guidance, audio_strength
        self.reference: Reference | None = None
        self.condition: EmbeddedCondition | None = None
        self.batches: list[Batch] = []
        self.window: AudioWindow | None = None
        self.times: dict[float, TimeEmbedding] = {}

    def __call__(self, x_CTHW: Tensor, t: float, reference: Reference, window: AudioWindow, motion_latents: int = 0) -> Tensor:
        """x0 [C, T, H, W] float32; the values of the first `motion_latents` frames do not matter."""
        if reference is not self.reference:
            self.hold_reference(reference)
        if window is not self.window:
            frames = self.dit.sequence.frames(x_CTHW.shape[1], self.condition.grid.tokens_per_frame)
            self.hold_window(window, x_CTHW.device, frames)
        velocity: dict[Pass, Tensor] = {}
        for batch in self.batches:
            answer_BCTHW = self.answer(batch, x_CTHW, t, motion_latents)
            for each, answer in zip(batch.passes, answer_BCTHW, strict=True):
                velocity[each] = self.dit.to_velocity(answer, x_CTHW, t, reference.cond_CTHW)
        return x_CTHW - t * self.guidance.combine(velocity)

    def answer(self, batch: Batch, x_CTHW: Tensor, t: float, motion_latents: int) -> Tensor:
        """The network's output for each pass [B, C, T, H, W]."""
        count = len(batch.passes)
        return self.dit(
            x_CTHW[None].expand(count, -1, -1, -1, -1),
            self.condition_of(count),
            self.embedded_time(t, x_CTHW.device),
            batch.context,
            batch.audio,
            batch.masks_KHW,
            motion_latents if self.cuts.skip_motion else 0,
        )

    def condition_of(self, count: int) -> EmbeddedCondition:
        """The condition, repeated for each pass of a batch without a copy."""
        return type(self.condition)(*(repeated(value, count) for value in self.condition))

    def hold_reference(self, reference: Reference) -> None:
        """Compute what depends only on picture, prompt and schedule. Where the condition alone is new, the keys of the prompt and the
        picture stay."""
        held, self.condition = self.reference, self.dit.embed_condition(reference.cond_CTHW[None])
        if held is None or any(getattr(held, name) is not getattr(reference, name) for name in KEYED):
            masks_KHW = reference.speaker_masks_KHW
            grouped = batches(self.guidance.passes, together=self.cuts.batch_passes, two_speakers=masks_KHW is not None)
            self.batches = [self.make_batch(passes, reference) for passes in grouped]
        for t in self.schedule:
            self.embedded_time(t, reference.cond_CTHW.device)
        self.reference, self.window = reference, None

    def make_batch(self, passes: tuple[Pass, ...], reference: Reference) -> Batch:
        texts = [self.guidance.negative_LD if each.negative else reference.text_LD for each in passes]
        image_BLD = reference.image_LD[None].expand(len(passes), -1, -1)
        context = self.dit.embed_context(pad_rows(texts), image_BLD, self.cuts.merge_padding)
        return Batch(passes=passes, context=context, masks_KHW=None if passes[0].silent else reference.speaker_masks_KHW)

    def hold_window(self, window: AudioWindow, device: torch.device, frames: slice = EVERY_FRAME) -> None:
        """Compute the audio keys of a chunk, for the latent frames that this process needs."""
        features_BPTWX = window.features_PTWSD[None].flatten(-2).to(device)
        assert self.batches, "the reference is held first"
        silence_BPTWX = torch.zeros_like(features_BPTWX[:, :1])
        for batch in self.batches:
            given = [silence_BPTWX if each.silent else features_BPTWX for each in batch.passes]
            batch.audio = self.audio_keys(given[0] if len(given) == 1 else torch.cat(given), frames)
        self.window = window

    def audio_keys(self, features_BPTWX: Tensor, frames: slice = EVERY_FRAME) -> Sequence[AudioKeys]:
        audio: Sequence[AudioKeys] = self.dit.embed_audio(features_BPTWX, frames)
        if self.cuts.absorb_audio and features_BPTWX.shape[1] == 1:
            audio = self.dit.absorb_audio(audio, features_BPTWX.shape[0])
        if self.audio_strength == 1:
            return audio
        strength = torch.tensor(self.audio_strength, dtype=self.dit.patch_embedding.weight.dtype).to(features_BPTWX.device)
        return [ScaledAudio(keys, strength) for keys in audio]

    def release_window(self) -> None:
        """Free a chunk's audio keys, up to 9.4 GB at 14B, so that streams hold none between chunks."""
        for batch in self.batches:
            batch.audio = ()
        self.window = None

    def embedded_time(self, t: float, device: torch.device) -> TimeEmbedding:
        if t not in self.times:
            self.times[t] = self.dit.embed_time(torch.tensor([1000 * t], dtype=torch.float32, device=device))
        return self.times[t]


def repeated(value: object, count: int) -> object:
    """A tensor [1, ...] as [count, ...]; anything else as it is."""
    return value.expand(count, *value.shape[1:]) if isinstance(value, Tensor) and count > 1 else value


def pad_rows(texts: Sequence[Tensor]) -> Tensor:
    """Prompts [rows, D] as one tensor [B, rows, D]. Rows of zeros fill the shorter ones, as the DiT's own padding does."""
    rows = max(len(text_LD) for text_LD in texts)
    return torch.stack([F.pad(text_LD, (0, 0, 0, rows - len(text_LD))) for text_LD in texts])
