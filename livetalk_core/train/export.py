"""A trained network as one file in the published layout, which `generate --dit` or `--vae` and the node pack's loader take."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from livetalk_core.models.dit import DiTConfig
from livetalk_core.models.vae import VAEConfig
from livetalk_core.parallel.train import is_first


def export_net(net: nn.Module, prefix: str, path: Path, dtype: torch.dtype, config: DiTConfig) -> None:
    """Write a sharded DiT; every process calls it. What its tensors' shapes do not tell goes into config.json beside it."""
    whole = gather_net(net, prefix)
    if is_first():
        write_tensors({name: tensor.to(dtype) for name, tensor in whole.items()}, path)
        (path.parent / "config.json").write_text(json.dumps({"num_heads": config.num_heads, "text_len": config.text_len}))


def gather_net(net: nn.Module, prefix: str) -> dict[str, Tensor]:
    """All tensors of a sharded network on the first process's CPU, their names without `prefix`; nothing on the others."""
    whole = get_model_state_dict(net, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    return {name.removeprefix(prefix): tensor.contiguous() for name, tensor in whole.items()}


def write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """A .safetensors file that takes its name when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    save_file(tensors, part)
    os.replace(part, path)


def fold_statistics(state: dict[str, Tensor], config: VAEConfig, mean_C: Tensor, std_C: Tensor) -> dict[str, Tensor]:
    """A VAE's tensors such that latents of the measured statistics come out with those of its config, and decode as before.

    The published layout has no place for a VAE's own statistics; its 1 x 1 convolutions beside the latents can carry them.
    """
    wanted_mean, wanted_std = torch.tensor(config.mean), torch.tensor(config.std)
    scale_C = wanted_std / std_C
    shift_C = wanted_mean - mean_C * scale_C
    z, folded = config.z_dim, dict(state)
    weight, bias = state["conv1.weight"].clone(), state["conv1.bias"].clone()
    weight[:z] *= scale_C.view(-1, 1, 1, 1, 1)
    bias[:z] = bias[:z] * scale_C + shift_C
    folded["conv1.weight"], folded["conv1.bias"] = weight, bias
    inward = state["conv2.weight"] / scale_C.view(1, -1, 1, 1, 1)
    folded["conv2.weight"] = inward
    folded["conv2.bias"] = state["conv2.bias"] - (inward[:, :, 0, 0, 0] @ shift_C)
    return folded
