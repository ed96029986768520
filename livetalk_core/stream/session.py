"""One stream's life: window in, chunk out, motion carried from chunk to chunk. Memory does not grow."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from livetalk_core.plan import StreamPlan
from livetalk_core.stream.clock import StageClock
from livetalk_core.stream.color import lab_stats, match_color
from livetalk_core.stream.flow import Noise, denoise_steps, flow_times
from livetalk_core.types import AudioWindow, Chunk, Denoiser, Reference, StreamSettings, VideoVAE

OnStep = Callable[[int, int], None]
"""Called before each denoising step with (step, steps), and before each piece of the decode with (steps, steps); may raise to stop."""

OnLatents = Callable[[Tensor], None]
"""Called with each chunk's finished latents [C, t, h, w], motion latents first, before they are decoded."""

DECODE_GROUPS = (1, 4)
"""Latent frames decoded at a time: bounds memory; the pixels are the same for any groups."""


class Session:
    """Makes the chunks of one stream in order. Not for use by several threads at once."""

    def __init__(
        self,
        plan: StreamPlan,
        denoiser: Denoiser,
        vae: VideoVAE,
        reference: Reference,
        settings: StreamSettings,
        noise: Noise,
        on_step: OnStep | None = None,
        on_latents: OnLatents | None = None,
    ):
        self.plan, self.denoiser, self.vae, self.reference, self.settings = plan, denoiser, vae, reference, settings
        self.noise, self.on_step, self.on_latents = noise, on_step, on_latents
        self.times = flow_times(settings.steps, settings.shift)
        self.target = lab_stats(reference.pixels_CHW[:, None].float())
        self.motion_CTHW = reference.first_CTHW
        self.next_index = 0

    @torch.no_grad()
    def step(self, window: AudioWindow) -> Chunk:
        """The chunk of this window; windows must come in order."""
        assert window.index == self.next_index, f"window {window.index} came when {self.next_index} was due"
        clock = StageClock(self.motion_CTHW.device)
        with clock.stage("denoise"):
            latents_CTHW = self.denoise(window)
        if self.on_latents is not None:
            self.on_latents(latents_CTHW)
        frames_THWC, tail_CTHW = self.decode(latents_CTHW, window.num_valid, clock)
        with clock.stage("encode"):
            self.motion_CTHW = self.vae.encode(tail_CTHW)
        self.next_index += 1
        return Chunk(
            index=window.index,
            first_frame=window.index * self.plan.new_frames,
            frames_THWC=frames_THWC.cpu(),
            samples=window.samples[: window.num_valid * self.plan.samples_per_frame],
            seconds=clock.seconds(),
        )

    def denoise(self, window: AudioWindow) -> Tensor:
        """Latents [C, t, h, w] of the chunk, motion latents in place."""
        x0 = None
        steps = denoise_steps(self.denoiser, self.motion_CTHW, self.times, self.noise, self.reference, window)
        for i in range(self.settings.steps):
            self.announce(i)
            x0 = next(steps)
        return x0

    def decode(self, latents_CTHW: Tensor, num_valid: int, clock: StageClock) -> tuple[Tensor, Tensor]:
        """The new frames, uint8 [num_valid, H, W, 3], and the last 5 frames [3, 5, H, W] in [-1, 1]; colours matched."""
        frames, tail, skip = [], None, self.plan.motion_frames
        pieces = self.vae.decode(latents_CTHW, DECODE_GROUPS)
        while True:
            self.announce(self.settings.steps)
            with clock.stage("decode"):
                piece_CTHW = next(pieces, None)
            if piece_CTHW is None:
                return torch.cat(frames)[:num_valid], tail
            with clock.stage("color"):
                piece_CTHW = self.matched(piece_CTHW)
                tail = piece_CTHW if tail is None else torch.cat([tail, piece_CTHW], dim=1)
                tail = tail[:, -self.plan.motion_frames :]
                frames.append(to_uint8(piece_CTHW[:, skip:]))
                skip = max(0, skip - piece_CTHW.shape[1])

    def announce(self, step: int) -> None:
        """Tell the caller how far the chunk is; a caller that raises stops the stream here."""
        if self.on_step is not None:
            self.on_step(step, self.settings.steps)

    def matched(self, piece_CTHW: Tensor) -> Tensor:
        """Decoded frames [3, T, H, W] with the reference's colours, float32."""
        return match_color(piece_CTHW.float(), self.target, self.settings.color_strength)


def to_uint8(video_CTHW: Tensor) -> Tensor:
    """[-1, 1] -> uint8 [T, H, W, 3], truncated as the published system does."""
    return (((video_CTHW + 1) / 2).clamp(0, 1) * 255).to(torch.uint8).permute(1, 2, 3, 0)
