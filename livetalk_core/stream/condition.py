"""A picture as the DiT's condition: its latents, and a mask that says which latent frame is known."""

from __future__ import annotations

import torch
from torch import Tensor

from livetalk_core.plan import StreamPlan
from livetalk_core.types import VideoVAE

ENCODE_GROUPS = (1, 2)
"""Latent frames encoded at a time, to bound memory. The first is alone, so it is that of the picture encoded by itself, to the bit."""


def encode_condition(vae: VideoVAE, pixels_CHW: Tensor, plan: StreamPlan, picture_frames: int = 1) -> Tensor:
    """[4 + C, t, h, w] of a chunk that shows the picture [3, H, W] in its first frames and is grey from there on."""
    return mask_condition(encode_picture(vae, pixels_CHW, plan, picture_frames), plan)


def encode_picture(vae: VideoVAE, pixels_CHW: Tensor, plan: StreamPlan, picture_frames: int) -> Tensor:
    """Latents [C, t, h, w] of [picture, ..., grey, ...]."""
    video_CTHW = pixels_CHW.new_zeros(3, plan.chunk_frames, plan.height, plan.width)
    video_CTHW[:, :picture_frames] = pixels_CHW[:, None]
    return vae.encode(video_CTHW, ENCODE_GROUPS)


def mask_condition(latents_CTHW: Tensor, plan: StreamPlan) -> Tensor:
    """The latents after a mask that is 1 in the first latent frame."""
    mask_CTHW = latents_CTHW.new_zeros(plan.temporal_stride, *latents_CTHW.shape[1:])
    mask_CTHW[:, 0] = 1
    return torch.cat([mask_CTHW, latents_CTHW])


def first_latent(condition_CTHW: Tensor, plan: StreamPlan) -> Tensor:
    """[C, 1, h, w]: the picture's own latent frame."""
    return condition_CTHW[plan.temporal_stride :, :1].clone()
