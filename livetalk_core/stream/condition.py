"""A picture as the DiT's condition: its latents, and a mask of the known latent frame."""

from __future__ import annotations

import torch
from torch import Tensor

from livetalk_core.plan import StreamPlan
from livetalk_core.types import VideoVAE

ENCODE_GROUPS = (1, 2)
"""Latent frames encoded at a time, to bound memory. The first is encoded alone, so it is bit-equal to that of the single picture."""


def encode_condition(vae: VideoVAE, pixels_CHW: Tensor, plan: StreamPlan, picture_frames: int = 1) -> Tensor:
    """[4 + C, t, h, w] of a chunk that shows the picture [3, H, W] in its first frames and is gray after them."""
    return mask_condition(encode_picture(vae, pixels_CHW, plan, picture_frames), plan)


def encode_picture(vae: VideoVAE, pixels_CHW: Tensor, plan: StreamPlan, picture_frames: int) -> Tensor:
    """Latents [C, t, h, w] of [picture, ..., gray, ...]."""
    video_CTHW = pixels_CHW.new_zeros(3, plan.chunk_frames, plan.height, plan.width)
    video_CTHW[:, :picture_frames] = pixels_CHW[:, None]
    return vae.encode(video_CTHW, ENCODE_GROUPS)


def encode_motion(vae: VideoVAE, frames_CTHW: Tensor, plan: StreamPlan) -> Tensor:
    """[4 + C, t, h, w] of a chunk that begins with these frames [3, T, H, W] and is gray after them, as MultiTalk's."""
    gray_CTHW = frames_CTHW.new_zeros(3, plan.chunk_frames - frames_CTHW.shape[1], *frames_CTHW.shape[2:])
    latents_CTHW = vae.encode(torch.cat([frames_CTHW, gray_CTHW], dim=1), ENCODE_GROUPS)
    return mask_condition(latents_CTHW, plan, plan.latents_in(frames_CTHW.shape[1]))


def mask_condition(latents_CTHW: Tensor, plan: StreamPlan, known: int = 1) -> Tensor:
    """A mask that is 1 in the first `known` latent frames, followed by the latents."""
    mask_CTHW = latents_CTHW.new_zeros(plan.temporal_stride, *latents_CTHW.shape[1:])
    mask_CTHW[:, :known] = 1
    return torch.cat([mask_CTHW, latents_CTHW])


def first_latent(condition_CTHW: Tensor, plan: StreamPlan) -> Tensor:
    """[C, 1, h, w]: the picture's own latent frame."""
    return condition_CTHW[plan.temporal_stride :, :1].clone()
