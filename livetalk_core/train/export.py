"""Writes a trained network as one file in the published layout, for `generate --dit` or `--vae` and the node pack's loader."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from livetalk_core.models.small_dit import SmallDiTConfig
from livetalk_core.models.weightless import MelConfig
from livetalk_core.parallel.train import is_first
from livetalk_core.presets import Preset


def export_net(net: nn.Module, prefix: str, path: Path, dtype: torch.dtype, model: Preset) -> None:
    """Write a sharded DiT; every process calls it. config.json beside it has the settings that the tensor shapes do not show."""
    whole = gather_net(net, prefix)
    if is_first():
        write_tensors({name: tensor.to(dtype) for name, tensor in whole.items()}, path)
        (path.parent / "config.json").write_text(json.dumps(config_of(model)), encoding="utf-8")


def config_of(model: Preset) -> dict[str, object]:
    """The content of config.json: settings that a loader cannot read from the tensors."""
    config = {"num_heads": model.dit.num_heads, "text_len": model.dit.text_len}
    if isinstance(model.dit, SmallDiTConfig):
        config |= {"predicts": model.dit.predicts, "picture_in": model.dit.picture_in}
    if model.blinks:
        config["blinks"] = True
    return config | ({"preset": model.name} if isinstance(model.audio, MelConfig) else {})


def gather_net(net: nn.Module, prefix: str) -> dict[str, Tensor]:
    """All tensors of a sharded network on the first process's CPU, without `prefix` in their names; empty on other processes."""
    whole = get_model_state_dict(net, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    return {name.removeprefix(prefix): tensor.contiguous() for name, tensor in whole.items()}


def write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a .safetensors file under a temporary name and rename it when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    save_file(tensors, part)
    os.replace(part, path)
