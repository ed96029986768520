"""LoRA files: what they add to a model's weights, in every layout in use.

A pair of matrices adds strength x alpha / rank x up down; without alpha that is strength x up down. `diff` and `diff_b` are whole
differences of a weight and a bias. Sources: the key tables of ComfyUI, musubi-tuner, PEFT and diffusers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from livetalk_core.models.audio import first_three
from livetalk_core.models.headers import ODD_LORAS

PREFIXES = (
    "base_model.model.",
    "diffusion_model.",
    "transformer.",
    "model.diffusion_model.",
    "lora_unet_",
    "lora_unet.",
    "unet.",
    "lycoris_",
)
DOWN = ("lora_down.weight", "lora_A.weight", "lora_A.default.weight", "lora.down.weight")
UP = ("lora_up.weight", "lora_B.weight", "lora_B.default.weight", "lora.up.weight")
WHOLE = {"diff": "weight", "w_norm": "weight", "diff_b": "bias", "b_norm": "bias", "diff_m": "modulation"}
"""Keys of whole differences, and the weight that each belongs to."""
REFUSED = (*ODD_LORAS, ".set_weight", ".reshape_weight")
"""What names have in kinds of LoRA that cannot be read."""
DIFFUSERS = (
    ("attn1.", "self_attn."),
    ("attn2.", "cross_attn."),
    (".to_out.0", ".o"),
    (".to_q", ".q"),
    (".to_k", ".k"),
    (".to_v", ".v"),
    (".add_k_proj", ".k_img"),
    (".add_v_proj", ".v_img"),
    ("ffn.net.0.proj", "ffn.0"),
    ("ffn.net.2", "ffn.2"),
    ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    ("condition_embedder.time_proj", "time_projection.1"),
    ("condition_embedder.image_embedder.ff.net.0.proj", "img_emb.proj.1"),
    ("condition_embedder.image_embedder.ff.net.2", "img_emb.proj.3"),
    ("proj_out", "head.head"),
)
"""Names of diffusers, and ours."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class Delta:
    """What is added to one weight: factor x up down, or factor x up where there is no `down`."""

    factor: float
    up: Tensor
    down: Tensor | None = None

    def dense(self, weight: Tensor) -> Tensor:
        """The whole difference in float32, in the shape and on the device of `weight`."""
        up = self.up.to(weight.device, torch.float32)
        if self.down is not None:
            up = up.flatten(1) @ self.down.to(weight.device, torch.float32).flatten(1)
        return (self.factor * up).view(weight.shape)


Deltas = dict[str, list[Delta]]
"""By the name of the model's weight."""


def read_deltas(tensors: Mapping[str, Tensor], strength: float, shapes: Shapes) -> tuple[Deltas, list[str]]:
    """What a LoRA adds to a model with weights of these shapes, and the keys that fit nothing.

    ValueError, naming a key, if nothing fits, a part is missing, damaged or of another shape, or the kind of LoRA is not known.
    """
    bases = {name.rpartition(".")[0].replace(".", "_"): name.rpartition(".")[0] for name in shapes}
    deltas: Deltas = {}
    unknown: list[str] = []
    for key in tensors:
        if any(mark in key for mark in REFUSED):
            raise ValueError(f"{key} is of a kind of LoRA that cannot be read; choose one with lora_down and lora_up")
        part = next((part for part in (*DOWN, *UP, *WHOLE) if key.endswith(f".{part}")), None)
        if part is None or part in UP:
            check_rest(key, part, tensors)
            continue
        name = weight_name(key.removesuffix(f".{part}"), WHOLE.get(part, "weight"), shapes, bases)
        if name is None:
            unknown.append(key)
            continue
        delta = read_delta(key, part, tensors)
        check_delta(key, delta, shapes[name])
        deltas.setdefault(name, []).append(replace(delta, factor=strength * delta.factor))
    if not deltas:
        raise ValueError(
            f"nothing in it fits this model: {first_three(unknown or sorted(tensors)) or 'it is empty'}; it is of another model"
        )
    return (deltas if strength else {}), unknown


def check_rest(key: str, part: str | None, tensors: Mapping[str, Tensor]) -> None:
    """ValueError for an `up` without its `down`. Other keys without a part of their own are alphas and notes."""
    if part is not None and key.removesuffix(part) + DOWN[UP.index(part)] not in tensors:
        raise ValueError(f"{key} has no {DOWN[UP.index(part)]} beside it; download the file again")


def read_delta(key: str, part: str, tensors: Mapping[str, Tensor]) -> Delta:
    """The difference that begins with this key, at strength 1."""
    if part in WHOLE:
        return Delta(factor=1.0, up=tensors[key])
    base = key.removesuffix(part)
    up = tensors.get(base + UP[DOWN.index(part)])
    if up is None:
        raise ValueError(f"{key} has no {UP[DOWN.index(part)]} beside it; download the file again")
    rank = tensors[key].shape[0]
    if rank == 0:
        raise ValueError(f"{key} is of rank 0; choose another file")
    alpha = tensors.get(f"{base}alpha")
    return Delta(factor=1.0 if alpha is None else float(alpha) / rank, up=up, down=tensors[key])


def check_delta(key: str, delta: Delta, shape: tuple[int, ...]) -> None:
    """ValueError unless the difference has the weight's shape and finite numbers."""
    if delta.down is None:
        found = tuple(delta.up.shape)
    else:
        found = (delta.up.shape[0], *delta.down.shape[1:])
        if delta.up.flatten(1).shape[1] != delta.down.shape[0]:
            raise ValueError(f"{key} is of rank {delta.down.shape[0]} and its other half is not; download the file again")
    if found != tuple(shape) and (delta.down is not None or delta.up.numel() != torch.Size(shape).numel()):
        raise ValueError(f"{key} is for a weight of {list(found)}, and this model's is {list(shape)}; it is of another model")
    if not all(torch.isfinite(half).all() for half in (delta.up, delta.down) if half is not None):
        raise ValueError(f"{key} has numbers that are not finite; download the file again")


def weight_name(base: str, kind: str, shapes: Shapes, bases: Mapping[str, str]) -> str | None:
    """The model's weight that a LoRA's key belongs to; None if there is none."""
    while prefix := next((prefix for prefix in PREFIXES if base.startswith(prefix)), None):
        base = base.removeprefix(prefix)
    base = base.lstrip("_")
    ours = base
    for theirs, mine in DIFFUSERS:
        ours = ours.replace(theirs, mine)
    if "attn1." in base or "attn2." in base:
        ours = re.sub(r"\.norm2$", ".norm3", ours)
    for found in (base, ours, bases.get(base, "")):
        for name in (f"{found}.{kind}", found):
            if name in shapes:
                return name
    return None
