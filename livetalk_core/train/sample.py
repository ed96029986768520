"""A training sample: a few consecutive chunks of one clip, encoded, and a reference.

Axes: K chunks, C channels, T frames (latent frames in latents), H W size, S audio layers, D width, N samples of sound.
Chunk k covers the clip's frames [28 k, 28 k + 33) and is encoded alone. The VAE is causal, so its first latents are its motion latents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from livetalk_core.models.dit_config import DiTConfig
from livetalk_core.plan import StreamPlan
from livetalk_core.stream.blinks import with_lids
from livetalk_core.stream.condition import ENCODE_GROUPS, encode_picture, first_latent, mask_condition
from livetalk_core.stream.window import slice_windows
from livetalk_core.train.bend import bend_frames
from livetalk_core.train.draws import Draws
from livetalk_core.types import AudioWindow, Reference, VideoVAE


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A clip from a data source: pictures, sound, and a reference picture of the same person from outside the clip."""

    key: str
    """Unique among all clips."""
    frames_THWC: Tensor
    """uint8, T = 28 K + 5, 25 a second."""
    sound_N: Tensor
    """float32 at 16 kHz, 640 samples a frame: `lead` frames of sound, the clip's own, and some after it."""
    lead: int
    """Frames of sound before the clip."""
    reference_HWC: Tensor
    """uint8."""
    caption: str
    mouth_HW: Tensor | None = None
    """Bool, true where the mouth is at any time in the clip; None if unknown."""
    lids_T: Tensor | None = None
    """float32, how far the lids are shut in each frame; None if unknown, which the DiT cannot tell from open eyes."""


@dataclass(frozen=True, kw_only=True)
class Encoders:
    """The frozen networks that encode a clip."""

    vae: VideoVAE
    audio: Callable[[Tensor], Tensor]
    """Sound [N] -> [T, S, D]."""
    text: Callable[[str], Tensor]
    image: Callable[[Tensor], Tensor]
    plan: Callable[[int, int], StreamPlan]
    dit: DiTConfig
    """Config of the DiT in training; it sets how many frames of the condition show the reference."""
    bend: bool = False
    """Whether each chunk's motion latents are stored a second time, from bent frames, for training with `bent_motion`."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """An encoded clip."""

    key: str
    plan: StreamPlan
    latents_KCTHW: Tensor
    reference: Reference
    features_TSD: Tensor
    """One feature per frame, with two more frames before and after the clip for the audio window."""
    sound_N: Tensor
    """The clip's sound, float32."""
    mouth_HW: Tensor
    """float32 [h, w] at the latents' size, 1 where the mouth is."""
    lids_T: Tensor | None = None
    """float32, how far the lids are shut in each frame of the clip; None if unknown."""
    bent_KCTHW: Tensor | None = None
    """The chunks' motion latents from bent frames (bend.py); None if they were not stored."""

    @property
    def chunks(self) -> int:
        return len(self.latents_KCTHW)

    def shown(self, index: int) -> Reference:
        """The reference of one chunk, with its lids."""
        if self.lids_T is None:
            return self.reference
        start = index * self.plan.new_frames
        return with_lids(self.reference, self.lids_T[start : start + self.plan.chunk_frames])

    def shut(self, index: int) -> Tensor:
        """[t - 1] how far the lids are shut in each latent frame of one chunk but the first; 0 where it is unknown."""
        count = self.latents_KCTHW.shape[2] - 1
        if self.lids_T is None:
            return self.latents_KCTHW.new_zeros(count)
        first = index * self.plan.new_frames + 1
        return self.lids_T[first : first + self.plan.chunk_frames - 1].unflatten(0, (count, -1)).amax(1).to(self.latents_KCTHW)

    def window(self, index: int) -> AudioWindow:
        """The audio window of one chunk."""
        plan = self.plan
        first = plan.audio_window // 2 + index * plan.new_frames
        start = (plan.motion_frames + index * plan.new_frames) * plan.samples_per_frame
        return AudioWindow(
            index=index,
            features_PTWSD=slice_windows(self.features_TSD[None], first, plan),
            samples=self.sound_N[start : start + plan.new_samples],
            num_valid=plan.new_frames,
        )

    def to(self, device: torch.device) -> Sample:
        """A copy on a device; the sound stays where it is."""
        reference = self.reference
        moved = {name: value.to(device) for name, value in vars(reference).items() if isinstance(value, Tensor)}
        return replace(
            self,
            reference=replace(reference, **moved),
            latents_KCTHW=self.latents_KCTHW.to(device),
            bent_KCTHW=None if self.bent_KCTHW is None else self.bent_KCTHW.to(device),
            features_TSD=self.features_TSD.to(device),
            mouth_HW=self.mouth_HW.to(device),
        )


@torch.no_grad()
def encode_clip(clip: Clip, encoders: Encoders, device: torch.device) -> dict[str, Tensor]:
    """The tensors of a clip as they are stored: bfloat16, or integers where these suffice."""
    height, width = clip.frames_THWC.shape[1:3]
    plan = encoders.plan(width, height)
    dtype = next(encoders.vae.parameters()).dtype
    video_CTHW = to_signed(clip.frames_THWC).to(device, dtype)
    starts = range(0, video_CTHW.shape[1] - plan.chunk_frames + 1, plan.new_frames)
    windows = [encoders.vae.encode(video_CTHW[:, start : start + plan.chunk_frames], ENCODE_GROUPS) for start in starts]
    picture_CHW = to_signed(clip.reference_HWC[None])[:, 0].to(device, dtype)
    picture_frames = encoders.dit.picture_frames(plan.chunk_frames)
    return {
        "latents": torch.stack(windows).bfloat16().cpu(),
        "reference": encode_picture(encoders.vae, picture_CHW, plan, picture_frames).bfloat16().cpu(),
        "pixels": clip.reference_HWC.permute(2, 0, 1).contiguous(),
        "text": encoders.text(clip.caption).bfloat16().cpu(),
        "image": encoders.image(picture_CHW).bfloat16().cpu(),
        "features": cut_features(encoders.audio(clip.sound_N), clip, plan).bfloat16().cpu(),
        "sound": (cut_sound(clip, plan) * 32767).round().to(torch.int16),
        "mouth": shrink_mask(clip.mouth_HW, plan),
        **({} if clip.lids_T is None else {"lids": clip.lids_T.float()}),
        **({"bent": encode_bent(clip.key, video_CTHW, starts, encoders.vae, plan).bfloat16().cpu()} if encoders.bend else {}),
    }


def encode_bent(key: str, video_CTHW: Tensor, starts: Sequence[int], vae: VideoVAE, plan: StreamPlan) -> Tensor:
    """[K, C, motion latents, h, w]: latents of each chunk's motion frames, bent."""
    motion = (video_CTHW[:, start : start + plan.motion_frames] for start in starts)
    return torch.stack([vae.encode(bend_frames(frames, Draws.of(key, "bend", k)), ENCODE_GROUPS) for k, frames in enumerate(motion)])


def decode_tensors(key: str, tensors: dict[str, Tensor], plan: StreamPlan) -> Sample:
    """The Sample from stored tensors, in float32."""
    cond_CTHW = mask_condition(tensors["reference"].float(), plan)
    return Sample(
        key=key,
        plan=plan,
        latents_KCTHW=tensors["latents"].float(),
        reference=Reference(
            text_LD=tensors["text"].float(),
            image_LD=tensors["image"].float(),
            cond_CTHW=cond_CTHW,
            first_CTHW=first_latent(cond_CTHW, plan),
            pixels_CHW=tensors["pixels"].float() / 127.5 - 1,
        ),
        features_TSD=tensors["features"].float(),
        sound_N=tensors["sound"].float() / 32767,
        mouth_HW=tensors["mouth"].float(),
        lids_T=tensors.get("lids"),
        bent_KCTHW=tensors["bent"].float() if "bent" in tensors else None,
    )


def cut_features(features_TSD: Tensor, clip: Clip, plan: StreamPlan) -> Tensor:
    """Features of the clip and of the audio window's reach around it; at the ends of the sound the last feature repeats."""
    reach = plan.audio_window // 2
    frames = torch.arange(clip.lead - reach, clip.lead + len(clip.frames_THWC) + reach)
    return features_TSD[frames.clamp(0, len(features_TSD) - 1).to(features_TSD.device)]


def cut_sound(clip: Clip, plan: StreamPlan) -> Tensor:
    """The sound of the clip's own frames."""
    start = clip.lead * plan.samples_per_frame
    return clip.sound_N[start : start + len(clip.frames_THWC) * plan.samples_per_frame].clamp(-1, 1)


def shrink_mask(mouth_HW: Tensor | None, plan: StreamPlan) -> Tensor:
    """uint8 [h, w]: 1 where a latent's pixels contain any of the mouth."""
    if mouth_HW is None:
        return torch.zeros(plan.latent_height, plan.latent_width, dtype=torch.uint8)
    blocks = mouth_HW.unflatten(1, (-1, plan.spatial_stride)).unflatten(0, (-1, plan.spatial_stride))
    return blocks.any(3).any(1).to(torch.uint8)


def to_signed(frames_THWC: Tensor) -> Tensor:
    """uint8 [T, H, W, 3] -> float32 [3, T, H, W] in [-1, 1]."""
    return frames_THWC.permute(3, 0, 1, 2).float() / 127.5 - 1
