"""Engines by their settings. Only settings travel on wires, so ComfyUI's caches may drop them."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from livetalk_core.engine.options import EngineOptions

from . import folders, host
from .words import naming_inputs

if TYPE_CHECKING:
    from torch import Tensor

    from livetalk_core.types import Reference

log = logging.getLogger(__name__)

NUM_REFERENCES = 4
"""References kept by an engine, so that a queue of prompts with one picture encodes it once."""


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """All settings of an engine. Equal specs share one engine."""

    model: str = folders.SHIPPED
    audio_patch: str = folders.NO_PATCH
    options: EngineOptions = EngineOptions()
    """All other options; their model and device are not used."""


@dataclass(kw_only=True)
class Slot:
    """One engine, or none: it is loaded when needed, and closed when ComfyUI frees memory."""

    spec: EngineSpec
    size: int
    """Bytes of weights; estimated from the files until they are loaded."""
    engine: object | None = None
    patcher: object | None = None
    references: dict[str, Reference] = field(default_factory=dict)
    num_loads: int = 0
    before_close: dict[str, Callable[[], None]] = field(default_factory=dict)
    """Ends what runs on the engine in the background."""

    def load(self) -> None:
        if self.engine is None:
            start = time.perf_counter()
            host.show_text(f"Loading {self.spec.model}: {describe_size(self.size)} of weights")
            self.engine, num_bytes = make_engine(self.spec)
            self.num_loads += 1
            self.size = max(self.size, num_bytes)
            host.show_text(f"Loaded {self.spec.model} in {time.perf_counter() - start:.0f} s")
            log.info("LiveTalk: engine of %s loaded, %.0f MB", self.spec.model, self.size / 1e6)

    def close(self) -> None:
        if self.engine is not None:
            for end in list(self.before_close.values()):
                end()
            self.engine.close()
            self.engine = None
            self.references = {}
            log.info("LiveTalk: engine of %s closed", self.spec.model)


SLOTS: dict[EngineSpec, Slot] = {}


def engine_for(spec: EngineSpec):
    """The engine of these settings, loaded now if needed. ComfyUI knows it and may close it to free memory."""
    from .patcher import load_managed

    as_gpus = {} if spec.options.workers else {"workers=": "gpus="}
    with naming_inputs(as_gpus):
        if spec not in SLOTS:
            SLOTS[spec] = Slot(spec=spec, size=folders.size_on_disk(options_of(spec).source))
        slot = SLOTS[spec]
        load_managed(slot)
        use_kernel(spec.options.attention)
    return slot.engine


def options_of(spec: EngineSpec) -> EngineOptions:
    """Options for the core: the model's files on ComfyUI's device. On the CPU, `gpus` counts processes."""
    import comfy.model_management as mm

    device = str(mm.get_torch_device())
    options = replace(spec.options, model=folders.find_model(spec.model, spec.audio_patch), device=device)
    folders.check_parts(spec.model, options.source)
    if device != "cpu" or options.gpus == 1 or options.workers is not None:
        return options
    return replace(options, workers=1 if options.gpus == "auto" else options.gpus, gpus=1)


def make_engine(spec: EngineSpec) -> tuple[object, int]:
    """The engine of these settings and the bytes of its weights."""
    from livetalk_core.open import open_engine

    options = options_of(spec)
    engine = open_engine(options, report)
    return engine, bytes_in_pool(options) if options.in_pool else bytes_here(engine)


def report(line: str) -> None:
    """A note of the core while it loads: into the log, and on the running node."""
    log.info("LiveTalk: %s", line)
    host.show_text(line)


def describe_size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"


def bytes_here(engine) -> int:
    models = engine.models
    modules = (module for module in (models.dit, models.vae, models.enlarger, models.audio) if module is not None)
    return sum(tensor.nbytes for module in modules for tensor in module.state_dict().values())


def bytes_in_pool(options: EngineOptions) -> int:
    from livetalk_core.pool.place import demand_of

    return demand_of(options.source, weights=options.weights).num_bytes


def use_kernel(name: str) -> None:
    """Select an attention kernel. It is a setting of the whole process, so it is set before every use."""
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
    """SHA-256 of values: equal values give equal text."""
    digest = hashlib.sha256()
    for value in values:
        data = str(value) if isinstance(value, str | None) else f"{tuple(value.shape)}"
        digest.update(f"{len(data)}:{data}".encode())
        if not isinstance(value, str | None):
            digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
