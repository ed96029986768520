"""Engines with random weights, made where they stay; on the meta device they have shapes only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from livetalk_core.engine.engine import Engine
from livetalk_core.engine.load import KINDS, gather_models
from livetalk_core.models.small_dit import build_dit
from livetalk_core.presets import Preset

META = torch.device("meta")


def random_engine(preset: Preset, device: torch.device, dtype: torch.dtype) -> Engine:
    """An engine with random weights made where they stay; on the meta device there are none. Precision of each network as on a GPU."""
    half = dtype != torch.float32
    kinds = {"audio": torch.float32, "image": torch.float16 if half else torch.float32}
    parts = {name: KINDS[type(vars(preset)[name])] for name in ("vae", "audio", "text", "image")} | {"dit": build_dit}
    built = {}
    for name, kind in parts.items():
        with torch.device(device), default_dtype(kinds.get(name, dtype)):
            network = kind(vars(preset)[name])
        built[name] = network.to(device, kinds.get(name, dtype)).eval().requires_grad_(False)
    return Engine(preset, gather_models(preset, **built), device, dtype)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def weight_bytes(preset: Preset, dtype: torch.dtype) -> int:
    """Memory of all networks' weights."""
    models = random_engine(preset, META, dtype).models
    return sum(p.nbytes for network in (models.dit, models.vae, models.audio, models.text(), models.image()) for p in network.parameters())


def free_bytes(device: torch.device) -> int:
    """Memory that can still be had: the device's on CUDA, the machine's elsewhere."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    info = Path("/proc/meminfo")
    found = [line.split()[1] for line in info.read_text().splitlines() if line.startswith("MemAvailable")] if info.exists() else []
    return int(found[0]) * 1024 if found else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
