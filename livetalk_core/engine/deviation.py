"""How far an option that changes the result takes it from the exact one: measured on a stream's first chunk, with its own picture, sound,
noise and size, and said in one line.

The exact way is taken first, and then once more with each option alone. So it costs the time of a chunk, and of one more for each option.
A tiny decoder is given the exact latents: that costs a decode by each decoder.
"""

from __future__ import annotations

import logging
import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from livetalk_core.engine.denoiser import Cuts, DiTDenoiser
from livetalk_core.models.attention import INEXACT, kernel_as, wanted_kernel
from livetalk_core.models.dit import AudioDiT
from livetalk_core.models.fp8 import use_fp8
from livetalk_core.models.tiny_decoder import DraftVAE
from livetalk_core.plan import StreamPlan
from livetalk_core.stream.flow import denoise_steps, flow_times, seeded_noise
from livetalk_core.stream.session import DECODE_GROUPS, OnStep
from livetalk_core.types import AudioWindow, Reference, StreamSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to make a chunk's latents."""

    option: str
    """As the command line has it; empty for the exact way."""
    steps: int
    kernel: str
    fp8: bool = False


@dataclass(frozen=True, kw_only=True)
class FirstChunk:
    """What a stream begins with. `settings` has the shift of its schedule."""

    plan: StreamPlan
    reference: Reference
    settings: StreamSettings
    window: AudioWindow
    cuts: Cuts
    on_step: OnStep | None = None


class Deviations:
    """Measures an engine's options, each once a size; 8-bit products once, since they begin to be used by it.

    `steps`: the model's own number, the exact one. `fp8`: 8-bit products are asked for. `compiled`: the DiT has a compiled form, which
    is not made of what is only measured. `draft`: a VAE with a tiny decoder.
    """

    def __init__(self, dit: AudioDiT, device: torch.device, steps: int):
        self.dit, self.device, self.steps = dit, device, steps
        self.fp8 = self.compiled = False
        self.draft: DraftVAE | None = None
        self.found: dict[tuple[str, int, int], float] = {}
        """Root mean square of the latents' difference over the exact ones', by option, width and height."""
        self.psnr_db: dict[tuple[int, int], float] = {}
        """Of the tiny decoder's frames against the exact one's, by width and height."""

    @torch.no_grad()
    def measure(self, first: FirstChunk) -> None:
        """Measure and say what is not measured yet. From here on products are in 8 bits where that is asked for."""
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
                    "%s: the first chunk's latents are off by %.2f%% of their size at %dx%d; leave it out for the exact ones",
                    *(way.option, 100 * error, *size),
                )

    def measure_draft(self, exact_CTHW: Tensor, first: FirstChunk) -> None:
        """Decode the exact latents both ways and say how far apart the new frames are, before their color is matched."""
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
            "--decoder: the first chunk's frames have a PSNR of %.2f dB to the exact decoder's at %dx%d; leave it out for the exact ones",
            *(self.psnr_db[width, height], width, height),
        )

    def ways(self, settings: StreamSettings) -> list[Way]:
        """Those of the options, each alone; last the one that stays."""
        found, kernel = [], self.exact_kernel()
        if settings.steps < self.steps:
            found.append(Way(option=f"--steps {settings.steps}", steps=settings.steps, kernel=kernel))
        if wanted_kernel() in INEXACT:
            found.append(Way(option=f"--attention {wanted_kernel()}", steps=self.steps, kernel=wanted_kernel()))
        if self.fp8:
            found.append(Way(option="--fast fp8", steps=self.steps, kernel=kernel, fp8=True))
        return found

    def exact_kernel(self) -> str:
        return "auto" if wanted_kernel() in INEXACT else wanted_kernel()

    def eager(self) -> AbstractContextManager:
        return torch.compiler.set_stance("force_eager") if self.compiled else nullcontext()

    def make(self, way: Way, first: FirstChunk) -> Tensor:
        """The chunk's new latents [C, T, h, w], without the motion latents, which are the same in every way."""
        if way.fp8:
            use_fp8(self.dit)
            self.fp8 = False
        motion_CTHW, times = first.reference.first_CTHW, flow_times(way.steps, first.settings.shift)
        noise = seeded_noise(first.plan.latent_shape, first.settings.seed, self.device)
        denoiser = DiTDenoiser(self.dit, times[:-1], first.cuts)
        with kernel_as(way.kernel):
            steps = denoise_steps(denoiser, motion_CTHW, times, noise, first.reference, first.window, first.settings.last_noise)
            for i in range(way.steps):
                if first.on_step is not None:
                    first.on_step(i, way.steps)
                x0_CTHW = next(steps)
        return x0_CTHW[:, motion_CTHW.shape[1] :]


def relative_rms(answer: Tensor, exact: Tensor) -> float:
    """Root mean square of the difference over that of the exact."""
    return ((answer.float() - exact.float()).square().mean() / exact.float().square().mean()).sqrt().item()


def psnr_db(mean_square: float) -> float:
    """Of frames in [-1, 1], whose peak is 2; infinite without an error."""
    return math.inf if mean_square == 0 else 10 * math.log10(4 / mean_square)
