"""The LoRA files that an engine is asked for: FILE or FILE:STRENGTH."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from livetalk_core.models.dit import AudioDiT
    from livetalk_core.models.lora import Deltas

log = logging.getLogger(__name__)


def parse_lora(text: str) -> tuple[Path, float]:
    """File and strength; 1 without a strength. ValueError for a strength that is not finite."""
    path, colon, number = text.rpartition(":")
    try:
        strength = float(number)
    except ValueError:
        return Path(text), 1.0
    if not colon:
        return Path(text), 1.0
    if not math.isfinite(strength) or not path:
        raise ValueError(f"lora {text!r} must be FILE or FILE:STRENGTH with a finite strength, such as style.safetensors:0.8")
    return Path(path), strength


def read_loras(loras: tuple[str, ...], dit: AudioDiT) -> Deltas:
    """What LoRA files add to a DiT, all of them together. Keys that fit nothing are logged.

    FileNotFoundError for a missing file; ValueError, naming it, for one that is damaged or of another model.
    """
    from livetalk_core.models.audio import first_three
    from livetalk_core.models.lora import read_deltas
    from livetalk_core.models.weights import read_tensors

    shapes = logical_shapes(dit)
    deltas: Deltas = {}
    for path, strength in map(parse_lora, loras):
        if not path.exists():
            raise FileNotFoundError(f"lora {path} is missing; check its path, or leave it out")
        try:
            added, unknown = read_deltas(read_tensors([path]), strength, shapes)
        except ValueError as error:
            raise ValueError(f"lora {path}: {explain(path, error)}") from None
        if unknown:
            log.warning("lora %s: %s fit nothing in this model and are left out", path, first_three(unknown))
        for name, found in added.items():
            deltas.setdefault(name, []).extend(found)
    return deltas


def explain(path: Path, error: ValueError) -> str:
    """What the file is, if it is another part of a model; else the error."""
    from livetalk_core.engine.sniff import PLACES, what_is

    told = str(error).removeprefix(f"{path} ")
    try:
        kind = what_is(path)
    except (OSError, ValueError):
        return told
    return told if not kind.usable or kind.part == "lora" else f"it is {kind.text}; {PLACES[kind.part]}"


def logical_shapes(dit: AudioDiT) -> dict[str, tuple[int, ...]]:
    """The shapes of a DiT's weights as numbers, whether they are packed or not."""
    from livetalk_core.models.packed import PackedRows

    packed = {f"{name}.weight": layer.packed.shape for name, layer in dit.named_modules() if isinstance(layer, PackedRows)}
    return {name: tuple(weight.shape) for name, weight in dit.named_parameters()} | packed
