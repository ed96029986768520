"""The work of a model's parts, counted on the meta device: no weights, no GPU, the same numbers on every machine."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import fields

import torch

from livetalk_core.bench.parts import RandomInputs, list_parts
from livetalk_core.bench.random_engine import META, random_engine
from livetalk_core.bench.work import Work, count_work
from livetalk_core.engine.assemble import draft_with
from livetalk_core.engine.denoiser import Cuts
from livetalk_core.engine.engine import Engine
from livetalk_core.models.small_dit import build_dit
from livetalk_core.models.tiny_decoder import TinyDecoder
from livetalk_core.presets import Preset, livetalk_14b

SIZE_14B = (720, 416)
"""Picture size at which the 14B model is counted."""


@functools.cache
def count_14b() -> dict:
    """The 14B model at 720 x 416 in bfloat16: every part, a whole chunk, and the decode of motion latents and of the first new ones."""
    preset, cuts = livetalk_14b(), Cuts()
    rows = count_parts(preset, SIZE_14B, torch.bfloat16, cuts)
    engine = random_engine(preset, META, torch.bfloat16)
    inputs = RandomInputs(engine, engine.plan(*SIZE_14B), cuts, preset.steps)
    return {
        "model": preset.name,
        "size": "{}x{}".format(*SIZE_14B),
        "dtype": "bfloat16",
        "steps": preset.steps,
        "parts": rows,
        "chunk": vars(chunk_work(rows, preset.steps)),
        "motion_decode": vars(work_of(engine, inputs.decode_motion)),
        "first_decode": vars(work_of(engine, inputs.decode_first)),
    }


@functools.cache
def count_parts(preset: Preset, size: tuple[int, int], dtype: torch.dtype, cuts: Cuts, tiny_decoder: bool = False) -> list[dict]:
    """One row for each part, with its work. Nothing is computed and no weights are made."""
    engine = random_engine(preset, META, dtype)
    plan = engine.plan(*size)
    if tiny_decoder:
        with META:
            draft_with(engine, TinyDecoder())
    return [
        {"name": part.name, "per": part.per, "stage": part.stage, **vars(work_of(engine, part.prepare))}
        for part in list_parts(engine, plan, cuts)
    ]


def count_weights(preset: Preset) -> int:
    """Number of weights of the DiT."""
    with META:
        return sum(weight.numel() for weight in build_dit(preset.dit).parameters())


@torch.no_grad()
def work_of(engine: Engine, prepare: Callable[[], Callable[[], object]]) -> Work:
    """The work of the call that `prepare` returns, without the preparation."""
    models = engine.models
    return count_work(prepare(), (models.dit, models.vae, models.audio, models.text(), models.image()))


def chunk_work(rows: Sequence[dict], steps: int, stage: str | None = None) -> Work:
    """The work of one chunk of so many steps, or of one of its stages."""
    work = Work()
    for row in rows:
        if row["stage"] is not None and stage in (None, row["stage"]):
            work += work_in(row) * (steps if row["per"] == "step" else 1)
    return work


def work_in(row: dict) -> Work:
    return Work(**{field.name: row[field.name] for field in fields(Work)})
