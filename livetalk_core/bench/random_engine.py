"""Engines with random weights, made on their device. On the meta device they have shapes only."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

from livetalk_core.bench.machine import free_bytes
from livetalk_core.engine.engine import Engine
from livetalk_core.engine.load import KINDS, gather_models
from livetalk_core.models.dit_config import DiTConfig
from livetalk_core.models.enlarger import EnlargerConfig
from livetalk_core.models.small_dit import build_dit
from livetalk_core.presets import Preset

META = torch.device("meta")
ROOM = 1.25
"""Memory that an engine with random weights needs, over that of its weights."""


def random_engine(preset: Preset, device: torch.device, dtype: torch.dtype) -> Engine:
    """Weights are made on the device in their final precision, so no copy passes through the host.

    Text and picture encoders are made when asked for, as an engine of files reads them. On the meta device, where they take no memory,
    they are kept: counting tells their weights from other tensors.
    """
    half = torch.float32 if dtype == torch.float32 else torch.float16
    keep = functools.cache if device.type == "meta" else lambda make: make
    text = keep(lambda: random_network(preset.text, device, dtype))
    image = keep(lambda: random_network(preset.image, device, half))
    made = {name: random_network(vars(preset)[name], device, dtype) for name in ("dit", "vae")}
    if preset.enlarged:
        made["enlarger"] = random_network(EnlargerConfig(), device, dtype)
    shapes = {name: random_network(vars(preset)[name], META, dtype) for name in ("text", "image")}
    models = gather_models(preset, **made, **shapes, audio=random_network(preset.audio, device, torch.float32))
    return Engine(preset, replace(models, text=text, image=image), device, dtype)


def random_network(config: object, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The network of a config."""
    with torch.device(device), default_dtype(dtype):
        network = build_dit(config) if isinstance(config, DiTConfig) else KINDS[type(config)](config)
    return network.to(device, dtype).eval().requires_grad_(False)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def check_room(preset: Preset, device: torch.device, dtype: torch.dtype, encoders: bool = True) -> None:
    """ValueError if the device has too little free memory for the preset's weights, with or without text and picture encoder."""
    needed, free = ROOM * weight_bytes(preset, dtype, encoders), free_bytes(device)
    if needed > free:
        raise ValueError(
            f"{preset.name} needs {needed / 1e9:.0f} GB on {device}, and {free / 1e9:.0f} GB are free; --counters counts without memory"
        )


def weight_bytes(preset: Preset, dtype: torch.dtype, encoders: bool) -> int:
    """Memory of the networks' weights."""
    models = random_engine(preset, META, dtype).models
    networks = [models.dit, models.vae, models.audio, *([models.text(), models.image()] if encoders else [])]
    return sum(weight.nbytes for network in networks for weight in network.parameters())
