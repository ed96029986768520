"""Stage 2: distribution matching distillation (eq. 2) on the model's own roll-out, which stops at a random chunk and step (eq. 3).

The roll-out works as in serving: `Session` makes the first k - 1 chunks, decoding and re-encoding their last frames, and `denoise_steps`
makes the last one. Only the last step of the last chunk has a gradient; its x0 is scored.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from livetalk_core.stream.flow import denoise_steps, pin_motion, seeded_noise
from livetalk_core.stream.session import Session
from livetalk_core.train.config import DMD
from livetalk_core.train.draws import Draws, shifted
from livetalk_core.train.learner import Learner
from livetalk_core.train.net import NetDenoiser, velocity
from livetalk_core.train.sample import Sample
from livetalk_core.train.sft import silent
from livetalk_core.types import AudioWindow, Reference, StreamSettings, VideoVAE


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Where a roll-out ends. It must be the same on every process, since each forward pass is a collective."""

    chunks: int
    """k in 1 .. K."""
    step: int
    """The denoising step of chunk k whose x0 is taken, from 0."""


@dataclass(frozen=True, kw_only=True)
class RollOut:
    """The last chunk of a roll-out."""

    window: AudioWindow
    motion_CTHW: Tensor
    x0_CTHW: Tensor
    """With the motion latents pinned."""
    answer_CTHW: Tensor
    """The network's x0 before the motion latents are pinned."""


class DistillStage:
    """Updates the fake score at every step and the generator at every `ratio`-th step, each on its own roll-outs."""

    def __init__(self, config: DMD, generator: Learner, critic: Learner, teacher: nn.Module, vae: VideoVAE, null_text_LD: Tensor):
        self.config, self.generator, self.critic, self.teacher, self.vae = config, generator, critic, teacher, vae
        self.null_text_LD = null_text_LD
        self.learners = {"generator": generator, "critic": critic}
        self.main = generator

    def step(self, passes: Sequence[Sequence[tuple[Sample, Draws]]], everyone: Draws, number: int) -> dict[str, Tensor]:
        """One training step: an update of the fake score and, at every `ratio`-th step, one of the generator before it."""
        pairs = [pair for batch in passes for pair in batch]
        results = {}
        if number % self.config.ratio == 0:
            cut = draw_cut(everyone.at("generator"), self.config)
            losses = [lambda p=pair: self.generator_loss(p[0], p[1].at("generator"), cut) for pair in pairs]
            results["generator_loss"], results["generator_grad_norm"] = self.generator.update(losses)
        cut = draw_cut(everyone.at("critic"), self.config)
        losses = [lambda p=pair: self.critic_loss(p[0], p[1].at("critic"), cut) for pair in pairs]
        results["loss"], results["grad_norm"] = self.critic.update(losses)
        return results

    def generator_loss(self, sample: Sample, draws: Draws, cut: Cut) -> Tensor:
        """Eq. 2: moves the roll-out's x0 along (real - fake)."""
        end = roll_out(self.generator.net, self.vae, sample, cut, self.config, draws, with_gradient=True)
        with torch.no_grad():
            t, noise = draw_time(draws, self.config), draws.noise("score", end.x0_CTHW)
            x_t = score_input(end, sample, t, noise, self.config)
            fake = x0_of(self.critic.net, x_t, t, sample.reference, end.window)
            real = guided_x0(self.teacher, x_t, t, sample.reference, end.window, self.null_text_LD, self.config)
        first = 0 if self.config.motion_loss else end.motion_CTHW.shape[1]
        x0 = end.answer_CTHW if self.config.motion_loss else end.x0_CTHW
        return dmd_loss(x0[:, first:], real[:, first:], fake[:, first:])

    def critic_loss(self, sample: Sample, draws: Draws, cut: Cut) -> Tensor:
        """Flow matching of the fake score on the generator's current output."""
        end = roll_out(self.generator.net, self.vae, sample, cut, self.config, draws, with_gradient=False)
        t, noise = draw_time(draws, self.config), draws.noise("score", end.x0_CTHW)
        x_t = score_input(end, sample, t, noise, self.config)
        v = velocity(self.critic.net, x_t, t, sample.reference, end.window)
        first = end.motion_CTHW.shape[1]
        return (v - (noise - end.x0_CTHW))[:, first:].square().mean()


def roll_out(net: nn.Module, vae: VideoVAE, sample: Sample, cut: Cut, config: DMD, draws: Draws, *, with_gradient: bool) -> RollOut:
    """Make chunks 1 .. k as a stream does, the last one up to the cut's step. Memory does not depend on k."""
    denoiser = NetDenoiser(net)
    noise = seeded_noise(sample.plan.latent_shape, draws.seed("roll-out"), sample.latents_KCTHW.device)
    settings = StreamSettings(steps=config.steps, shift=config.shift, last_noise=config.last_noise)
    session = Session(sample.plan, denoiser, vae, sample.reference, settings, noise)
    for index in range(cut.chunks - 1):
        deque(session.step(sample.window(index)), maxlen=0)
    window = sample.window(cut.chunks - 1)
    motion_CTHW = session.motion_CTHW.float()
    steps = denoise_steps(denoiser, motion_CTHW, session.times, noise, sample.reference, window, config.last_noise)
    with torch.no_grad():
        for _ in range(cut.step):
            next(steps)
    with torch.set_grad_enabled(with_gradient):
        x0 = next(steps)
    return RollOut(window=window, motion_CTHW=motion_CTHW, x0_CTHW=x0, answer_CTHW=denoiser.last_x0)


def draw_cut(everyone: Draws, config: DMD) -> Cut:
    """k ~ U(1, K), or always K; and a random denoising step."""
    chunks = config.chunks if config.strategy == "fixed" else 1 + everyone.choice("chunks", config.chunks)
    return Cut(chunks=chunks, step=everyone.choice("step", config.steps))


def draw_time(draws: Draws, config: DMD) -> float:
    """Flow time for the scores, shifted like the sampler's and clamped to [t_min, t_max]."""
    return min(max(shifted(draws.number("time"), config.shift), config.t_min), config.t_max)


def score_input(end: RollOut, sample: Sample, t: float, noise_CTHW: Tensor, config: DMD) -> Tensor:
    """Input of both score networks: the chunk noised to time t, with motion latents as `motion_source` and `noise_motion` say."""
    motion_CTHW = end.motion_CTHW
    if config.motion_source == "truth":
        motion_CTHW = sample.latents_KCTHW[end.window.index][:, : motion_CTHW.shape[1]]
    x_t = (1 - t) * pin_motion(end.x0_CTHW.detach(), motion_CTHW) + t * noise_CTHW
    return x_t if config.noise_motion else pin_motion(x_t, motion_CTHW)


def x0_of(net: nn.Module, x_t: Tensor, t: float, reference: Reference, window: AudioWindow) -> Tensor:
    return x_t - t * velocity(net, x_t, t, reference, window)


def guided_x0(
    net: nn.Module, x_t: Tensor, t: float, reference: Reference, window: AudioWindow, null_text_LD: Tensor, config: DMD
) -> Tensor:
    """nothing + audio (no text - nothing) + text (full - no text), InfiniteTalk's guidance; one pass when both scales are 1."""
    full = x0_of(net, x_t, t, reference, window)
    if config.text_guidance == config.audio_guidance == 1:
        return full
    without_text = replace(reference, text_LD=null_text_LD)
    no_text = x0_of(net, x_t, t, without_text, window)
    nothing = x0_of(net, x_t, t, without_text, silent(window))
    return nothing + config.audio_guidance * (no_text - nothing) + config.text_guidance * (full - no_text)


def dmd_loss(x0: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    """0.5 mean |x0 - sg(x0 - g)|^2, whose gradient is g / n; g = (fake - real) / mean |x0 - real| (Yin et al. 2024). In float64."""
    x0, real, fake = x0.double(), real.double(), fake.double()
    g = ((fake - real) / (x0.detach() - real).abs().mean()).nan_to_num()
    return 0.5 * (x0 - (x0 - g).detach()).square().mean()
