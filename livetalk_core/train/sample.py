"""One sample of training: a few chunks in a row of one clip, encoded once, and its reference.

Axes: K chunks, C channels, T frames (latent frames in latents), H W size, S audio layers, D width, N samples of sound.
Window k covers the clip's frames [28 k, 28 k + 33), encoded alone: its first latents are its motion latents, since the VAE is causal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from livetalk_core.models.dit_config import DiTConfig
from livetalk_core.plan import StreamPlan
from livetalk_core.stream.condition import ENCODE_GROUPS, encode_picture, first_latent, mask_condition
from livetalk_core.stream.window import slice_windows
from livetalk_core.types import AudioWindow, Reference, VideoVAE


@dataclass(frozen=True, kw_only=True)
class Clip:
    """What a source of data gives: pictures, sound, and a picture of the same person from outside the clip."""

    key: str
    """Its own among all clips."""
    frames_THWC: Tensor
    """uint8, T = 28 K + 5, 25 a second."""
    sound_N: Tensor
    """float32 16 kHz: the clip's, 640 samples a frame, with up to `lead` frames before and some after."""
    lead: int
    """Frames of sound before the clip."""
    reference_HWC: Tensor
    """uint8."""
    caption: str
    mouth_HW: Tensor | None = None
    """Bool, where the mouth is at any time of the clip; None where nobody knows."""


@dataclass(frozen=True, kw_only=True)
class Encoders:
    """The frozen networks, as callables."""

    vae: VideoVAE
    audio: Callable[[Tensor], Tensor]
    """Sound [N] -> [T, S, D]."""
    text: Callable[[str], Tensor]
    image: Callable[[Tensor], Tensor]
    plan: Callable[[int, int], StreamPlan]
    dit: DiTConfig
    """Of the network that learns: it says what its condition shows."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A clip, encoded."""

    key: str
    plan: StreamPlan
    latents_KCTHW: Tensor
    reference: Reference
    features_TSD: Tensor
    """One feature a frame, with the window's reach of two frames before and after the clip."""
    sound_N: Tensor
    """float32, the clip's own."""
    mouth_HW: Tensor
    """float32 [h, w] at the latents' size, 1 where the mouth is."""

    @property
    def chunks(self) -> int:
        return len(self.latents_KCTHW)

    def window(self, index: int) -> AudioWindow:
        """The sound of one chunk."""
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
        """On a device; the sound stays."""
        reference = self.reference
        moved = {name: value.to(device) for name, value in vars(reference).items() if isinstance(value, Tensor)}
        return replace(
            self,
            reference=replace(reference, **moved),
            latents_KCTHW=self.latents_KCTHW.to(device),
            features_TSD=self.features_TSD.to(device),
            mouth_HW=self.mouth_HW.to(device),
        )


@torch.no_grad()
def encode_clip(clip: Clip, encoders: Encoders, device: torch.device) -> dict[str, Tensor]:
    """A clip's tensors as they are stored: half precision, bytes where bytes suffice."""
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
    }


def decode_tensors(key: str, tensors: dict[str, Tensor], plan: StreamPlan) -> Sample:
    """The Sample of stored tensors, float32."""
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
    )


def cut_features(features_TSD: Tensor, clip: Clip, plan: StreamPlan) -> Tensor:
    """The clip's frames and the window's reach around them, held at the ends of the sound."""
    reach = plan.audio_window // 2
    frames = torch.arange(clip.lead - reach, clip.lead + len(clip.frames_THWC) + reach)
    return features_TSD[frames.clamp(0, len(features_TSD) - 1).to(features_TSD.device)]


def cut_sound(clip: Clip, plan: StreamPlan) -> Tensor:
    """The samples under the clip's own frames."""
    start = clip.lead * plan.samples_per_frame
    return clip.sound_N[start : start + len(clip.frames_THWC) * plan.samples_per_frame].clamp(-1, 1)


def shrink_mask(mouth_HW: Tensor | None, plan: StreamPlan) -> Tensor:
    """uint8 [h, w]: 1 where any of the mouth is in the latent's pixels."""
    if mouth_HW is None:
        return torch.zeros(plan.latent_height, plan.latent_width, dtype=torch.uint8)
    blocks = mouth_HW.unflatten(1, (-1, plan.spatial_stride)).unflatten(0, (-1, plan.spatial_stride))
    return blocks.any(3).any(1).to(torch.uint8)


def to_signed(frames_THWC: Tensor) -> Tensor:
    """uint8 [T, H, W, 3] -> float32 [3, T, H, W] in [-1, 1]."""
    return frames_THWC.permute(3, 0, 1, 2).float() / 127.5 - 1
