"""Makes training data from the synthetic talker: clips for shards, and films."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from livetalk_core.talker.body import AXIS
from livetalk_core.talker.clip import make_clip
from livetalk_core.talker.face import HEAD_Y, NECK_PIVOT_Y, UNITS, ZOOM_AT, parallax
from livetalk_core.talker.identity import Identity, Pose
from livetalk_core.talker.skin import MOUTH_Y
from livetalk_core.train.films import AROUND_FRAMES, film_tensors
from livetalk_core.train.sample import Clip

CAPTION = "A drawn person is talking. Only the person is moving, the background remains static."
MOUTH_BOX = (62.0, 42.0, 62.0)
"""Area around the mouth, design units: half the width, reach up, reach down."""


def talker_clips(
    seeds: Sequence[int], frames: int, size: int, split: str = "train", known: Collection[str] = frozenset()
) -> Iterator[Clip]:
    """One square clip of `frames` frames for each seed; clips whose keys are `known` are not drawn."""
    for seed in seeds:
        if talker_key(split, seed) in known:
            continue
        made = make_clip(seed, (frames + 2 * AROUND_FRAMES) / 25, size, split)
        yield Clip(
            key=talker_key(split, seed),
            frames_THWC=torch.from_numpy(made.frames_THWC[AROUND_FRAMES:-AROUND_FRAMES]),
            sound_N=torch.from_numpy(made.samples_N),
            lead=AROUND_FRAMES,
            reference_HWC=torch.from_numpy(made.reference_HWC),
            caption=CAPTION,
            mouth_HW=mouth_mask(made.identity, made.poses[AROUND_FRAMES:-AROUND_FRAMES], size),
            lids_T=lids_of(made.poses[AROUND_FRAMES:-AROUND_FRAMES]),
        )


def talker_key(split: str, seed: int) -> str:
    return f"talker-{split}-{seed}"


def draw_film(seed: int, frames: int, size: int, split: str = "train") -> dict[str, Tensor]:
    """The tensors of a film (see films.py)."""
    made = make_clip(seed, (frames + 2 * AROUND_FRAMES) / 25, size, split)
    return film_tensors(
        made.frames_THWC,
        made.samples_N,
        made.reference_HWC,
        mouth_mask(made.identity, made.poses[AROUND_FRAMES:-AROUND_FRAMES], size),
        made.truth,
        lids_of(made.poses),
    )


def lids_of(poses: Sequence[Pose]) -> Tensor:
    """float32 [T]: how far the lids are shut."""
    return torch.tensor([pose.blink for pose in poses], dtype=torch.float32)


def mouth_mask(identity: Identity, poses: Sequence[Pose], size: int) -> Tensor:
    """Bool [size, size]: true where the mouth or the skin around it is in any frame."""
    half, up, down = (reach * identity.zoom * size / UNITS for reach in MOUTH_BOX)
    mask_HW = np.zeros((size, size), bool)
    for pose in poses:
        x, y = mouth_place(identity, pose, size)
        mask_HW[max(0, round(y - up)) : max(0, round(y + down)), max(0, round(x - half)) : max(0, round(x + half))] = True
    return torch.from_numpy(mask_HW)


def mouth_place(identity: Identity, pose: Pose, size: int) -> tuple[float, float]:
    """The middle of the mouth in pixels; applies the transforms of `face.draw` to the point at MOUTH_Y of the head."""
    dx, dy = parallax(pose, 0.8)
    x, y = pose.scale * dx, pose.scale * (MOUTH_Y + dy - NECK_PIVOT_Y)
    cos, sin = np.cos(pose.roll), np.sin(pose.roll)
    x, y = cos * x - sin * y, sin * x + cos * y
    x, y = AXIS + pose.x * UNITS + x, HEAD_Y + NECK_PIVOT_Y + pose.y * UNITS + y
    x, y = (at + identity.zoom * (value - at) for value, at in zip((x, y), ZOOM_AT, strict=True))
    return x * size / UNITS, y * size / UNITS
