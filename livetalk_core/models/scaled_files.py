"""Checkpoints with 8-bit weights and their scales, in all layouts in use, as PackedWeights.

- `scaled_fp8` and `X.scale_weight`: a weight is X.weight times its scale; `X.scale_input` is for activations and not used;
- `X.weight_scale` with `X.comfy_quant` (JSON with the format) or the header's `_quantization_metadata`: fp8 and int8 of ComfyUI;
- `X.weight_scale` [N, 1] without a marker: int8 and fp8 of lightx2v;
- `X.weight._data` and `X.weight._scale`: optimum-quanto;
- plain fp8 weights without any scale, as casts make them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch
from torch import Tensor

from livetalk_core.models.packed import PackedWeight

FORMS = {torch.int8: "int8", torch.float8_e4m3fn: "fp8", torch.float8_e5m2: "fp8_e5m2"}
SCALES = ("scale_weight", "weight_scale")
UNUSED = ("scale_input", "input_scale", "output_scale", "comfy_quant", "scaled_fp8", "weight._scale")
FORMATS = ("float8_e4m3fn", "float8_e5m2", "int8_tensorwise")
"""Formats of ComfyUI that can be read."""

Weights = dict[str, Tensor | PackedWeight]


def join_scales(tensors: Mapping[str, Tensor]) -> Weights:
    """The same tensors, with each 8-bit weight and its scale as one PackedWeight. Nothing is copied.

    ValueError, naming a key, for a format that is not known and for a scale that is missing, not finite or of the wrong shape.
    """
    for name in tensors:
        if name.endswith(".comfy_quant"):
            check_format(name, tensors[name])
    joined: Weights = {}
    for name, tensor in tensors.items():
        if name.endswith(".weight._data"):
            joined[name.removesuffix("._data")] = join(name, tensor, tensors.get(name.removesuffix("_data") + "_scale"))
        elif not is_scale(name, tensors):
            joined[name] = join_one(name, tensor, tensors)
    return joined


def join_one(name: str, tensor: Tensor, tensors: Mapping[str, Tensor]) -> Tensor | PackedWeight:
    """A tensor with the scale that lies beside it, if it is in 8 bits."""
    if tensor.dtype not in FORMS or not name.endswith(".weight"):
        return tensor
    base = name.removesuffix("weight")
    scale = next((tensors[base + each] for each in SCALES if base + each in tensors), None)
    if scale is None and tensor.dtype != torch.int8 and not marked(tensors):
        scale = torch.ones(()) if tensor.ndim == 2 else None
        return tensor if scale is None else join(name, tensor, scale)
    return join(name, tensor, scale)


def join(name: str, tensor: Tensor, scale: Tensor | None) -> PackedWeight:
    if tensor.dtype not in FORMS or tensor.ndim != 2:
        raise ValueError(f"{name} of {tuple(tensor.shape)} {tensor.dtype} is in no known 8-bit form; choose the bf16, fp8 or GGUF file")
    if scale is None:
        raise ValueError(f"{name} is in 8 bits and its scale is missing; download the file again, or choose the bf16 file")
    rows = tensor.contiguous().view(torch.int8)
    return PackedWeight(form=FORMS[tensor.dtype], shape=tuple(tensor.shape), rows=rows, scale_NB=scale_of(name, scale, tensor))


def scale_of(name: str, scale: Tensor, weight_ND: Tensor) -> Tensor:
    """A file's scale as float32 [N, B]: one for all, one a row, or one for each of B blocks of a row."""
    rows, width = weight_ND.shape
    scale = scale.float()
    if not torch.isfinite(scale).all():
        raise ValueError(f"the scale of {name} is not finite; download the file again")
    if scale.numel() == 1:
        return scale.reshape(1, 1).expand(rows, 1).contiguous()
    if scale.shape[0] != rows or scale.numel() % rows or width % (scale.numel() // rows):
        raise ValueError(f"the scale of {name} is {list(scale.shape)}, which fits no {rows} rows of {width}; choose another file")
    return scale.reshape(rows, -1).contiguous()


def is_scale(name: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a key belongs to another one's weight, or marks the file."""
    last = name.rpartition(".")[2]
    return last in UNUSED or name.endswith(UNUSED) or (last in SCALES and f"{name.removesuffix(last)}weight" in tensors)


def marked(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the file says that its fp8 weights have scales."""
    return any(name.rpartition(".")[2] == "scaled_fp8" for name in tensors)


def check_format(name: str, told: Tensor) -> None:
    """ValueError for a format of ComfyUI that cannot be read."""
    try:
        found = json.loads(bytes(told.cpu().to(torch.uint8).tolist()))
    except ValueError:
        raise ValueError(f"{name} is not JSON; download the file again") from None
    if found.get("format") not in FORMATS or found.get("convrot"):
        kind = "rotated int8" if found.get("convrot") else found.get("format")
        raise ValueError(f"{name} says {kind}, which cannot be read; choose the bf16, fp8_scaled, int8 or GGUF file")
