"""Begins a stream where another one ended: from the frames a viewer saw last, and the sound heard with them."""

from __future__ import annotations

import torch

from livetalk_core.stream.session import Session
from livetalk_core.stream.window import LiveWindows, WholeWindows
from livetalk_core.types import Shown, Start, VideoVAE


@torch.no_grad()
def begin_after(shown: Shown, session: Session, windows: LiveWindows | WholeWindows, vae: VideoVAE) -> None:
    """Give a new stream the motion frames and the sound of what was shown. `vae` encodes whole frames.

    ValueError for frames of another number or size, and for a stream that hears the whole recording.
    """
    plan, motion_CTHW = session.plan, session.motion_CTHW
    wanted = (plan.motion_frames, plan.height, plan.width, 3)
    if tuple(shown.frames_THWC.shape) != wanted:
        raise ValueError(f"frames of shape {tuple(shown.frames_THWC.shape)} must be {list(wanted)}: the last {plan.motion_frames} shown")
    if not isinstance(windows, LiveWindows):
        raise ValueError("whole_audio=True cannot go on from shown frames; leave it out")
    frames_CTHW = shown.frames_THWC.to(motion_CTHW.device).permute(3, 0, 1, 2)
    pixels_CTHW = ((frames_CTHW.float() + 0.5) / 127.5 - 1).to(motion_CTHW.dtype)  # the middle of what each value was truncated from
    session.resume_at(Start(index=0, motion_CTHW=vae.encode(pixels_CTHW)))
    windows.recall(shown.samples_N)
