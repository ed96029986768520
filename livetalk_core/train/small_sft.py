"""Stage 1 of the small model: squares of clips, less weight on little noise, and guidance that is learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from livetalk_core.models.small_dit import surround
from livetalk_core.train.config import SmallSFT
from livetalk_core.train.draws import Draws
from livetalk_core.train.films import place_square
from livetalk_core.train.sample import Sample
from livetalk_core.train.sft import AdaptStage, Noised, network_inputs, noise_sample, silent, weighted_error


class SmallAdaptStage(AdaptStage):
    """Updates the small network on batches of one bucket each."""

    config: SmallSFT

    def loss(self, batch: Sequence[tuple[Sample, Draws]], number: int) -> Tensor:
        return small_sft_loss(self.learner.net, batch, self.config.at(number), self.null_text_LD)


class Square(NamedTuple):
    """A part of a sample with its own chance; without `around_CHW` the whole sample."""

    sample: Sample
    draws: Draws
    around_CHW: Tensor | None
    """The picture's latents, one more on each side."""


def small_sft_loss(net: nn.Module, batch: Sequence[tuple[Sample, Draws]], config: SmallSFT, null_text_LD: Tensor) -> Tensor:
    """Weighted mean of (v - target)^2 over each square's new latents, then over squares."""
    squares = [square for sample, draws in batch for square in cut_squares(sample, draws, config)]
    rows = [noise_sample(square.sample, square.draws, config, null_text_LD) for square in squares]
    around = (torch.stack([square.around_CHW for square in squares]),) if config.square else ()
    v_BCTHW = net(*network_inputs(rows), *around)
    target_BCTHW = torch.stack([row.target_CTHW for row in rows])
    if config.audio_guidance != 1:
        target_BCTHW = target_BCTHW + guiding(net, rows, around, v_BCTHW, config.audio_guidance)
    errors = [
        importance(row.t, config) * weighted_error(v, target, row.weight_THW)
        for v, target, row in zip(v_BCTHW, target_BCTHW, rows, strict=True)
    ]
    return torch.stack(errors).mean()


def importance(t: float, config: SmallSFT) -> float:
    """Of a sample at flow time t."""
    return min(1.0, t / config.full_weight_from) ** 2 if config.full_weight_from else 1.0


@torch.no_grad()
def guiding(net: nn.Module, rows: Sequence[Noised], around: tuple[Tensor, ...], v_BCTHW: Tensor, guidance: float) -> Tensor:
    """What the target moves by, so that the network comes to answer as guidance would make it, in one pass (Tang et al. 2025).

    (1 - 1 / g) (v - v without sound): where the network rests, v - v without sound is g times what the data has. Nothing for a sample
    whose sound was dropped.
    """
    unheard_BCTHW = net(*network_inputs([row._replace(window=silent(row.window)) for row in rows]), *around)
    return (1 - 1 / guidance) * (v_BCTHW - unheard_BCTHW)


def cut_squares(sample: Sample, draws: Draws, config: SmallSFT) -> list[Square]:
    """The sample, or squares of it, each with its own chance. ValueError for squares larger than the picture."""
    if not config.square:
        return [Square(sample, draws, None)]
    patch = sample.plan.patch_size
    mouth_HW = F.max_pool2d(sample.mouth_HW[None], patch)[0].bool()
    height, width = mouth_HW.shape
    if config.square > min(height, width):
        raise ValueError(f"square={config.square} must be at most {min(height, width)}: {sample.key} has {width}x{height} tokens")
    chances = [draws.at("square", i) for i in range(config.squares)]
    return [cut_square(sample, chance, patch, place_square(chance, mouth_HW, config.square), config.square) for chance in chances]


def cut_square(sample: Sample, draws: Draws, patch: int, place: Sequence[int], side: int) -> Square:
    """A square of `side` tokens, from the token at `place` on."""
    rows, columns = (slice(patch * first, patch * (first + side)) for first in place)
    high, wide = (slice(part.start, part.stop + 2) for part in (rows, columns))
    channels = sample.latents_KCTHW.shape[1]
    around_CHW = surround(sample.reference.cond_CTHW[None, -channels:, 0])[0, :, high, wide]
    part = replace(
        sample,
        reference=replace(sample.reference, cond_CTHW=sample.reference.cond_CTHW[..., rows, columns]),
        latents_KCTHW=sample.latents_KCTHW[..., rows, columns],
        mouth_HW=sample.mouth_HW[rows, columns],
    )
    return Square(part, draws, around_CHW)
