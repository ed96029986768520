"""Weights in fewer than 16 bits: one class for every form, whether made while loading or read from a file.

A packed matrix [N, D] is stored as raw bytes, int8 [N, bytes of a row], so that moving or casting a module never changes it. `unpack`
turns rows into numbers. A PackedLinear multiplies in 8 bits if its device can, and otherwise unpacks its weight for each product.
N output rows, D width, R rank, B blocks of a row that share a scale.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from livetalk_core.models.eight_bits import EIGHT_BITS, multiply, unpack_eight_bits
from livetalk_core.models.gguf_blocks import BLOCKS, unpack_blocks


@dataclass(frozen=True, kw_only=True)
class PackedWeight:
    """A packed matrix. `form`: int8, fp8, fp8_e5m2, or a GGUF type."""

    form: str
    shape: tuple[int, int]
    rows: Tensor
    """int8 [N, bytes of a row]."""
    scale_NB: Tensor | None = None
    """float32; the row's blocks of D / B numbers are multiplied by these. None for GGUF types, whose rows contain their scales."""

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The numbers [N, D]. They are computed in float32."""
        return unpack(self.form, self.rows, self.scale_NB).to(dtype)

    def to(self, device: torch.device | str) -> PackedWeight:
        scale_NB = None if self.scale_NB is None else self.scale_NB.to(device)
        return replace(self, rows=self.rows.to(device), scale_NB=scale_NB)

    @property
    def nbytes(self) -> int:
        return self.rows.nbytes + (0 if self.scale_NB is None else self.scale_NB.nbytes)


def unpack(form: str, rows: Tensor, scale_NB: Tensor | None) -> Tensor:
    """Rows in a packed form -> float32 [N, D]."""
    return unpack_eight_bits(form, rows, scale_NB) if form in EIGHT_BITS else unpack_blocks(form, rows)


def packed_row_bytes(form: str, width: int) -> int:
    """Bytes of a row of `width` numbers, with its scale. Only for forms that are made while loading, and GGUF types."""
    if form in EIGHT_BITS:
        return width + 4
    size, num_bytes = BLOCKS[form]
    return width // size * num_bytes


class PackedRows(nn.Module):
    """The weight of a packed layer: bytes, and scales if the form has them. Both are parameters, so they move and shard like others."""

    def __init__(self, packed: PackedWeight):
        super().__init__()
        self.form, (self.out_features, self.in_features) = packed.form, packed.shape
        self.weight = nn.Parameter(packed.rows, requires_grad=False)
        scale = None if packed.scale_NB is None else packed.scale_NB.float().contiguous().view(torch.int8)
        self.weight_scale = None if scale is None else nn.Parameter(scale, requires_grad=False)

    @property
    def scale_NB(self) -> Tensor | None:
        """Scales as numbers; they are stored as bytes, so that a cast of the module does not round them."""
        return None if self.weight_scale is None else self.weight_scale.view(torch.float32)

    @property
    def packed(self) -> PackedWeight:
        shape = (self.out_features, self.in_features)
        return PackedWeight(form=self.form, shape=shape, rows=self.weight.data, scale_NB=self.scale_NB)


class PackedLinear(PackedRows):
    """A linear layer with a packed weight, and optionally a LoRA beside it. `products`: it multiplies in 8 bits."""

    def __init__(self, packed: PackedWeight, bias: Tensor | None):
        super().__init__(packed)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.products = False
        self.lora_down: nn.Parameter | None = None
        self.lora_up: nn.Parameter | None = None

    def add_beside(self, down_RD: Tensor, up_NR: Tensor) -> None:
        """Add `up down` to the weight without changing its packed form."""
        if self.lora_down is not None:
            down_RD, up_NR = torch.cat([self.lora_down.data, down_RD]), torch.cat([self.lora_up.data, up_NR], dim=1)
        self.lora_down, self.lora_up = (nn.Parameter(part.contiguous(), requires_grad=False) for part in (down_RD, up_NR))

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., N] in x's type."""
        if self.products:
            y = multiply(self.form, x, self.weight, self.scale_NB)
            y = y if self.bias is None else y + self.bias
        else:
            y = F.linear(x, unpack(self.form, self.weight, self.scale_NB).to(x.dtype), self.bias)
        return y if self.lora_down is None else y + F.linear(F.linear(x, self.lora_down), self.lora_up)


class PackedEmbedding(PackedRows):
    """A table of packed rows; only the rows that are looked up are unpacked, to `dtype`."""

    def __init__(self, packed: PackedWeight, dtype: torch.dtype):
        super().__init__(packed)
        self.dtype = dtype

    def forward(self, ids: Tensor) -> Tensor:
        """Row numbers [...] -> rows [..., D]."""
        chosen = ids.flatten()
        scale_NB = None if self.scale_NB is None else self.scale_NB[chosen]
        return unpack(self.form, self.weight[chosen], scale_NB).to(self.dtype).unflatten(0, ids.shape)


def dense_weight(layer: nn.Linear | PackedLinear, dtype: torch.dtype) -> Tensor:
    """The numbers of a layer's weight, [N, D]: the weight itself, or the unpacked one with its LoRA added."""
    if not isinstance(layer, PackedLinear):
        return layer.weight
    weight = unpack(layer.form, layer.weight, layer.scale_NB)
    if layer.lora_down is not None:
        weight = weight + layer.lora_up.float() @ layer.lora_down.float()
    return weight.to(dtype)
