"""Engines of this process, found by their settings: what travels on wires is the settings, so caches may drop it at will."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from . import folders

if TYPE_CHECKING:
    from torch import Tensor

    from livetalk_core.types import Reference

log = logging.getLogger(__name__)

PRECISIONS = ("auto", "bfloat16", "float32")
KERNELS = ("auto", "sdpa", "flash2", "flash3")
NUM_REFERENCES = 4
"""References kept by an engine, so that a queue of prompts with one picture encodes it once."""


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """Everything that makes two engines different."""

    model: str = folders.SHIPPED
    audio_patch: str = folders.NO_PATCH
    precision: str = "auto"
    attention: str = "auto"
    gpus: int = 1
    compile: bool = False


@dataclass(kw_only=True)
class Slot:
    """The place of one engine: empty until it is needed, and again after ComfyUI has freed memory."""

    spec: EngineSpec
    size: int
    """Bytes of weights, estimated from the files until they are loaded."""
    engine: object | None = None
    patcher: object | None = None
    references: dict[str, Reference] = field(default_factory=dict)
    num_loads: int = 0

    def load(self) -> None:
        if self.engine is None:
            self.engine, num_bytes = make_engine(self.spec)
            self.num_loads += 1
            self.size = max(self.size, num_bytes)
            log.info("LiveTalk: engine of %s loaded, %.0f MB", self.spec.model, self.size / 1e6)

    def close(self) -> None:
        if self.engine is not None:
            self.engine.close()
            self.engine = None
            self.references = {}
            log.info("LiveTalk: engine of %s closed", self.spec.model)


SLOTS: dict[EngineSpec, Slot] = {}


def engine_for(spec: EngineSpec):
    """The engine of these settings, loaded now if it is not; ComfyUI knows of it and can close it to free memory."""
    from .patcher import hold

    if spec not in SLOTS:
        SLOTS[spec] = Slot(spec=spec, size=folders.size_on_disk(source_of(spec)))
    slot = SLOTS[spec]
    hold(slot)
    use_kernel(spec.attention)
    return slot.engine


def source_of(spec: EngineSpec):
    """What load_engine takes for these settings' model."""
    return folders.find_model(spec.model, spec.audio_patch)


def make_engine(spec: EngineSpec) -> tuple[object, int]:
    """The engine of these settings and the bytes of its weights. The one place that knows which kind of engine runs where."""
    return engine_here(spec) if spec.gpus == 1 else engine_in_pool(spec)


def engine_here(spec: EngineSpec) -> tuple[object, int]:
    """In this process, on the device that ComfyUI uses."""
    import comfy.model_management as mm

    from livetalk_core.engine.load import load_engine

    engine = load_engine(source_of(spec), str(mm.get_torch_device()), dtype_of(spec), compile=spec.compile)
    modules = (engine.models.dit, engine.models.vae, engine.models.audio)
    return engine, sum(tensor.nbytes for module in modules for tensor in module.state_dict().values())


def engine_in_pool(spec: EngineSpec) -> tuple[object, int]:
    """In workers, one a GPU; where ComfyUI itself runs on the CPU, in as many processes there."""
    import comfy.model_management as mm

    from livetalk_core.pool import place as placement
    from livetalk_core.pool.pool import Pool, Recipe

    model, wanted = source_of(spec), "auto" if spec.gpus == 0 else str(spec.gpus)
    demand = placement.demand_of(model)
    if str(mm.get_torch_device()) == "cpu":
        place, device = placement.place_on_cpu("1" if wanted == "auto" else wanted, demand), "cpu"
    else:
        place, device = placement.place_on_gpus(wanted, demand, placement.visible_gpus()), "cuda:0"
    log.info("LiveTalk: %s", place.reason)
    how = {"dtype": dtype_of(spec), "attention": spec.attention, "compile": spec.compile}
    pool = Pool(place, Recipe(arguments={"model": model, "device": device} | how))
    pool.start()
    return pool, demand.num_bytes


def dtype_of(spec: EngineSpec):
    """The torch type of the weights; None for the engine's own choice."""
    import torch

    return None if spec.precision == "auto" else {"bfloat16": torch.bfloat16, "float32": torch.float32}[spec.precision]


def use_kernel(name: str) -> None:
    """Prefer an attention kernel; it holds for the whole process, so it is chosen at every use."""
    from livetalk_core.models.attention import select_kernel

    select_kernel(name)


def reference_for(spec: EngineSpec, pixels_CHW: Tensor, prompt: str, masks_KHW: Tensor | None, image_LD: Tensor | None) -> Reference:
    """The reference of a cropped picture [3, H, W] in [-1, 1] and a prompt; the last few are kept."""
    engine = engine_for(spec)
    slot = SLOTS[spec]
    key = fingerprint(pixels_CHW, prompt, masks_KHW, image_LD)
    if key not in slot.references:
        made = engine.reference(pixels_CHW, prompt, masks_KHW, image_LD)
        slot.references = dict([*slot.references.items(), (key, made)][-NUM_REFERENCES:])
    return slot.references[key]


def fingerprint(*values: Tensor | str | None) -> str:
    """Equal values, equal text."""
    digest = hashlib.sha256()
    for value in values:
        data = str(value) if isinstance(value, str | None) else f"{tuple(value.shape)}"
        digest.update(f"{len(data)}:{data}".encode())
        if not isinstance(value, str | None):
            digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
