"""Measures how far a lossy option moves the result from the exact one, on a stream's first chunk with its own picture, sound, noise and
size, and logs it in one line.

The chunk is made exactly, then once with each lossy option alone: one chunk's time, and one more for each option.
A tiny decoder is compared on the exact latents, which costs one decode with each decoder.
"""

from __future__ import annotations

import logging
import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from livetalk_core.engine.denoiser import Cuts, DiTDenoiser
from livetalk_core.engine.guidance import Guidance
from livetalk_core.models.attention import INEXACT, kernel_as, wanted_kernel
from livetalk_core.models.dit import AudioDiT
from livetalk_core.models.tiny_decoder import DraftVAE
from livetalk_core.plan import StreamPlan
from livetalk_core.stream.flow import first_motion, seeded_noise, steps_of, times_of
from livetalk_core.stream.session import DECODE_GROUPS, OnStep
from livetalk_core.types import AudioWindow, Reference, StreamSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Way:
    """One variant of making a chunk's latents."""

    option: str
    """As on the command line; empty for the exact variant."""
    steps: int
    kernel: str


@dataclass(frozen=True, kw_only=True)
class FirstChunk:
    """A stream's first chunk. `settings` is settled."""

    plan: StreamPlan
    reference: Reference
    settings: StreamSettings
    window: AudioWindow
    cuts: Cuts
    guidance: Guidance = Guidance()
    on_step: OnStep | None = None


class Deviations:
    """Measures an engine's lossy options once for each size.

    `steps`: the model's own number of steps, which is exact. `compiled`: the DiT is compiled; what is only measured runs without
    compiling. `draft`: a VAE with a tiny decoder.
    """

    def __init__(self, dit: AudioDiT, device: torch.device, steps: int):
        self.dit, self.device, self.steps = dit, device, steps
        self.compiled = False
        self.draft: DraftVAE | None = None
        self.found: dict[tuple[str, int, int], float] = {}
        """RMS of the latents' difference relative to the exact latents, by option, width and height."""
        self.psnr_db: dict[tuple[int, int], float] = {}
        """PSNR of the tiny decoder's frames against the exact decoder's, by width and height."""

    @torch.no_grad()
    def measure(self, first: FirstChunk) -> None:
        """Measure and log what is not measured yet."""
        size = (first.plan.width, first.plan.height)
        due = [way for way in self.ways(first.settings) if (way.option, *size) not in self.found]
        draft_due = self.draft is not None and size not in self.psnr_db
        if not due and not draft_due:
            return
        with self.eager():
            exact = self.make(Way(option="", steps=self.steps, kernel=self.exact_kernel()), first)
            if draft_due:
                self.measure_draft(exact, first)
            for way in due:
                error = relative_rms(self.make(way, first), exact)
                self.found[(way.option, *size)] = error
                log.warning(
                    "%s: on the first chunk at %dx%d the latents differ from the exact ones by %.2f%% (RMS); leave it out for those",
                    *(way.option, *size, 100 * error),
                )

    def measure_draft(self, exact_CTHW: Tensor, first: FirstChunk) -> None:
        """Decode the exact latents with both decoders and log the PSNR of the new frames, before color matching."""
        motion_CTHW = first.reference.first_CTHW
        latents_CTHW = torch.cat([motion_CTHW.to(exact_CTHW), exact_CTHW], dim=1)
        skip, total, count = first.plan.motion_frames, 0.0, 0
        for exact, tiny in zip(*(vae.decode(latents_CTHW, DECODE_GROUPS) for vae in (self.draft.exact, self.draft)), strict=True):
            if first.on_step is not None:
                first.on_step(self.steps, self.steps)
            difference = (tiny.float() - exact.float())[:, skip:]
            total, count = total + difference.square().sum(), count + difference.numel()
            skip = max(0, skip - exact.shape[1])
        width, height = first.plan.width, first.plan.height
        self.psnr_db[width, height] = psnr_db(float(total) / count)
        log.warning(
            "--decoder: on the first chunk at %dx%d the frames' PSNR to the exact decoder's is %.2f dB; leave it out for those",
            *(width, height, self.psnr_db[width, height]),
        )

    def ways(self, settings: StreamSettings) -> list[Way]:
        """One variant for each lossy option."""
        found, kernel = [], self.exact_kernel()
        if settings.sampler in (None, "renoise") and settings.steps < self.steps:
            found.append(Way(option=f"--steps {settings.steps}", steps=settings.steps, kernel=kernel))
        if wanted_kernel() in INEXACT:
            found.append(Way(option=f"--attention {wanted_kernel()}", steps=self.steps, kernel=wanted_kernel()))
        return found

    def exact_kernel(self) -> str:
        return "auto" if wanted_kernel() in INEXACT else wanted_kernel()

    def eager(self) -> AbstractContextManager:
        return torch.compiler.set_stance("force_eager") if self.compiled else nullcontext()

    def make(self, way: Way, first: FirstChunk) -> Tensor:
        """The chunk's new latents [C, T, h, w], without the motion latents, which are the same in every variant."""
        motion_CTHW, times = first_motion(first.settings, first.reference), times_of(first.settings, way.steps)
        noise = seeded_noise(first.plan.latent_shape, first.settings.seed, self.device)
        denoiser = DiTDenoiser(self.dit, times[:-1], first.cuts, first.guidance, first.settings.audio_strength)
        with kernel_as(way.kernel):
            steps = steps_of(first.settings, denoiser, motion_CTHW, times, noise, first.reference, first.window)
            for i in range(way.steps):
                if first.on_step is not None:
                    first.on_step(i, way.steps)
                x0_CTHW = next(steps)
        return x0_CTHW[:, motion_CTHW.shape[1] :]


def relative_rms(answer: Tensor, exact: Tensor) -> float:
    """RMS of the difference relative to the exact values."""
    return ((answer.float() - exact.float()).square().mean() / exact.float().square().mean()).sqrt().item()


def psnr_db(mean_square: float) -> float:
    """PSNR of frames in [-1, 1], whose peak is 2; infinite for no error."""
    return math.inf if mean_square == 0 else 10 * math.log10(4 / mean_square)
