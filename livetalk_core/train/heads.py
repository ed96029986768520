"""Makes training data from the three-dimensional talkers: clips for shards, and films; synthetic.py does this for drawn talkers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from livetalk_core.talker.heads.clip import make_head_clip
from livetalk_core.talker.heads.movement import Moment
from livetalk_core.train.films import AROUND_FRAMES, film_tensors
from livetalk_core.train.sample import Clip

CAPTION = "A person is talking. Only the person is moving, the background remains static."


def head_clips(seeds: Sequence[int], frames: int, size: int, split: str = "train") -> Iterator[Clip]:
    """One square clip of `frames` frames for each seed."""
    for seed in seeds:
        made = make_head_clip(seed, (frames + 2 * AROUND_FRAMES) / 25, size, split)
        yield Clip(
            key=f"head-{split}-{seed}",
            frames_THWC=torch.from_numpy(made.frames_THWC[AROUND_FRAMES:-AROUND_FRAMES]),
            sound_N=torch.from_numpy(made.samples_N),
            lead=AROUND_FRAMES,
            reference_HWC=torch.from_numpy(made.reference_HWC),
            caption=CAPTION,
            mouth_HW=torch.from_numpy(made.mouth_HW),
            lids_T=lids_of(made.moments[AROUND_FRAMES:-AROUND_FRAMES]),
        )


def lids_of(moments: Sequence[Moment]) -> Tensor:
    """float32 [T]: how far the lids are shut."""
    return torch.tensor([moment.blink for moment in moments], dtype=torch.float32)


def draw_head_film(seed: int, frames: int, size: int, split: str = "train") -> dict[str, Tensor]:
    """The tensors of a film (see films.py)."""
    made = make_head_clip(seed, (frames + 2 * AROUND_FRAMES) / 25, size, split)
    return film_tensors(
        made.frames_THWC, made.samples_N, made.reference_HWC, torch.from_numpy(made.mouth_HW), made.truth, lids_of(made.moments)
    )
