"""Stage 1: flow matching at low resolution on short clips, conditioned as eq. 1 of the report has it.

The network sees [x_t with clean motion latents, mask, reference latents], channel after channel, and answers v = noise - x0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from livetalk_core.stream.flow import pin_motion
from livetalk_core.train.config import SFT
from livetalk_core.train.draws import Draws, shifted
from livetalk_core.train.films import place_square
from livetalk_core.train.learner import Learner
from livetalk_core.train.sample import Sample
from livetalk_core.types import AudioWindow, Reference


class Noised(NamedTuple):
    """One sample as the network sees it, and what it should answer."""

    x_CTHW: Tensor
    target_CTHW: Tensor
    weight_THW: Tensor
    """0 on the motion latents."""
    importance: float
    """Of the whole sample."""
    t: float
    reference: Reference
    window: AudioWindow
    around_CHW: Tensor
    """Of the picture, see Sample."""


class AdaptStage:
    """Updates one network on batches of one bucket each."""

    def __init__(self, config: SFT, learner: Learner, null_text_LD: Tensor):
        self.config, self.learner, self.null_text_LD = config, learner, null_text_LD
        self.learners = {"net": learner}
        self.chief = learner

    def step(self, passes: Sequence[Sequence[tuple[Sample, Draws]]], everyone: Draws, number: int) -> dict[str, Tensor]:
        """One update from `passes` of samples, each with its own chance."""
        config = self.config.at(number)
        losses = [lambda batch=batch: sft_loss(self.learner.net, batch, config, self.null_text_LD) for batch in passes]
        loss, norm = self.learner.update(losses)
        return {"loss": loss, "grad_norm": norm}


def sft_loss(net: nn.Module, batch: Sequence[tuple[Sample, Draws]], config: SFT, null_text_LD: Tensor) -> Tensor:
    """Weighted mean of (v - (noise - x0))^2 over each sample's new latents, then over samples."""
    rows = [noise_sample(*piece, config, null_text_LD) for sample, draws in batch for piece in cut_squares(sample, draws, config)]
    v_BCTHW = answer(net, rows, [row.window for row in rows])
    target_BCTHW = torch.stack([row.target_CTHW for row in rows])
    if config.audio_guidance != 1:
        target_BCTHW = target_BCTHW + guiding(net, rows, v_BCTHW, config.audio_guidance)
    errors = [
        row.importance * weighted_error(v, target, row.weight_THW) for v, target, row in zip(v_BCTHW, target_BCTHW, rows, strict=True)
    ]
    return torch.stack(errors).mean()


def answer(net: nn.Module, rows: Sequence[Noised], windows: Sequence[AudioWindow]) -> Tensor:
    """v [B, C, T, H, W] of all rows at once, to the sound of these windows."""
    return net(
        torch.stack([row.x_CTHW for row in rows]),
        torch.tensor([row.t for row in rows], device=rows[0].x_CTHW.device),
        torch.stack([row.reference.cond_CTHW for row in rows]),
        stack_rows([row.reference.text_LD for row in rows]),
        torch.stack([row.reference.image_LD for row in rows]),
        torch.stack([window.features_PTWSD.flatten(-2) for window in windows]),
        torch.stack([row.around_CHW for row in rows]),
    )


@torch.no_grad()
def guiding(net: nn.Module, rows: Sequence[Noised], v_BCTHW: Tensor, guidance: float) -> Tensor:
    """What the target moves by, so that the network comes to answer as guidance would make it, in one pass (Tang et al. 2025).

    (1 - 1 / g) (v - v without sound): where the network rests, v - v without sound is g times what the data has. Nothing for a sample
    whose sound was dropped.
    """
    unheard_BCTHW = answer(net, rows, [silent(row.window) for row in rows])
    return (1 - 1 / guidance) * (v_BCTHW - unheard_BCTHW)


def cut_squares(sample: Sample, draws: Draws, config: SFT) -> list[tuple[Sample, Draws]]:
    """The sample, or squares of it, each with its own chance. ValueError for squares larger than the picture."""
    if not config.square:
        return [(sample, draws)]
    patch = sample.plan.patch_size
    mouth_HW = F.max_pool2d(sample.mouth_HW[None], patch)[0].bool()
    height, width = mouth_HW.shape
    if config.square > min(height, width):
        raise ValueError(f"square={config.square} must be at most {min(height, width)}: {sample.key} has {width}x{height} tokens")
    chances = [draws.at("square", i) for i in range(config.squares)]
    places = [place_square(chance, mouth_HW, config.square) for chance in chances]
    return [(cut_sample(sample, patch, place, config.square), chance) for place, chance in zip(places, chances, strict=True)]


def cut_sample(sample: Sample, patch: int, place: Sequence[int], side: int) -> Sample:
    """A square of `side` tokens, from the token at `place` on."""
    rows, columns = (slice(patch * first, patch * (first + side)) for first in place)
    high, wide = (slice(part.start, part.stop + 2) for part in (rows, columns))
    reference = replace(sample.reference, cond_CTHW=sample.reference.cond_CTHW[..., rows, columns])
    return replace(
        sample,
        reference=reference,
        latents_KCTHW=sample.latents_KCTHW[..., rows, columns],
        mouth_HW=sample.mouth_HW[rows, columns],
        around_CHW=sample.around_CHW[:, high, wide],
    )


def noise_sample(sample: Sample, draws: Draws, config: SFT, null_text_LD: Tensor) -> Noised:
    """A window of the clip at a random time, with one or two motion latents and some conditions dropped."""
    index = draws.choice("window", sample.chunks)
    count = config.motion_latents[draws.choice("motion", len(config.motion_latents))]
    t = shifted(draws.number("time"), config.shift)
    x0 = sample.latents_KCTHW[index]
    noise = draws.noise("noise", x0)
    x_t = (1 - t) * x0 + t * noise
    if draws.number("noise motion") >= config.noise_motion:
        x_t = pin_motion(x_t, x0[:, :count])
    weight_THW = (1 + config.mouth_weight * sample.mouth_HW).expand(x0.shape[1:]).clone()
    weight_THW[:count] = 0
    importance = min(1.0, t / config.full_weight_from) ** 2 if config.full_weight_from else 1.0
    reference, window = drop_conditions(sample.reference, sample.window(index), draws.number("drop"), config, null_text_LD)
    return Noised(x_t, noise - x0, weight_THW, importance, t, reference, window, sample.around_CHW)


def drop_conditions(
    reference: Reference, window: AudioWindow, u: float, config: SFT, null_text_LD: Tensor
) -> tuple[Reference, AudioWindow]:
    """The conditions for a draw u in [0, 1): no text is the negative prompt's rows, no sound is zeros."""
    both, text = config.drop_text_and_audio, config.drop_text_and_audio + config.drop_text
    if u < text:
        reference = replace(reference, text_LD=null_text_LD)
    if u < both or text <= u < text + config.drop_audio:
        window = silent(window)
    return reference, window


def silent(window: AudioWindow) -> AudioWindow:
    """The window without its sound, as the network is told so."""
    return replace(window, features_PTWSD=torch.zeros_like(window.features_PTWSD))


def weighted_error(v_CTHW: Tensor, target_CTHW: Tensor, weight_THW: Tensor) -> Tensor:
    """sum w (v - target)^2 / (C sum w)."""
    return ((v_CTHW - target_CTHW).square().mean(0) * weight_THW).sum() / weight_THW.sum()


def stack_rows(texts: list[Tensor]) -> Tensor:
    """[B, longest, D]: shorter ones filled with zeros, as the network fills all of them."""
    longest = max(len(text_LD) for text_LD in texts)
    return torch.stack([F.pad(text_LD, (0, 0, 0, longest - len(text_LD))) for text_LD in texts])
