"""The counted work of a model at a size: every part with all savings and in its plain form, and the numbers that have a target."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from livetalk_core.bench.components import Inputs, components
from livetalk_core.bench.counters import Work, count
from livetalk_core.bench.crossings import Watch, cross_in_a_chunk
from livetalk_core.bench.networks import META, random_engine
from livetalk_core.bench.plain import make_plain
from livetalk_core.engine.assemble import draft_with
from livetalk_core.engine.denoiser import PLAIN, Cuts
from livetalk_core.engine.engine import Engine
from livetalk_core.models.rope import Grid
from livetalk_core.models.small_dit import build_dit
from livetalk_core.models.tiny_decoder import TinyDecoder
from livetalk_core.models.vae import CausalVAE
from livetalk_core.plan import StreamPlan
from livetalk_core.presets import Preset, livetalk_14b
from livetalk_core.stream.session import DECODE_GROUPS

LARGE = (720, 416)
"""The size at which the large model's targets are said."""
COMPILED = "the target is the compiled form's"
UNCOUNTED = "livetalk bench --counters --compile counts it"
BLOCK_OPS, STEP_BYTES, DECODE_OPS = (
    "operations of a DiT block, compiled",
    "elementwise bytes of a DiT step, compiled",
    "operations of a VAE decode, compiled",
)


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A number and its target; `value` None: not measured."""

    what: str
    value: float | None
    unit: str
    low: float | None = None
    high: float | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        if self.value is None:
            return "not measured"
        if self.low is None and self.high is None:
            return ""
        good = (self.low is None or self.value >= self.low) and (self.high is None or self.value <= self.high)
        return "reached" if good else "not reached"


@functools.cache
def count_components(preset: Preset, size: tuple[int, int], dtype: torch.dtype, cuts: Cuts, tiny_decoder: bool = False) -> list[dict]:
    """A row a part: its work with these savings, and its plain form's where there is one. Nothing is computed, and no weights are made."""
    engine = random_engine(preset, META, dtype)
    plan = engine.plan(*size)
    plain = plain_calls(random_engine(preset, META, dtype), plan)
    if tiny_decoder:
        with META:
            draft_with(engine, TinyDecoder())
        del plain["VAE decode"]
    rows = []
    for component in components(engine, plan, cuts):
        row = {"name": component.name, "per": component.per, "stage": component.stage, **vars(work_of(engine, component.prepare))}
        if component.name in plain:
            row["plain"] = vars(work_of(*plain[component.name]))
        rows.append(row)
    return rows


def count_weights(preset: Preset) -> int:
    """Weights of the DiT."""
    with META:
        return sum(weight.numel() for weight in build_dit(preset.dit).parameters())


def plain_calls(engine: Engine, plan: StreamPlan) -> dict[str, tuple[Engine, Callable]]:
    """The published form's parts, where it has more work."""
    inputs = Inputs(engine, plan, PLAIN, engine.preset.steps)
    calls = {"DiT step": inputs.plain_step}
    if isinstance(engine.models.vae, CausalVAE):
        make_plain(engine.models.vae)
        calls |= {"VAE decode": partial(inputs.decode, ()), "VAE encode": inputs.encode}
    return {name: (engine, prepare) for name, prepare in calls.items()}


@torch.no_grad()
def work_of(engine: Engine, prepare: Callable[[], Callable[[], object]]) -> Work:
    """What the prepared call takes, its preparation left out."""
    models = engine.models
    return count(prepare(), (models.dit, models.vae, models.audio, models.text(), models.image()))


@functools.cache
def count_limits() -> list[Limit]:
    """The large model's numbers that have a target, at 720 x 416 in bfloat16."""
    rows = {row["name"]: row for row in count_components(livetalk_14b(), LARGE, torch.bfloat16, Cuts())}
    large = livetalk_14b()
    shallow = replace(large, dit=replace(large.dit, num_layers=2))  # what is asked of single blocks, and of what is done in none
    engine = random_engine(shallow, META, torch.bfloat16)
    inputs = Inputs(engine, engine.plan(*LARGE), Cuts(), engine.preset.steps)
    return dit_limits(rows["DiT step"], inputs) + vae_limits(rows["VAE decode"], rows["VAE encode"], inputs) + sync_limits()


def dit_limits(step: dict, inputs: Inputs) -> list[Limit]:
    ratio, block = audio_ratio(inputs), block_work(inputs)
    constant = constant_work(inputs)
    return [
        Limit(what="DiT step", value=step["flops"] / 1e12, unit="TFLOP", high=355),
        Limit(what="DiT step, plain", value=step["plain"]["flops"] / 1e12, unit="TFLOP", note="published form: everything in every step"),
        Limit(
            what="audio cross-attention, plain / absorbed",
            value=ratio,
            unit="x",
            low=3.9,
            note="4 steps and the making of the keys",
        ),
        Limit(what="constant work after a stream's first step", value=constant.flops / 1e12, unit="TFLOP", high=0),
        Limit(what="constant work after a stream's first step, operations", value=constant.ops, unit="operations", high=0),
        Limit(what="operations of a DiT block, eager", value=block.ops, unit="operations", high=40, note=COMPILED),
        Limit(what=BLOCK_OPS, value=None, unit="operations", high=40, note=UNCOUNTED),
        Limit(what="operations of a DiT step, eager", value=step["ops"], unit="operations"),
        Limit(
            what="elementwise bytes of a DiT step, eager",
            value=step["elementwise_bytes"] / 1e9,
            unit="GB",
            high=95,
            note=COMPILED,
        ),
        Limit(what="elementwise bytes of a DiT step, plain", value=step["plain"]["elementwise_bytes"] / 1e9, unit="GB"),
        Limit(what=STEP_BYTES, value=None, unit="GB", high=95, note=UNCOUNTED),
    ]


def vae_limits(decode: dict, encode: dict, inputs: Inputs) -> list[Limit]:
    return [
        Limit(what="VAE decode of a chunk", value=decode["flops"] / 1e12, unit="TFLOP", high=78, note=f"in groups {DECODE_GROUPS}"),
        Limit(what="VAE decode of a chunk, plain", value=decode["plain"]["flops"] / 1e12, unit="TFLOP", note="the whole clip at once"),
        Limit(what="VAE encode of 5 frames", value=encode["flops"] / 1e12, unit="TFLOP", high=6.2),
        Limit(what="VAE encode of 5 frames, plain", value=encode["plain"]["flops"] / 1e12, unit="TFLOP"),
        Limit(
            what="VAE work before the first new frame",
            value=first_frame_work(inputs).flops / 1e12,
            unit="TFLOP",
            high=24,
            note=f"as served: decoded in groups {DECODE_GROUPS}, the first of which leaves at once",
        ),
        Limit(what="operations of a VAE decode, eager", value=decode["ops"], unit="operations", high=500, note=COMPILED),
        Limit(what=DECODE_OPS, value=None, unit="operations", high=500, note=UNCOUNTED),
    ]


def sync_limits() -> list[Limit]:
    """How often the host and the device meet in a chunk."""
    crossings = cross_in_a_chunk()
    read, to_host, to_device = (", ".join(tally(crossings[kind])) for kind in ("read", "to_host", "to_device"))
    return [
        Limit(what="values read by the host in a chunk", value=len(crossings["read"]), unit="reads", high=0, note=read),
        Limit(
            what="copies from device to host in a chunk",
            value=len(crossings["to_host"]),
            unit="copies",
            high=3,
            note=f"a piece's frames each, pinned and beside the next piece's work: {to_host}",
        ),
        Limit(
            what="copies from host to device in a chunk",
            value=len(crossings["to_device"]),
            unit="copies",
            high=1,
            note=f"sound, pinned: {to_device}",
        ),
    ]


def tally(lines: list[str]) -> list[str]:
    """Each line once, with how often it came."""
    return [f"{line} ({lines.count(line)})" for line in dict.fromkeys(lines)]


def audio_ratio(inputs: Inputs) -> float:
    """FLOPs of a chunk's audio attention in one block: plain over absorbed, all steps and the making of the absorbed keys."""
    dit = inputs.engine.models.dit
    layer, tokens_BLD, grid = dit.blocks[0].audio_cross_attn, block_input(inputs), chunk_grid(inputs)
    audio = dit.embed_audio(inputs.window().features_PTWSD[None].flatten(-2))[0]
    absorbed = layer.absorb(audio, 1)
    plain, cut = (count(lambda keys=keys: layer(tokens_BLD, keys, grid, None)).flops for keys in (audio, absorbed))
    making = count(lambda: layer.absorb(audio, 1)).flops
    steps = len(inputs.times)
    return steps * plain / (steps * cut + making)


def block_work(inputs: Inputs) -> Work:
    """One DiT block, not the last."""
    return count(block_call(inputs), [inputs.engine.models.dit])


def block_call(inputs: Inputs) -> Callable[[], torch.Tensor]:
    """The DiT's first block on a chunk's tokens, with the keys of a stream and a chunk."""
    dit, denoiser, window = inputs.engine.models.dit, inputs.denoiser(), inputs.window()
    denoiser.hold_reference(inputs.reference())
    denoiser.hold_window(window, inputs.engine.device)
    time_B6D = denoiser.embedded_time(inputs.times[0], inputs.engine.device).blocks_B6D
    return partial(dit.blocks[0], block_input(inputs), chunk_grid(inputs), time_B6D, denoiser.context[0], denoiser.audio[0], None)


def constant_work(inputs: Inputs) -> Work:
    """What later steps of a chunk do beyond the cheapest: nothing, if all that is constant is kept."""
    denoiser, x_CTHW = inputs.denoiser(), inputs.latents(inputs.plan.latent_frames, torch.float32)
    reference, window, motion = inputs.reference(), inputs.window(), inputs.plan.motion_latents
    denoiser(x_CTHW, inputs.times[0], reference, window, motion)
    steps = [count(lambda t=t: denoiser(x_CTHW, t, reference, window, motion)) for t in inputs.times[1:]]
    held = (denoiser.condition, denoiser.embedded_time(inputs.times[1], x_CTHW.device), denoiser.context, denoiser.audio)
    skip = motion if inputs.cuts.skip_motion else 0
    network = count(lambda: inputs.engine.models.dit(x_CTHW[None], *held, None, skip))
    answer = count(lambda: x_CTHW - inputs.times[1] * x_CTHW)
    return Work(
        flops=max(step.flops for step in steps) - network.flops,
        ops=max(step.ops for step in steps) - network.ops - answer.ops,
    )


def first_frame_work(inputs: Inputs) -> Work:
    """What a session decodes and encodes before it hands out the first frames, its denoiser doing nothing."""
    session = inputs.session(inputs.engine.models.vae, lambda x_CTHW, *_: x_CTHW)
    with Watch():
        return count(lambda: next(session.step(inputs.window())), [inputs.engine.models.vae])


def block_input(inputs: Inputs) -> torch.Tensor:
    return inputs.random(1, inputs.plan.tokens, inputs.engine.preset.dit.dim)


def chunk_grid(inputs: Inputs) -> Grid:
    return inputs.engine.models.dit.embed_condition(inputs.reference().cond_CTHW[None]).grid
