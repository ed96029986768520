"""The small model's DiT: the published one with options that help a narrow network generate wide latents.

It can predict the change of the picture's latents instead of the velocity, build that change partly from learned kernels that shift the
picture, and see the picture in every latent frame of its condition. Axes as in dit.py; S kernels.
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
"""Below this flow time x is nearly x0, so a predicted x0 is divided by this instead of by t."""


@dataclass(frozen=True, kw_only=True)
class SmallDiTConfig(DiTConfig):
    """Sizes of a small model's DiT, what it predicts and what it sees."""

    predicts: str = "velocity"
    """velocity, or change: x0 minus the reference latents. The change is easier for a narrow model, because it contains neither the
    noise (Li and He 2025) nor what stays the same."""
    picture_in: str = "first"
    """Latent frames whose condition shows the picture: first (as published; the others are gray) or every."""
    shifts: int = 0
    """Number of learned kernels that shift the reference latents. The predicted change may mix their results with weights per position
    (Jia et al. 2016), so a narrow model selects a head's motion instead of generating it."""

    def __post_init__(self) -> None:
        for name, allowed in (("predicts", ("velocity", "change")), ("picture_in", ("first", "every"))):
            if vars(self)[name] not in allowed:
                raise ValueError(f"{name}={vars(self)[name]!r} must be {' or '.join(allowed)}")
        if self.shifts and self.predicts != "change":
            raise ValueError(f"shifts={self.shifts} needs predicts='change'; set that, or shifts=0")

    @property
    def answer_dim(self) -> int:
        """Output channels: the latents' and one weight per kernel."""
        return self.out_dim + self.shifts

    def picture_frames(self, frames: int) -> int:
        return frames if self.picture_in == "every" else 1


class SmallCondition(NamedTuple):
    """An EmbeddedCondition, and the picture shifted by each kernel."""

    condition_BCTHW: Tensor
    grid: Grid
    shifted_BSCHW: Tensor | None
    """What each kernel adds to the reference latents. None without kernels."""


class SmallDiT(AudioDiT):
    """Predicts the velocity, or the change that it follows from."""

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
        """The prediction [B, C, T, H, W] as in AudioDiT, with the shifted pictures mixed in."""
        if isinstance(condition, Tensor):
            condition = self.embed_condition(condition)
        answer_BXTHW = super().forward(latent_BCTHW, condition, time, context, audio, speaker_masks_KHW, skip_frames)
        return answer_BXTHW if condition.shifted_BSCHW is None else mix_shifts(answer_BXTHW, condition.shifted_BSCHW)

    def embed_condition(self, condition_BCTHW: Tensor, around_BCHW: Tensor | None = None) -> SmallCondition:
        """`around_BCHW`: the picture's latents with a margin of one, if the condition is a crop and the margin is known."""
        return SmallCondition(*super().embed_condition(condition_BCTHW), self.shift_picture(condition_BCTHW, around_BCHW))

    def shift_picture(self, condition_BCTHW: Tensor, around_BCHW: Tensor | None) -> Tensor | None:
        """[B, S, C, H, W] float32: what each kernel adds to the picture in the first latent frame."""
        if self.shifts is None:
            return None
        channels = self.config.out_dim
        if around_BCHW is None:
            around_BCHW = surround(condition_BCTHW[:, -channels:, 0])
        return self.shifts(around_BCHW.to(self.shifts.weight.dtype)).unflatten(1, (-1, channels)).float()

    def to_velocity(self, answer: Tensor, x: Tensor, t: Tensor | float, condition: Tensor) -> Tensor:
        """The prediction itself, or (x - x0) / max(t, T_FLOOR) with x0 = reference latents + prediction.

        The reference latents are the last C channels of the condition.
        """
        if self.config.predicts == "velocity":
            return answer
        reference = condition.narrow(-4, condition.shape[-4] - x.shape[-4], x.shape[-4])
        return (x - reference - answer) / (max(t, T_FLOOR) if isinstance(t, float) else t.clamp_min(T_FLOOR))


def build_dit(config: DiTConfig) -> AudioDiT:
    """The network for a config: the published DiT or the small one."""
    return SmallDiT(config) if isinstance(config, SmallDiTConfig) else AudioDiT(config)


def choose_config(*, predicts: str = "velocity", picture_in: str = "first", shifts: int = 0, **sizes: int) -> DiTConfig:
    """The published model's config, or the small model's if an option is used that only it has."""
    if (predicts, picture_in, shifts) == ("velocity", "first", 0):
        return DiTConfig(**sizes)
    return SmallDiTConfig(predicts=predicts, picture_in=picture_in, shifts=shifts, **sizes)


def mix_shifts(answer_BXTHW: Tensor, shifted_BSCHW: Tensor) -> Tensor:
    """[B, C, T, H, W]: the first C output channels plus the S shifted pictures, weighted by the other S channels."""
    ways, channels = shifted_BSCHW.shape[1:3]
    change_BCTHW, weight_BSTHW = answer_BXTHW.split((channels, ways), dim=1)
    return change_BCTHW + torch.einsum("bsthw,bschw->bcthw", weight_BSTHW, shifted_BSCHW)


def surround(picture_BCHW: Tensor) -> Tensor:
    """Latents padded by one on each side, repeating the edge."""
    return F.pad(picture_BCHW, (1, 1, 1, 1), mode="replicate")
