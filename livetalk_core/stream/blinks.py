"""Blinks: when a stream's eyes shut, and how a chunk's condition tells it to the DiT.

A latent frame of four video frames has four mask channels in the condition; all but the first latent frame's are 0 there, and show the lids
instead: 0 open, 1 shut. A model that has not learned this gets zeros, as ever.
"""

from __future__ import annotations

import math
import random
from dataclasses import replace

import torch
from torch import Tensor

from livetalk_core.plan import StreamPlan
from livetalk_core.types import Reference

CLOSING_S, SHUT_S, OPENING_S = 0.10, 0.11, 0.18
"""A blink, as in the films that models learn from."""
STRENGTH = 1.15
"""A stream shows the lids to the DiT this much more strongly than the films do: else the eyes of some photographs stay half open."""
EVEN = 0.5
"""Share of the mean over a latent frame in the lids that a stream shows: strong lids that also fall steeply shine for a moment."""
EVERY_S = 3.3
"""Every this many seconds there is one blink, somewhere in the middle half."""


def lids_after(second: float) -> float:
    """How far the lids are shut this long after a blink began: they fall in two or three frames and rise in four or five."""
    if not 0 < second < CLOSING_S + SHUT_S + OPENING_S:
        return 0.0
    down = min(1.0, second / CLOSING_S)
    up = max(0.0, (second - CLOSING_S - SHUT_S) / OPENING_S)
    return math.sin(math.pi / 2 * down) ** 2 * (1 - math.sin(math.pi / 2 * up) ** 1.5)


def lids_at(second: float, seed: int) -> float:
    """How far the lids are shut at a time of the stream; the same seed blinks at the same times."""
    span = math.floor(second / EVERY_S)
    begins = ((number + random.Random(f"{seed} {number}").uniform(0.2, 0.8)) * EVERY_S for number in (span - 1, span))
    return max(lids_after(second - begin) for begin in begins)


def with_blinks(reference: Reference, index: int, plan: StreamPlan, seed: int) -> Reference:
    """The reference of one chunk of a stream, in which the lids move as they are due."""
    first = index * plan.new_frames - plan.motion_frames
    frames = range(first, first + plan.chunk_frames)
    lids_T = torch.tensor([lids_at(frame / plan.fps, seed) if frame >= 0 else 0.0 for frame in frames])
    return with_lids(reference, strengthened(lids_T, plan.temporal_stride))


def strengthened(lids_T: Tensor, stride: int) -> Tensor:
    """The lids of a chunk, [4 t - 3], as a stream shows them to the DiT. After the first, `stride` frames make a latent frame."""
    lids = lids_T[1:].unflatten(0, (-1, stride))
    return STRENGTH * torch.cat([lids_T[:1], torch.lerp(lids, lids.mean(1, keepdim=True), EVEN).flatten()])


def with_lids(reference: Reference, lids_T: Tensor) -> Reference:
    """The reference whose condition shows these lids, [4 t - 3] for a chunk of t latent frames."""
    cond_CTHW = reference.cond_CTHW.clone()
    stride = (len(lids_T) - 1) // (cond_CTHW.shape[1] - 1)
    cond_CTHW[:stride, 1:] = lids_T[1:].to(cond_CTHW).unflatten(0, (-1, stride)).T[:, :, None, None]
    return replace(reference, cond_CTHW=cond_CTHW)


def without_lids(reference: Reference, channels: int) -> Reference:
    """The reference with open eyes; its condition holds latents of this many channels after the mask."""
    cond_CTHW = reference.cond_CTHW.clone()
    cond_CTHW[:-channels, 1:] = 0
    return replace(reference, cond_CTHW=cond_CTHW)
