"""The small model's DiT: what a narrow network needs to draw in wide latents, beside the published one.

It may answer the change of the picture's latents in place of the velocity, mix that change of kernels that move the picture, and have the
picture in every latent frame of its condition. Axes as in dit.py; S kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from livetalk_core.models.dit import AudioDiT
from livetalk_core.models.dit_config import DiTConfig
from livetalk_core.models.rope import Grid

T_FLOOR = 0.1
"""Flow time below which x is nearly x0, and what a model says of x0 counts less and less."""


@dataclass(frozen=True, kw_only=True)
class SmallDiTConfig(DiTConfig):
    """Sizes of a small model's DiT, and what it answers and sees."""

    predicts: str = "velocity"
    """velocity, or change: x0 less the reference latents. A narrow model can say that of wide latents, since it need repeat neither the
    noise (Li and He 2025) nor what stays."""
    picture_in: str = "first"
    """The latent frames whose condition has the picture: the first, the others grey, as published; or every."""
    shifts: int = 0
    """Kernels that move the reference latents, for a change to be mixed of too, place by place (Jia et al. 2016): what a head's motion
    does to wide latents, a narrow model need only point at."""

    def __post_init__(self) -> None:
        for name, allowed in (("predicts", ("velocity", "change")), ("picture_in", ("first", "every"))):
            if vars(self)[name] not in allowed:
                raise ValueError(f"{name}={vars(self)[name]!r} must be {' or '.join(allowed)}")
        if self.shifts and self.predicts != "change":
            raise ValueError(f"shifts={self.shifts} are part of a change; set predicts='change', or shifts=0")

    @property
    def answer_dim(self) -> int:
        """With a weight of each kernel."""
        return self.out_dim + self.shifts

    def picture_frames(self, frames: int) -> int:
        return frames if self.picture_in == "every" else 1


class SmallCondition(NamedTuple):
    """An EmbeddedCondition, and what the kernels make of the picture."""

    tokens_BLD: Tensor
    grid: Grid
    shifted_BSCHW: Tensor | None
    """What each kernel adds to the reference latents; None without kernels."""


class SmallDiT(AudioDiT):
    """The velocity, or the change that leads to it."""

    config: SmallDiTConfig

    def __init__(self, config: SmallDiTConfig):
        super().__init__(config)
        self.shifts = nn.Conv2d(config.out_dim, config.shifts * config.out_dim, kernel_size=3) if config.shifts else None

    def forward(
        self,
        latent_BCTHW: Tensor,
        condition: Tensor | SmallCondition,
        time,
        context,
        audio,
        speaker_masks_KHW: Tensor | None = None,
        skip_frames: int = 0,
    ) -> Tensor:
        """The answer [B, C, T, H, W], see AudioDiT; the kernels' shares are mixed in."""
        if isinstance(condition, Tensor):
            condition = self.embed_condition(condition)
        answer_BXTHW = super().forward(latent_BCTHW, condition, time, context, audio, speaker_masks_KHW, skip_frames)
        return answer_BXTHW if condition.shifted_BSCHW is None else mix_shifts(answer_BXTHW, condition.shifted_BSCHW)

    def embed_condition(self, condition_BCTHW: Tensor, around_BCHW: Tensor | None = None) -> SmallCondition:
        """`around_BCHW`: the picture's latents with one more on each side, where the condition is a part of a picture and that is known."""
        return SmallCondition(*super().embed_condition(condition_BCTHW), self.shift_picture(condition_BCTHW, around_BCHW))

    def shift_picture(self, condition_BCTHW: Tensor, around_BCHW: Tensor | None) -> Tensor | None:
        """[B, S, C, H, W] float32: what each kernel adds to the first latent frame's picture."""
        if self.shifts is None:
            return None
        channels = self.config.out_dim
        if around_BCHW is None:
            around_BCHW = surround(condition_BCTHW[:, -channels:, 0])
        return self.shifts(around_BCHW.to(self.shifts.weight.dtype)).unflatten(1, (-1, channels)).float()

    def to_velocity(self, answer: Tensor, x: Tensor, t: Tensor | float, condition: Tensor) -> Tensor:
        """The answer itself, or (x - x0) / t with x0 = reference latents + answer. Below T_FLOOR the division is as if at it.

        The reference latents are the last C channels of the condition.
        """
        if self.config.predicts == "velocity":
            return answer
        reference = condition.narrow(-4, condition.shape[-4] - x.shape[-4], x.shape[-4])
        return (x - reference - answer) / (max(t, T_FLOOR) if isinstance(t, float) else t.clamp_min(T_FLOOR))


def build_dit(config: DiTConfig) -> AudioDiT:
    """The network of a config: the published one, or the small one."""
    return SmallDiT(config) if isinstance(config, SmallDiTConfig) else AudioDiT(config)


def choose_config(*, predicts: str = "velocity", picture_in: str = "first", shifts: int = 0, **sizes: int) -> DiTConfig:
    """The published model's config, or the small one's where the published model has no such thing."""
    if (predicts, picture_in, shifts) == ("velocity", "first", 0):
        return DiTConfig(**sizes)
    return SmallDiTConfig(predicts=predicts, picture_in=picture_in, shifts=shifts, **sizes)


def mix_shifts(answer_BXTHW: Tensor, shifted_BSCHW: Tensor) -> Tensor:
    """[B, C, T, H, W]: the answer's first C channels, and of each kernel's share as much as one of the S others says."""
    ways, channels = shifted_BSCHW.shape[1:3]
    change_BCTHW, weight_BSTHW = answer_BXTHW.split((channels, ways), dim=1)
    return change_BCTHW + torch.einsum("bsthw,bschw->bcthw", weight_BSTHW, shifted_BSCHW)


def surround(picture_BCHW: Tensor) -> Tensor:
    """Latents with one more on each side, which repeats the outermost."""
    return F.pad(picture_BCHW, (1, 1, 1, 1), mode="replicate")
