"""Engines that a pool's workers make in tests, named in a Recipe: one with almost nothing in it, and the recorded one."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from livetalk_core.engine.options import EngineOptions, option
from livetalk_core.presets import tiny
from livetalk_core.types import Chunk, NoRoom, Reference

GOLDEN = Path(__file__).parent / "golden"


@dataclass(frozen=True, kw_only=True)
class LightOptions(EngineOptions):
    step_s: float = option(0.01, help="seconds that a step of the light engine takes")
    held: str = option("", help="folder: a step ends when a file of its number is there")


class Light:
    """An engine without networks: every chunk is one color, counted up from the seed; ranks meet at every step."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, group, options: LightOptions):
        self.group, self.step_s, self.preset = group, options.step_s, tiny()
        self.held = options.held

    def encode_rows(self, prompt, pixels_CHW):
        gate = None if prompt is None or not prompt.startswith("wait for ") else Path(prompt.removeprefix("wait for "))
        while gate is not None and not gate.exists():
            time.sleep(0.01)
        if gate is not None:
            gate.with_suffix(".passed").touch()
        if prompt == "no rows":
            raise ValueError("prompt='no rows' must be another; try 'none'")
        return {}

    def reference(self, pixels_CHW, prompt="none"):
        if prompt == "fail on rank 1" and dist.get_rank() == 1:
            raise RuntimeError("no more memory\nand a second line")
        if prompt == "sleep on rank 1" and dist.get_rank() == 1:
            time.sleep(1000)
        if prompt == "refuse":
            raise ValueError("prompt='refuse' must be another; try 'none'")
        if prompt == "no room":
            raise NoRoom("no memory for another stream; end a stream first")
        self.meet()
        empty = torch.zeros(1)
        return Reference(text_LD=empty, image_LD=empty, cond_CTHW=empty, first_CTHW=empty, pixels_CHW=pixels_CHW)

    def open(self, reference, settings, people, on_step, on_latents):
        return LightStream(self, reference, self.preset.settled(settings), on_step)

    def meet(self):
        if self.group is not None:
            dist.all_reduce(torch.zeros(1), group=self.group.whole)


class LightStream:
    def __init__(self, engine, reference, settings, on_step):
        self.engine, self.settings, self.on_step = engine, settings, on_step
        self.size = reference.pixels_CHW.shape[1:]
        self.index = self.waiting = 0

    def push(self, samples_PN):
        self.waiting += samples_PN.shape[-1]
        while self.waiting >= 17920:
            self.waiting -= 17920
            yield self.chunk(28)

    def finish(self, num_frames=None):
        if self.waiting:
            yield self.chunk(self.waiting // 640)

    def chunk(self, count):
        for step in range(self.settings.steps):
            self.on_step(step, self.settings.steps)
            time.sleep(self.engine.step_s)
            while self.engine.held and not os.path.exists(os.path.join(self.engine.held, str(step))):
                time.sleep(0.002)
            self.engine.meet()
        self.index += 1
        frames = torch.full((count, *self.size, 3), (self.settings.seed + self.index) % 256, dtype=torch.uint8)
        return Chunk(index=self.index - 1, first_frame=28 * (self.index - 1), frames_THWC=frames, samples=torch.zeros(640 * count))

    def close(self):
        pass


def uneven(group, options):
    """A tiny engine on ranks of which the last has no memory left; its audio features say whether it absorbs audio keys."""
    from livetalk_core.engine import room as module
    from livetalk_core.engine.load import load_member

    module.free_bytes = lambda device: 0 if group.rank == group.size - 1 else 1 << 40
    engine = load_member(group, options)
    engine.encode_audio = lambda samples_N, loudness=True: torch.tensor([engine.cuts(engine.plan(48, 32)).absorb_audio])
    return engine


def golden(group, options=None):
    """The engine of the recorded stream, with its recorded noise and window features' own encoder."""
    from livetalk_core.checks.parity import Golden, recorded_noise
    from livetalk_core.engine import engine as module
    from livetalk_core.engine.engine import Engine, Models
    from livetalk_core.parallel.context import SequenceParallel
    from livetalk_core.parallel.vae import parallelize_vae

    recorded = Golden(GOLDEN)
    dit, vae = recorded.dit, recorded.served_vae
    if group is not None:
        dit.sequence = SequenceParallel(group, dit.config.num_heads)
        vae = parallelize_vae(vae, group)
    _, tensors = recorded.read("stream")
    module.seeded_noise = lambda shape, seed, device: recorded_noise(tensors, 4)
    models = Models(dit=dit, vae=vae, audio=recorded.audio, text=None, image=None, tokenize=None)
    preset = type(tiny())(**vars(tiny()) | {"dit": dit.config, "vae": recorded.vae.config})
    return Engine(preset, models, torch.device("cpu"), torch.float32)


def golden_reference(engine) -> Reference:
    """The recorded picture, text and features."""
    from livetalk_core.checks.parity import Golden
    from livetalk_core.stream.condition import encode_condition, first_latent

    _, tensors = Golden(GOLDEN).read("stream")
    pixels_CHW = tensors["in.reference"][0, :, 0]
    plan = engine.plan(48, 32)
    cond_CTHW = encode_condition(engine.models.vae, pixels_CHW, plan)
    return Reference(
        text_LD=tensors["in.text"],
        image_LD=tensors["in.clip"][0],
        cond_CTHW=cond_CTHW,
        first_CTHW=first_latent(cond_CTHW, plan),
        pixels_CHW=pixels_CHW,
    )
