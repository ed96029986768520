"""The parts of an acceptance run: is each way of computing right on this device, and how fast is it?"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from livetalk_core.bench.accept import Target
from livetalk_core.bench.accept_attention import measure_attention
from livetalk_core.bench.measurement import measure_engine, measure_without_encoders, plan_of_size
from livetalk_core.bench.parts import RandomInputs
from livetalk_core.bench.random_engine import check_room, random_engine
from livetalk_core.checks.parity import run_parity
from livetalk_core.engine.assemble import assemble, keep_dit
from livetalk_core.engine.compile import require_compiler
from livetalk_core.engine.deviation import relative_rms
from livetalk_core.engine.engine import Engine
from livetalk_core.engine.load import load_engine
from livetalk_core.engine.options import EngineOptions
from livetalk_core.engine.weight_plan import WeightPlan, settle_whole
from livetalk_core.parallel.group import init_group
from livetalk_core.presets import BY_NAME, Preset
from livetalk_core.types import StreamSettings

STAND_IN_LAYERS = 4
"""Blocks of the model that the ways of computing are compared on; all blocks do the same."""
ROUNDING = {"float32": 1e-4, "bfloat16": 0.03}
"""Largest relative error of latents between two exact ways of computing them."""
DECODE_ROUNDING = {"float32": 1e-4, "bfloat16": 0.06}
"""The same of decoded frames."""
FP8_ERROR = 0.10
TARGETS_S = {"DiT step": 0.560, "VAE decode": 0.250, "VAE encode": 0.030, "chunk": 2.5}
"""What the compiled 14B model must reach on an H200."""


class NotApplicable(Exception):
    """The part cannot run here; the message says why."""


@dataclass(frozen=True, kw_only=True)
class AcceptPart:
    """One part. It runs in a process of its own."""

    limit_s: float
    """On one large GPU; all of them together take less than ten minutes."""
    run: Callable[[Target], dict]
    """Returns what JSON can hold; rows under `checks` have what, error, limit and passed."""


def check_parity(target: Target, dtype: torch.dtype) -> dict:
    """The golden tensors of the published system, on the device."""
    if target.golden is None:
        raise NotApplicable("the golden tensors are in tests/golden of the repository, which is not here")
    torch.backends.cudnn.allow_tf32 = False  # the float32 limits are for float32 convolutions
    found = run_parity(Path(target.golden), target.place, dtype)
    return {"checks": [check_row(f"{each.file}: {each.what}", each.error, each.limit) for each in found]}


def check_row(what: str, error: float, limit: float) -> dict:
    return {"what": what, "error": error, "limit": limit, "passed": error <= limit}


def check_repeat(target: Target) -> dict:
    """The same stream twice gives the same latents, bit for bit."""
    engine = stand_in(target)
    return {"checks": [check_row("the same stream twice", latents_error(engine, engine), 0.0)]}


def check_compile(target: Target) -> dict:
    require(lambda: require_compiler(target.place))
    compiled, eager = assemble(stand_in(target), EngineOptions(compile=True)), stand_in(target)
    checks = [check_row("compiled against eager, latents", latents_error(compiled, eager), ROUNDING[target.dtype])]
    if target.place.type == "cuda":  # a CPU takes minutes to compile the decoder
        checks.append(check_row("compiled against eager, frames", decode_error(compiled, eager), DECODE_ROUNDING[target.dtype]))
    return {"checks": checks}


def check_fp8(target: Target) -> dict:
    """Weights in 8 bits, and products where the device has them."""
    fp8 = stand_in(target)
    settle_whole(fp8.models.dit, WeightPlan(device=target.place, dtype=target.precision, form="fp8"))
    return {"checks": [check_row("fp8 against exact", latents_error(fp8, stand_in(target)), FP8_ERROR)]}


def check_offload(target: Target) -> dict:
    """Weights on the host, brought block by block."""
    offloaded = stand_in(target)
    keep_dit(offloaded.models.dit.to("cpu"), "offload", target.place, target.precision)
    return {"checks": [check_row("offloaded against resident", latents_error(offloaded, stand_in(target)), ROUNDING[target.dtype])]}


def check_sharded(target: Target) -> dict:
    """Weights sharded over a group of one process: the gathering of blocks, without other GPUs."""
    with group_of_one(target) as group:
        sharded = stand_in(target)
        keep_dit(sharded.models.dit.to("cpu"), "sharded", target.place, target.precision, group)
        return {"checks": [check_row("sharded, alone, against resident", latents_error(sharded, stand_in(target)), ROUNDING[target.dtype])]}


@contextmanager
def group_of_one(target: Target):
    import torch.distributed as dist

    if not dist.is_available() or (target.place.type == "cuda" and not dist.is_nccl_available()):
        raise NotApplicable("this torch has no NCCL" if dist.is_available() else "this torch has no torch.distributed")
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"file://{folder}/meet"
        group = init_group(rank=0, size=1, init_method=meeting, device=target.place, ulysses_degree=1, ring_degree=1, kernel="plain")
        try:
            yield group
        finally:
            dist.destroy_process_group()


def require(check: Callable[[], None]) -> None:
    """Turn the ValueError of a check of this machine into NotApplicable."""
    try:
        check()
    except ValueError as error:
        raise NotApplicable(str(error)) from None


def stand_in(target: Target) -> Engine:
    """The model with few blocks and random weights, the same every time."""
    preset = BY_NAME[target.model]()
    preset = replace(preset, dit=replace(preset.dit, num_layers=min(STAND_IN_LAYERS, preset.dit.num_layers)))
    return seeded_engine(preset, target)


def seeded_engine(preset: Preset, target: Target) -> Engine:
    require(lambda: check_room(preset, target.place, target.precision, encoders=False))
    torch.manual_seed(0)
    return random_engine(preset, target.place, target.precision)


def latents_error(engine: Engine, exact: Engine) -> float:
    """Relative error of the first chunk's latents."""
    found, expected = (first_latents(each) for each in (engine, exact))
    return relative_rms(found, expected)


def decode_error(engine: Engine, exact: Engine) -> float:
    """Relative error of the first frames decoded from random latents."""
    plan = plan_of_size(exact, "auto")
    torch.manual_seed(1)
    latents_CTHW = RandomInputs(exact, plan, exact.cuts(plan), exact.preset.steps).latents(plan.latent_frames)
    with torch.no_grad():
        found, expected = (next(iter(each.decode(latents_CTHW))) for each in (engine, exact))
    return relative_rms(found, expected)


class Denoised(Exception):
    """Raised to end a stream when its latents are there."""


def first_latents(engine: Engine) -> Tensor:
    """The first chunk's latents of a stream with random inputs, the same every time. They are not decoded."""
    plan, latents = plan_of_size(engine, "auto"), []

    def keep(latents_CTHW: Tensor) -> None:
        latents.append(latents_CTHW)
        raise Denoised

    torch.manual_seed(1)
    reference = RandomInputs(engine, plan, engine.cuts(plan), engine.preset.steps).reference()
    stream = engine.open(reference, StreamSettings(seed=0, steps=engine.preset.steps), on_latents=keep)
    sound_N = torch.rand(plan.new_samples, generator=torch.Generator().manual_seed(2)) * 0.2 - 0.1
    with suppress(Denoised):
        list(stream.push(sound_N))
    return latents[0][:, reference.first_CTHW.shape[1] :]


def measure_speed(target: Target, compile: bool = False, weights: str = "auto") -> dict:
    """The whole model with random weights: a stream's times, its parts and their shares of this device's rates."""
    preset, begun = BY_NAME[target.model](), time.perf_counter()
    if compile and target.place.type != "cuda":
        raise NotApplicable("a CPU takes minutes to compile the VAE's decoder; livetalk bench --compile measures it")
    if compile:
        require(lambda: require_compiler(target.place))
    engine = seeded_engine(preset, target)
    settle_whole(engine.models.dit, WeightPlan(device=target.place, dtype=target.precision, form=weights))
    engine = assemble(engine, EngineOptions(compile=compile))
    made_s = time.perf_counter() - begun
    report = measure_without_encoders(engine, target.size, target.chunks, target.seconds)
    return report | {"made_s": made_s}


def measure_nano(target: Target) -> dict:
    """The model in the package, with its own weights."""
    return measure_engine(load_engine("nano", device=target.device), "auto", target.chunks, seconds=target.seconds)


PARTS: dict[str, AcceptPart] = {
    "parity-float32": AcceptPart(limit_s=25, run=partial(check_parity, dtype=torch.float32)),
    "parity-bfloat16": AcceptPart(limit_s=25, run=partial(check_parity, dtype=torch.bfloat16)),
    "attention": AcceptPart(limit_s=50, run=measure_attention),
    "repeat": AcceptPart(limit_s=25, run=check_repeat),
    "compile": AcceptPart(limit_s=100, run=check_compile),
    "fp8": AcceptPart(limit_s=30, run=check_fp8),
    "offload": AcceptPart(limit_s=30, run=check_offload),
    "sharded": AcceptPart(limit_s=30, run=check_sharded),
    "speed": AcceptPart(limit_s=60, run=measure_speed),
    "speed-compiled": AcceptPart(limit_s=90, run=partial(measure_speed, compile=True)),
    "speed-fp8": AcceptPart(limit_s=90, run=partial(measure_speed, compile=True, weights="fp8")),
    "nano": AcceptPart(limit_s=40, run=measure_nano),
}
