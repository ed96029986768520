"""Stage 1 of the small model: square crops, less weight at low noise, and learned guidance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from livetalk_core.models.small_dit import surround
from livetalk_core.stream.blinks import without_lids
from livetalk_core.train.config import SmallSFT
from livetalk_core.train.draws import Draws
from livetalk_core.train.films import place_square
from livetalk_core.train.sample import Sample
from livetalk_core.train.sft import AdaptStage, Noised, network_inputs, noise_sample, silent, weighted_error


class SmallAdaptStage(AdaptStage):
    """Updates the small network; each batch is of one bucket."""

    config: SmallSFT

    def loss(self, batch: Sequence[tuple[Sample, Draws]], number: int = 0) -> Tensor:
        return small_sft_loss(self.learner.net, batch, self.config.at(number), self.null_text_LD)


class Square(NamedTuple):
    """A square crop of a sample with its own random numbers; without `around_CHW`, the whole sample."""

    sample: Sample
    draws: Draws
    around_CHW: Tensor | None
    """The reference latents of the crop, with one more on each side."""


def small_sft_loss(net: nn.Module, batch: Sequence[tuple[Sample, Draws]], config: SmallSFT, null_text_LD: Tensor) -> Tensor:
    """Weighted mean of (v - target)^2 over the new latents of each crop, then over crops."""
    squares = [square for sample, draws in batch for square in cut_squares(sample, draws, config)]
    rows = [noise_sample(square.sample, square.draws, config, null_text_LD) for square in squares]
    around = (torch.stack([square.around_CHW for square in squares]),) if config.square else ()
    v_BCTHW = net(*network_inputs(rows), *around)
    target_BCTHW = torch.stack([row.target_CTHW for row in rows])
    if config.audio_guidance != 1:
        target_BCTHW = target_BCTHW + guidance_offset(net, rows, around, v_BCTHW, config.audio_guidance)
    errors = [
        loss_weight(row.t, config) * weighted_error(v, target, row.weight_THW)
        for v, target, row in zip(v_BCTHW, target_BCTHW, rows, strict=True)
    ]
    return torch.stack(errors).mean()


def loss_weight(t: float, config: SmallSFT) -> float:
    """Loss weight of a sample at flow time t."""
    return min(1.0, t / config.full_weight_from) ** 2 if config.full_weight_from else 1.0


@torch.no_grad()
def guidance_offset(net: nn.Module, rows: Sequence[Noised], around: tuple[Tensor, ...], v_BCTHW: Tensor, guidance: float) -> Tensor:
    """Offset of the target, so that one pass learns to answer as with guidance (Tang et al. 2025): (1 - 1 / g) (v - v untold).

    Untold is without sound and with open eyes. When training has converged, v - v untold is g times that of the data. The offset is 0 for
    a sample whose sound was dropped and that does not blink.
    """
    untold = [row._replace(window=silent(row.window), reference=without_lids(row.reference, len(row.x_CTHW))) for row in rows]
    return (1 - 1 / guidance) * (v_BCTHW - net(*network_inputs(untold), *around))


def cut_squares(sample: Sample, draws: Draws, config: SmallSFT) -> list[Square]:
    """Square crops of a sample, each with its own random numbers, or the whole sample. ValueError if a crop exceeds the picture."""
    if not config.square:
        return [Square(sample, draws, None)]
    patch = sample.plan.patch_size
    mouth_HW = F.max_pool2d(sample.mouth_HW[None], patch)[0].bool()
    height, width = mouth_HW.shape
    if config.square > min(height, width):
        raise ValueError(f"square={config.square} must be at most {min(height, width)}: {sample.key} has {width}x{height} tokens")
    each = [draws.at("square", i) for i in range(config.squares)]
    return [cut_square(sample, own, patch, place_square(own, mouth_HW, config.square, config.at_mouth), config.square) for own in each]


def cut_square(sample: Sample, draws: Draws, patch: int, place: Sequence[int], side: int) -> Square:
    """The crop of `side` x `side` tokens with its top left token at `place`."""
    rows, columns = (slice(patch * first, patch * (first + side)) for first in place)
    high, wide = (slice(part.start, part.stop + 2) for part in (rows, columns))
    channels = sample.latents_KCTHW.shape[1]
    around_CHW = surround(sample.reference.cond_CTHW[None, -channels:, 0])[0, :, high, wide]
    part = replace(
        sample,
        reference=replace(sample.reference, cond_CTHW=sample.reference.cond_CTHW[..., rows, columns]),
        latents_KCTHW=sample.latents_KCTHW[..., rows, columns],
        bent_KCTHW=None if sample.bent_KCTHW is None else sample.bent_KCTHW[..., rows, columns],
        mouth_HW=sample.mouth_HW[rows, columns],
    )
    return Square(part, draws, around_CHW)
