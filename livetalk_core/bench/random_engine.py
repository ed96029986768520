"""Engines with random weights, made on their device. On the meta device they have shapes only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from livetalk_core.bench.machine import free_bytes
from livetalk_core.engine.engine import Engine
from livetalk_core.engine.load import KINDS, gather_models
from livetalk_core.models.dit import AudioDiT
from livetalk_core.presets import Preset

META = torch.device("meta")
ROOM = 1.25
"""Memory that an engine with random weights needs, over that of its weights."""


def random_engine(preset: Preset, device: torch.device, dtype: torch.dtype) -> Engine:
    """Weights are made on the device in their final precision, so no copy passes through the host."""
    half = dtype != torch.float32
    dtypes = {"audio": torch.float32, "image": torch.float16 if half else torch.float32}
    parts = {name: KINDS[type(vars(preset)[name])] for name in ("vae", "audio", "text", "image")} | {"dit": AudioDiT}
    built = {}
    for name, kind in parts.items():
        with torch.device(device), default_dtype(dtypes.get(name, dtype)):
            network = kind(vars(preset)[name])
        built[name] = network.to(device, dtypes.get(name, dtype)).eval().requires_grad_(False)
    return Engine(preset, gather_models(preset, **built), device, dtype)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def check_room(preset: Preset, device: torch.device, dtype: torch.dtype) -> None:
    """ValueError if the device has too little free memory for the preset's weights."""
    needed, free = ROOM * weight_bytes(preset, dtype), free_bytes(device)
    if needed > free:
        raise ValueError(
            f"{preset.name} needs {needed / 1e9:.0f} GB on {device}, and {free / 1e9:.0f} GB are free; --counters counts without memory"
        )


def weight_bytes(preset: Preset, dtype: torch.dtype) -> int:
    """Memory of all networks' weights."""
    models = random_engine(preset, META, dtype).models
    return sum(p.nbytes for network in (models.dit, models.vae, models.audio, models.text(), models.image()) for p in network.parameters())
