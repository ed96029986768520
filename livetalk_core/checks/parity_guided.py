"""The chunk loops of InfiniteTalk and MultiTalk against golden tensors of the published ones (tests/golden_guided/README.md)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import torch
from safetensors import safe_open
from torch import Tensor

from livetalk_core.engine.denoiser import Cuts, DiTDenoiser
from livetalk_core.engine.guidance import Guidance
from livetalk_core.models.dit import AudioDiT
from livetalk_core.models.vae import CausalVAE
from livetalk_core.plan import StreamPlan
from livetalk_core.stream.condition import encode_condition, first_latent
from livetalk_core.stream.flow import first_motion, times_of
from livetalk_core.stream.session import Session
from livetalk_core.types import AudioWindow, Reference, StreamSettings

SAMPLERS = {"infinitetalk": "euler", "multitalk": "euler_noised"}
"""The sampler of each golden file."""
CASES = ("guided", "lora", "two")


class Golden(Protocol):
    """A folder of golden files, as parity.Golden."""

    device: torch.device
    dit: AudioDiT
    served_vae: CausalVAE

    def path(self, name: str) -> Path: ...

    def error(self, found: Tensor, expected: Tensor) -> float: ...


class Recorded:
    """One case of a golden file, and what our code makes of it. The networks are those of the main golden files."""

    def __init__(self, model: str, case: str, golden: Golden):
        with safe_open(golden.path(model), "pt") as file:
            config = json.loads(file.metadata()["config"])
            self.all = {name: file.get_tensor(name).to(golden.device) for name in file.keys()}  # noqa: SIM118 (it is no dict)
        self.case, self.golden, self.chunks = case, golden, config["cases"][case]["chunks"]
        chosen = config["cases"][case]
        height, width = self["in.pixels"].shape[-2:]
        self.plan = StreamPlan(width=width, height=height, chunk_frames=config["frames"], motion_frames=config["motion_frames"])
        self.guidance = Guidance(text=chosen["text"], audio=chosen["audio"], negative_LD=self.all["in.negative"])
        self.settings = StreamSettings(
            steps=chosen["steps"], shift=config["shift"], sampler=SAMPLERS[model], last_noise=1.0, color_strength=0.0
        )
        self.times, self.described = times_of(self.settings), []

    def __getitem__(self, name: str) -> Tensor:
        return self.all[f"{self.case}.{name}"] if f"{self.case}.{name}" in self.all else self.all[f"guided.{name}"]

    def reference(self) -> Reference:
        condition = encode_condition(self.golden.served_vae, self["in.pixels"], self.plan)
        return Reference(
            text_LD=self.all["in.text"],
            image_LD=self["in.image.0"],
            cond_CTHW=condition,
            first_CTHW=first_latent(condition, self.plan),
            pixels_CHW=self["in.pixels"],
            speaker_masks_KHW=self["in.masks"] if self.case == "two" else None,
        )

    def window(self, chunk: int) -> AudioWindow:
        samples, count = torch.zeros(self.plan.new_samples), self.plan.new_frames
        return AudioWindow(index=chunk, features_PTWSD=self[f"in.audio.{chunk}"], samples=samples, num_valid=count)

    def denoiser(self, cuts: Cuts) -> DiTDenoiser:
        return DiTDenoiser(self.golden.dit, self.times[:-1], cuts, self.guidance)

    def noise(self) -> Callable[[torch.dtype], Tensor]:
        """The recorded draws; those of motion latents are filled up."""
        draws = []
        for chunk in range(self.chunks):
            draws.append(self[f"in.noise.{chunk}"])
            names = [f"in.motion_noise.{chunk}.{i}" for i in range(len(self.times))]
            motion = [self[name] for name in names if f"{self.case}.{name}" in self.all]
            draws += [torch.cat([noise, noise.new_zeros(16, 9 - noise.shape[1], 4, 6)], dim=1) for noise in motion]
        return lambda dtype: draws.pop(0).to(dtype)

    def describe(self, frame_CHW: Tensor) -> Tensor:
        self.described.append(frame_CHW)
        return self[f"in.image.{len(self.described)}"] if len(self.described) < self.chunks else self["in.image.0"]

    def session(self, cuts: Cuts = Cuts(), **later) -> Session:  # noqa: B008 (frozen)
        describe = self.describe if self.settings.sampler == "euler_noised" else None
        vae = self.golden.served_vae
        return Session(self.plan, self.denoiser(cuts), vae, self.reference(), self.settings, self.noise(), describe=describe, **later)


def check_guided(golden: Golden, model: str) -> Iterator[tuple[str, float]]:
    """Errors of one guided step, and of the timesteps, conditions and latents of all chunks, each from our own end of the one before."""
    for case in CASES:
        made, latents = Recorded(model, case, golden), []
        reference, x, t = made.reference(), made["in.step.0"], made.times[0]
        known = first_motion(made.settings, reference).shape[1]
        x0 = made.denoiser(Cuts())(x, t, reference, made.window(0), known)
        yield f"{case} velocity", golden.error(((x - x0) / t)[:, known:], made["out.velocity.0"][:, known:])
        yield f"{case} timesteps", golden.error(torch.tensor(made.times[:-1]), made["out.timesteps"] / 1000)
        session = made.session(on_latents=latents.append)
        for chunk in range(made.chunks):
            shown = f"out.condition.{chunk if model == 'multitalk' else 0}"
            yield f"{case} chunk {chunk} condition", golden.error(session.reference.cond_CTHW, made[shown])
            list(session.step(made.window(chunk)))
            yield f"{case} chunk {chunk} latents", golden.error(latents[chunk], made[f"out.latent.{chunk}"])
