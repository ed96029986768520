"""The parts of a stream as calls: counted on the meta device, timed on a real one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from livetalk_core.engine.denoiser import Cuts, DiTDenoiser
from livetalk_core.engine.engine import Engine
from livetalk_core.plan import StreamPlan
from livetalk_core.stream.condition import encode_condition
from livetalk_core.stream.flow import times_of
from livetalk_core.stream.session import DECODE_GROUPS, BegunDecode, Session
from livetalk_core.types import AudioWindow, Reference, StreamSettings

TEXT_ROWS = 25
"""Tokens of a typical prompt."""

Call = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of a stream's work. `prepare` makes its inputs and returns the call, which owns them."""

    name: str
    per: str
    """How often it runs: once per step, chunk, stream or identity."""
    stage: str | None
    """The stage of a chunk that includes it; None: it runs before the first chunk."""
    prepare: Callable[[], Call]


def list_parts(engine: Engine, plan: StreamPlan, cuts: Cuts, encoders: bool = True) -> list[Part]:
    """The parts of a stream of this engine and size, with or without text and picture encoder. Inputs are random, on its device."""
    make = RandomInputs(engine, plan, cuts, engine.preset.steps)
    parts = [
        Part(name="DiT step", per="step", stage="denoise", prepare=make.step),
        Part(name="audio keys", per="chunk", stage="denoise", prepare=make.audio_keys),
        Part(name="VAE decode", per="chunk", stage="decode", prepare=make.decode),
        Part(name="color", per="chunk", stage="color", prepare=make.color),
        Part(name="VAE encode", per="chunk", stage="encode", prepare=make.encode),
        Part(name="audio encoder", per="chunk", stage="audio", prepare=make.audio_encoder),
        Part(name="prompt and picture keys", per="stream", stage=None, prepare=make.stream_keys),
        Part(name="condition encode", per="identity", stage=None, prepare=make.condition),
    ]
    if encoders:
        parts.append(Part(name="text encoder", per="identity", stage=None, prepare=make.text_encoder))
        parts.append(Part(name="picture encoder", per="identity", stage=None, prepare=make.picture_encoder))
    return parts


class RandomInputs:
    """The parts of one engine as calls with random inputs."""

    def __init__(self, engine: Engine, plan: StreamPlan, cuts: Cuts, steps: int):
        self.engine, self.plan, self.cuts = engine, plan, cuts
        self.settings = engine.preset.settled(StreamSettings(steps=steps))
        self.times = times_of(self.settings)[:-1]
        self.vae = engine.vae_for(plan, self.video(1)[:, 0])

    def random(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.randn(shape, device=self.engine.device, dtype=dtype or self.engine.dtype)

    def video(self, frames: int) -> Tensor:
        """[3, T, H, W] in [-1, 1]."""
        return self.random(3, frames, self.plan.height, self.plan.width).clamp(-1, 1)

    def latents(self, frames: int, dtype: torch.dtype | None = None) -> Tensor:
        channels, _, height, width = self.plan.latent_shape
        return self.random(channels, frames, height, width, dtype=dtype)

    def reference(self) -> Reference:
        config, plan = self.engine.preset.dit, self.plan
        mask_CTHW = self.random(plan.temporal_stride, *plan.latent_shape[1:])
        return Reference(
            text_LD=self.random(min(TEXT_ROWS, config.text_len), config.text_dim),
            image_LD=self.random(self.engine.preset.image.tokens, config.image_dim),
            cond_CTHW=torch.cat([mask_CTHW, self.latents(plan.latent_frames)]),
            first_CTHW=self.latents(1),
            pixels_CHW=self.video(1)[:, 0],
        )

    def window(self) -> AudioWindow:
        plan, audio = self.plan, self.engine.preset.audio
        features_PTWSD = self.random(1, plan.chunk_frames, plan.audio_window, audio.layers, audio.width, dtype=torch.float32)
        return AudioWindow(index=0, features_PTWSD=features_PTWSD, samples=torch.zeros(plan.new_samples), num_valid=plan.new_frames)

    def denoiser(self) -> DiTDenoiser:
        return DiTDenoiser(self.engine.models.dit, self.times, self.cuts)

    def step(self) -> Call:
        """A step after a chunk's first, so the chunk's keys exist."""
        denoiser, x_CTHW = self.denoiser(), self.latents(self.plan.latent_frames, torch.float32)
        run = partial(denoiser, x_CTHW, self.times[-1], self.reference(), self.window(), self.plan.motion_latents)
        run()
        return run

    def audio_keys(self) -> Call:
        denoiser = self.denoiser()
        denoiser.hold_reference(self.reference())
        return partial(denoiser.hold_window, self.window(), self.engine.device)

    def stream_keys(self) -> Call:
        """With the embeddings of the schedule's times."""
        reference = self.reference()
        return lambda: self.denoiser().hold_reference(reference)

    def decode(self) -> Call:
        """All of a chunk's decode. With the published VAE, motion latents are a group of their own, as in a stream."""
        latents_CTHW = self.latents(self.plan.latent_frames, torch.float32)
        return lambda: sum(1 for _ in self.decoded(latents_CTHW))

    def decoded(self, latents_CTHW: Tensor) -> Iterator[Tensor]:
        """The pieces of a decode that begins now."""
        vae, motion = self.vae, self.plan.motion_latents
        if self.engine.motion_apart:
            return BegunDecode(vae, latents_CTHW[:, :motion]).go_on(latents_CTHW[:, motion:])
        return vae.decode(latents_CTHW, DECODE_GROUPS)

    def decode_motion(self) -> Call:
        """Only the motion latents, which a lone stream decodes before a chunk's sound is there. Only for the published VAE."""
        latents_CTHW = self.latents(self.plan.motion_latents, torch.float32)
        return lambda: BegunDecode(self.vae, latents_CTHW)

    def decode_first(self) -> Call:
        """What is decoded before the first new frame, once the motion latents are. To be called once."""
        pieces = self.decoded(self.latents(self.plan.latent_frames, torch.float32))
        return lambda: next(pieces)

    def color(self) -> Call:
        """Color matching and conversion of a chunk's decoded frames."""
        latents_CTHW = self.latents(self.plan.latent_frames)
        session = self.session(DecodedFrames(list(self.decoded(latents_CTHW))))

        def run() -> None:
            first = 0 if self.engine.motion_apart else -self.plan.motion_frames
            for piece_CTHW in session.decode(session.vae.decode(latents_CTHW, DECODE_GROUPS)):
                session.new_frames(piece_CTHW, first, self.plan.new_frames)
                first += piece_CTHW.shape[1]

        return run

    def session(self, vae, denoiser=None) -> Session:
        noise = partial(torch.randn, self.plan.latent_shape, device=self.engine.device)
        return Session(self.plan, denoiser, vae, self.reference(), self.settings, lambda dtype: noise(dtype=dtype))

    def encode(self) -> Call:
        return partial(self.vae.encode, self.video(self.plan.motion_frames).float())

    def condition(self) -> Call:
        """The condition, which has the motion latents of the first chunk in it."""
        picture_frames = self.engine.preset.dit.picture_frames(self.plan.chunk_frames)
        return partial(encode_condition, self.vae, self.video(1)[:, 0], self.plan, picture_frames)

    def audio_encoder(self) -> Call:
        return partial(self.engine.models.audio, self.random(self.plan.context_samples, dtype=torch.float32) * 0.1)

    def text_encoder(self) -> Call:
        rows, length = min(TEXT_ROWS, self.engine.preset.dit.text_len), self.engine.preset.dit.text_len
        ids_1L = torch.ones(1, length, dtype=torch.long, device=self.engine.device)
        mask_1L = (torch.arange(length) < rows).long()[None]  # on the host, where its sum is read
        return partial(self.engine.models.text(), ids_1L, mask_1L)

    def picture_encoder(self) -> Call:
        return partial(self.engine.models.image(), self.video(1)[:, 0])


class DecodedFrames:
    """In place of a VAE: returns frames decoded before."""

    def __init__(self, pieces: list[Tensor]):
        self.pieces = pieces

    def decode(self, latents_CTHW: Tensor, groups: tuple[int, ...] = ()) -> Iterator[Tensor]:
        yield from self.pieces
