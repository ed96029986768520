"""How the DiT's weights are kept: while a part moves to its place, LoRAs are added and linear layers are packed or unpacked.

It works tensor by tensor, so that the whole model is never in memory in 16 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from livetalk_core.models.dit import AudioDiT
from livetalk_core.models.eight_bits import LARGEST, has_products, round_rows
from livetalk_core.models.lora import Delta, Deltas
from livetalk_core.models.packed import PackedLinear, PackedWeight, packed_row_bytes

Linear = nn.Linear | PackedLinear
EVERY_STEP = tuple(f"self_attn.{name}" for name in "qkvo") + ("cross_attn.q", "cross_attn.o", "ffn.0", "ffn.2")
"""The layers of a block that may multiply in 8 bits: they run on every token in every step. The others run once a stream or chunk, and
their inputs are not rounded."""
PIECE = 1 << 22
"""Numbers that are rounded at a time."""


@dataclass(frozen=True, kw_only=True)
class WeightPlan:
    """The weights' form (auto, 16bit, int8 or fp8), what LoRAs add, and where they are converted.

    Only the linear layers of blocks are packed. LoRAs are merged into weights that are in 16 bits in their file, before these are packed.
    They are added beside weights that stay packed as in their file.
    """

    device: torch.device
    dtype: torch.dtype
    form: str = "auto"
    loras: tuple[str, ...] = ()
    """LoRA files, as in EngineOptions."""
    deltas: Deltas = field(default_factory=dict)
    """What LoRAs add, by the weight's name in the DiT."""
    check: Callable[[], None] = lambda: None
    """Called before each weight is read; raises if its file has changed."""

    def settle(self, prefix: str, module: nn.Module) -> None:
        """Convert a module whose names in the DiT begin with `prefix`. What is changed lies on `device` afterwards."""
        self.check()
        for name, weight in module.named_parameters():
            self.check()
            if weight.is_floating_point() and (added := self.deltas.get(f"{prefix}{name}")):
                weight.data = self.merge(weight.data, added)
        if not prefix.startswith("blocks."):
            return
        for name, layer in list(module.named_modules()):
            if isinstance(layer, Linear):
                self.check()
                parent, _, last = name.rpartition(".")
                made = self.convert(name, self.add(layer, self.deltas.get(f"{prefix}{name}.weight", ())))
                setattr(module.get_submodule(parent), last, made)

    def merge(self, weight: Tensor, added: Sequence[Delta]) -> Tensor:
        """A weight in 16 bits with what is added to it, computed in float32."""
        merged = weight.to(self.device, torch.float32)
        for delta in added:
            merged = merged + delta.dense(merged)
        return merged.to(self.dtype)

    def add(self, layer: Linear, added: Sequence[Delta]) -> Linear:
        """A layer with what is added to its weight: beside it if it stays packed, else unpacked and merged."""
        if not added or isinstance(layer, nn.Linear):
            return layer  # merged already
        if self.form_of(layer) != layer.form or any(delta.down is None for delta in added):
            dense = self.make("16bit", layer)
            dense.weight.data = self.merge(dense.weight.data, added)
            return dense
        for delta in added:
            down, up = (half.to(self.device, torch.float32) for half in (delta.down, delta.up))
            layer.add_beside(down.to(self.dtype), (delta.factor * up).to(self.dtype))
        return layer

    def convert(self, name: str, layer: Linear) -> Linear:
        """A block's layer in the wanted form: itself if nothing changes. `name`: in its block."""
        form = self.form_of(layer)
        if isinstance(layer, nn.Linear) and form == "16bit":
            return layer
        if isinstance(layer, nn.Linear) or form != layer.form:
            layer = self.make(form, layer)
        if isinstance(layer, PackedLinear):
            wanted = self.form != "auto" and name in EVERY_STEP  # a file's own form asks for no rounding of tokens
            layer.products = wanted and has_products(form, layer.packed.shape, layer.scale_NB, self.device)
        return layer

    def make(self, form: str, layer: Linear) -> Linear:
        """A layer of this form on the plan's device with another layer's numbers."""
        dense = layer.packed.to(self.device).dense(torch.float32) if isinstance(layer, PackedLinear) else layer.weight.data.to(self.device)
        bias = None if layer.bias is None else layer.bias.data.to(self.device, self.dtype)
        return dense_linear(dense.to(self.dtype), bias) if form == "16bit" else PackedLinear(pack(form, dense), bias)

    def form_of(self, layer: Linear) -> str:
        """The form that a layer will have."""
        if self.form != "auto":
            return self.form
        return layer.form if isinstance(layer, PackedLinear) else "16bit"

    def bytes_of(self, dit: AudioDiT) -> tuple[int, int]:
        """Bytes of a DiT's blocks after `settle`, and of all its other weights."""
        count = sum(weight.numel() for name, weight in dit.named_parameters() if not name.startswith("blocks."))
        return sum(map(self.block_bytes, dit.blocks)), count * self.dtype.itemsize + self.lora_bytes

    def block_bytes(self, block: nn.Module) -> int:
        """Bytes of a block after `settle`."""
        total = sum(weight.numel() * self.dtype.itemsize for weight in block.parameters())
        for layer in (layer for layer in block.modules() if isinstance(layer, Linear)):
            held = sum(weight.numel() for name, weight in layer.named_parameters() if name != "bias") * self.dtype.itemsize
            total += self.weight_bytes(layer) - held
        return total

    @property
    def lora_bytes(self) -> int:
        """The most that LoRAs take beside packed weights."""
        pairs = [each for added in self.deltas.values() for each in added if each.down is not None]
        return sum(each.up.numel() + each.down.numel() for each in pairs) * self.dtype.itemsize

    def weight_bytes(self, layer: Linear) -> int:
        """Bytes of one layer's weight after `settle`."""
        form = self.form_of(layer)
        if isinstance(layer, PackedLinear) and form == layer.form:
            return layer.packed.nbytes
        row = layer.in_features * self.dtype.itemsize if form == "16bit" else packed_row_bytes(form, layer.in_features)
        return layer.out_features * row


def settle_whole(dit: AudioDiT, plan: WeightPlan) -> None:
    """Convert and move a whole DiT to the plan's device, one block at a time."""
    for name, child in dit.named_children():
        if child is not dit.blocks:
            plan.settle(f"{name}.", child)
            child.to(plan.device, plan.dtype)
    for i, block in enumerate(dit.blocks):
        plan.settle(f"blocks.{i}.", block)
        block.to(plan.device, plan.dtype)


def pack(form: str, weight_ND: Tensor) -> PackedWeight:
    """A dense weight in int8 or fp8, each output row with its own scale. A few rows at a time, since rounding needs float32."""
    assert form in LARGEST, form
    step = max(1, PIECE // weight_ND.shape[1])
    rows = torch.empty(weight_ND.shape, dtype=torch.int8, device=weight_ND.device)
    scale_N1 = torch.empty(len(weight_ND), 1, device=weight_ND.device)
    for first in range(0, len(weight_ND), step):
        piece = slice(first, first + step)
        rounded, scale_N1[piece] = round_rows(form, weight_ND[piece])
        rows[piece] = rounded.view(torch.int8)
    return PackedWeight(form=form, shape=tuple(weight_ND.shape), rows=rows, scale_NB=scale_N1)


def dense_linear(weight_ND: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear layer around these tensors."""
    with torch.device("meta"):
        layer = nn.Linear(weight_ND.shape[1], weight_ND.shape[0], bias=bias is not None)
    layer.weight = nn.Parameter(weight_ND, requires_grad=False)
    layer.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
    return layer.eval()
