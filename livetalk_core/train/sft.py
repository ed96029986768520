"""Stage 1: flow matching at low resolution on short clips, with the condition of eq. 1 of the report.

The network's input has the channels [x_t with clean motion latents, mask, reference latents]; it predicts v = noise - x0.
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
from livetalk_core.train.learner import Learner, LearnerStage
from livetalk_core.train.sample import Sample
from livetalk_core.types import AudioWindow, Reference


class Noised(NamedTuple):
    """Network input and target for one sample."""

    x_CTHW: Tensor
    target_CTHW: Tensor
    weight_THW: Tensor
    """0 on the motion latents."""
    t: float
    reference: Reference
    window: AudioWindow


class AdaptStage(LearnerStage):
    """Updates one network; each batch is of one bucket."""

    config: SFT

    def __init__(self, config: SFT, learner: Learner, null_text_LD: Tensor):
        super().__init__(config, learner)
        self.null_text_LD = null_text_LD

    def loss(self, batch: Sequence[tuple[Sample, Draws]], number: int = 0) -> Tensor:
        return sft_loss(self.learner.net, batch, self.config, self.null_text_LD)


def sft_loss(net: nn.Module, batch: Sequence[tuple[Sample, Draws]], config: SFT, null_text_LD: Tensor) -> Tensor:
    """Weighted mean of (v - (noise - x0))^2 over each sample's new latents, then over samples."""
    rows = [noise_sample(sample, draws, config, null_text_LD) for sample, draws in batch]
    errors = [weighted_error(v, row.target_CTHW, row.weight_THW) for v, row in zip(net(*network_inputs(rows)), rows, strict=True)]
    return torch.stack(errors).mean()


def network_inputs(rows: Sequence[Noised]) -> tuple[Tensor, ...]:
    """The rows as a batch: the arguments of `VelocityNet`."""
    return (
        torch.stack([row.x_CTHW for row in rows]),
        torch.tensor([row.t for row in rows], device=rows[0].x_CTHW.device),
        torch.stack([row.reference.cond_CTHW for row in rows]),
        stack_rows([row.reference.text_LD for row in rows]),
        torch.stack([row.reference.image_LD for row in rows]),
        torch.stack([row.window.features_PTWSD.flatten(-2) for row in rows]),
    )


def noise_sample(sample: Sample, draws: Draws, config: SFT, null_text_LD: Tensor) -> Noised:
    """A random chunk of the sample at a random flow time, with one or two motion latents; conditions may be dropped."""
    index = draws.choice("window", sample.chunks)
    count = config.motion_latents[draws.choice("motion", len(config.motion_latents))]
    t = shifted(draws.number("time"), config.shift)
    x0 = sample.latents_KCTHW[index]
    noise = draws.noise("noise", x0)
    x_t = (1 - t) * x0 + t * noise
    if draws.number("noise motion") >= config.noise_motion:
        x_t = pin_motion(x_t, motion_shown(sample, index, draws, config)[:, :count])
    weight_THW = (1 + config.mouth_weight * sample.mouth_HW).expand(x0.shape[1:]).clone()
    weight_THW[1:] *= 1 + config.blink_weight * sample.shut(index)[:, None, None]
    weight_THW[:count] = 0
    reference, window = drop_conditions(sample.shown(index), sample.window(index), draws.number("drop"), config, null_text_LD)
    return Noised(x_t, noise - x0, weight_THW, t, reference, window)


def motion_shown(sample: Sample, index: int, draws: Draws, config: SFT) -> Tensor:
    """[C, T, H, W] that begin with the true motion latents of a chunk, or the bent ones. ValueError if these are wanted and missing."""
    if draws.number("bent") >= config.bent_motion:
        return sample.latents_KCTHW[index]
    if sample.bent_KCTHW is None:
        raise ValueError(
            f"bent_motion={config.bent_motion} needs clips that were prepared with --bend, and {sample.key} was not; prepare a new folder, "
            "or set 0"
        )
    return sample.bent_KCTHW[index]


def drop_conditions(
    reference: Reference, window: AudioWindow, u: float, config: SFT, null_text_LD: Tensor
) -> tuple[Reference, AudioWindow]:
    """Drop conditions by u in [0, 1): dropped text becomes the negative prompt's rows, dropped sound becomes zeros."""
    both, text = config.drop_text_and_audio, config.drop_text_and_audio + config.drop_text
    if u < text:
        reference = replace(reference, text_LD=null_text_LD)
    if u < both or text <= u < text + config.drop_audio:
        window = silent(window)
    return reference, window


def silent(window: AudioWindow) -> AudioWindow:
    """The window with its features set to zero, which means no sound."""
    return replace(window, features_PTWSD=torch.zeros_like(window.features_PTWSD))


def weighted_error(v_CTHW: Tensor, target_CTHW: Tensor, weight_THW: Tensor) -> Tensor:
    """sum w (v - target)^2 / (C sum w)."""
    return ((v_CTHW - target_CTHW).square().mean(0) * weight_THW).sum() / weight_THW.sum()


def stack_rows(texts: list[Tensor]) -> Tensor:
    """Stack texts to [B, longest, D]; shorter ones are padded with zeros, as the network pads them anyway."""
    longest = max(len(text_LD) for text_LD in texts)
    return torch.stack([F.pad(text_LD, (0, 0, 0, longest - len(text_LD))) for text_LD in texts])
