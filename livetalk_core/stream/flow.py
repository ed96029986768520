"""Few-step flow sampling: the same roll-out for serving and distillation.

x_t = (1 - t) x0 + t noise with flow time t in [0, 1]. Each step predicts x0 and adds new noise for the next time.
Motion latents are known: they are put back, without noise, before every step and at the end. The noise before the last step can be scaled
down, like a lower sampling temperature: noise that the network does not remove stays visible.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from livetalk_core.types import AudioWindow, Denoiser, Reference

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


def pin_motion(x_CTHW: Tensor, motion_CTHW: Tensor) -> Tensor:
    """x with its first latent frames replaced by the motion latents."""
    return torch.cat([motion_CTHW.to(x_CTHW.dtype), x_CTHW[:, motion_CTHW.shape[1] :]], dim=1)


def seeded_noise(shape: tuple[int, ...], seed: int, device: torch.device) -> Noise:
    """One generator for a whole stream, on the compute device, as in the published system."""
    generator = torch.Generator(device=device).manual_seed(seed)
    return lambda dtype: torch.randn(shape, generator=generator, device=device, dtype=dtype)
