"""Flow sampling: how noise becomes latents. x_t = (1 - t) x0 + t noise with flow time t in [0, 1]; each step predicts x0.

renoise, of few-step models: each step adds new noise for the next time. The same roll-out serves and distills. The noise before the last
step can be scaled down, like a lower sampling temperature: noise that the network does not remove stays visible.
euler, of InfiniteTalk: steps along the velocity, with the noise of the start.
Motion latents are known: in both they are put back, without noise, before every step and at the end.
euler_noised, of MultiTalk: the same steps, but motion latents are put back with new noise for each step's time; the condition shows them
without noise. The first chunk has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from livetalk_core.types import AudioWindow, Denoiser, Reference, StreamSettings

Noise = Callable[[torch.dtype], Tensor]
"""Draws standard normal noise of the latents' shape; called once at the start and once after each step."""

NOMINAL = {4: (1000.0, 750.0, 500.0, 250.0), 3: (1000.0, 750.0, 500.0), 2: (1000.0, 500.0)}
"""Steps that the published model was distilled for: 4 and 2. With 3, the first three of the 4."""


def flow_times(steps: int, shift: float) -> list[float]:
    """Flow times, steps + 1 of them from 1 to 0: t = shift u / (1 + (shift - 1) u). 4 steps, shift 5: 1, .9375, .8333, .625, 0."""
    if steps < 1:
        raise ValueError(f"steps={steps} must be 1 or more; the model was distilled for 4")
    nominal = torch.tensor([*NOMINAL.get(steps, torch.linspace(1000, 1, steps).tolist()), 0.0]) / 1000
    return (shift * nominal / (1 + (shift - 1) * nominal)).tolist()


def linear_times(steps: int, shift: float) -> list[float]:
    """Flow times of InfiniteTalk, steps + 1 of them: 1000 to 1 in equal distances and 0, divided by 1000 and shifted as in flow_times."""
    nominal = torch.tensor([*torch.linspace(1000, 1, steps).tolist(), 0.0]) / 1000
    return (shift * nominal / (1 + (shift - 1) * nominal)).tolist()


def times_of(settings: StreamSettings, steps: int | None = None) -> list[float]:
    """The flow times of settled settings, or those of another number of steps."""
    make = flow_times if settings.sampler in (None, "renoise") else linear_times
    return make(settings.steps if steps is None else steps, settings.shift)


def steps_of(
    settings: StreamSettings,
    denoiser: Denoiser,
    motion_CTHW: Tensor,
    times: list[float],
    noise: Noise,
    reference: Reference,
    window: AudioWindow,
) -> Iterator[Tensor]:
    """Yields x0 [C, T, H, W] float32 after each step of the settings' sampler, motion latents in place."""
    if settings.sampler in (None, "renoise"):
        return denoise_steps(denoiser, motion_CTHW, times, noise, reference, window, settings.last_noise)
    make = noised_steps if settings.sampler == "euler_noised" else euler_steps
    return make(denoiser, motion_CTHW, times, noise, reference, window)


def first_motion(settings: StreamSettings, reference: Reference) -> Tensor:
    """Motion latents [C, 1 or 0, h, w] of a stream's first chunk: the picture's, or none."""
    return reference.first_CTHW[:, :0] if settings.sampler == "euler_noised" else reference.first_CTHW


def skip_noise(settings: StreamSettings, noise: Noise, dtype: torch.dtype) -> None:
    """Draw a chunk's noise and drop it. `dtype`: that of the motion latents."""
    renoises = settings.sampler in (None, "renoise")
    noise(dtype if renoises else torch.float32)
    for _ in range(settings.steps if renoises else 0):
        noise(torch.float32)


def denoise_steps(
    denoiser: Denoiser,
    motion_CTHW: Tensor,
    times: list[float],
    noise: Noise,
    reference: Reference,
    window: AudioWindow,
    last_noise: float = 1.0,
) -> Iterator[Tensor]:
    """Yields x0 [C, T, H, W] float32 after each step, motion latents in place: serving takes the last, distillation a random one.

    `last_noise` scales the noise that is added before the last step, if there is more than one.
    """
    x = pin_motion(noise(motion_CTHW.dtype), motion_CTHW)
    for t, t_next in zip(times[:-1], times[1:], strict=True):
        x0 = denoiser(x, t, reference, window, motion_CTHW.shape[1])
        fresh, amount = noise(x0.dtype), t_next * (last_noise if t_next == times[-2] else 1.0)
        x = pin_motion((1 - t_next) * x0 + amount * fresh, motion_CTHW)
        yield pin_motion(x0, motion_CTHW)


def euler_steps(
    denoiser: Denoiser, motion_CTHW: Tensor, times: list[float], noise: Noise, reference: Reference, window: AudioWindow
) -> Iterator[Tensor]:
    """Yields x0 [C, T, H, W] float32 after each Euler step x - (t - t_next) v, where v = (x - x0) / t; motion latents in place."""
    x = pin_motion(noise(torch.float32), motion_CTHW)
    for t, t_next in zip(times[:-1], times[1:], strict=True):
        x0 = denoiser(x, t, reference, window, motion_CTHW.shape[1])
        x = pin_motion(x0 + (t_next / t) * (x - x0), motion_CTHW)
        yield pin_motion(x0, motion_CTHW)


def noised_steps(
    denoiser: Denoiser, motion_CTHW: Tensor, times: list[float], noise: Noise, reference: Reference, window: AudioWindow
) -> Iterator[Tensor]:
    """As euler_steps, with motion latents that have each step's noise."""
    count = motion_CTHW.shape[1]

    def with_motion(x_CTHW: Tensor, t: float) -> Tensor:
        if count == 0:
            return x_CTHW
        return pin_motion(x_CTHW, (1 - t) * motion_CTHW.float() + t * noise(torch.float32)[:, :count])

    x = with_motion(noise(torch.float32), times[0])
    for t, t_next in zip(times[:-1], times[1:], strict=True):
        x0 = denoiser(x, t, reference, window, count)
        x = with_motion(x0 + (t_next / t) * (x - x0), t_next)
        yield pin_motion(x0, motion_CTHW)


def pin_motion(x_CTHW: Tensor, motion_CTHW: Tensor) -> Tensor:
    """x with its first latent frames replaced by the motion latents."""
    return torch.cat([motion_CTHW.to(x_CTHW.dtype), x_CTHW[:, motion_CTHW.shape[1] :]], dim=1)


def seeded_noise(shape: tuple[int, ...], seed: int, device: torch.device) -> Noise:
    """One generator for a whole stream, on the compute device, as in the published system."""
    generator = torch.Generator(device=device).manual_seed(seed)
    return lambda dtype: torch.randn(shape, generator=generator, device=device, dtype=dtype)
