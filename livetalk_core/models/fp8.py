"""The DiT's large linear layers in 8-bit floats (e4m3): lossy, up to twice as fast on Hopper and later. Opt-in.

Each token and each output row of a weight has its own scale: its largest absolute value over 448. Tokens are scaled at run time, so
no calibration is needed. Norms, the head, and layers that run once per stream or chunk stay in full precision.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from livetalk_core.models.dit import AudioDiT

FORMAT = torch.float8_e4m3fn
LARGEST = torch.finfo(FORMAT).max
MULTIPLE = 16
"""Both dimensions of a weight must be multiples of this; CUDA's 8-bit product requires it."""
CAPABILITY = (8, 9)
"""Lowest CUDA compute capability with 8-bit products."""


class Fp8Linear(nn.Module):
    """A linear layer with its weight in 8 bits, made from an nn.Linear."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        weight_ND, scale_N1 = scale_rows(linear.weight.detach())
        self.register_buffer("weight", weight_ND)
        self.register_buffer("scale_N1", scale_N1)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., N] in x's type. On CUDA the product is bfloat16 first."""
        rows_LD, scale_L1 = scale_rows(x.flatten(0, -2))
        kind = torch.bfloat16 if x.is_cuda else x.dtype
        y_LN = torch._scaled_mm(rows_LD, self.weight.t(), scale_a=scale_L1, scale_b=self.scale_N1.t(), out_dtype=kind, use_fast_accum=True)
        return (y_LN + self.bias).to(x.dtype).unflatten(0, x.shape[:-1])


def scale_rows(x_LD: Tensor) -> tuple[Tensor, Tensor]:
    """Rows in 8 bits, and their scales, float32 [L, 1]."""
    scale_L1 = x_LD.abs().amax(1, keepdim=True).float().clamp(min=torch.finfo(torch.float32).tiny) / LARGEST
    return (x_LD.float() / scale_L1).clamp(-LARGEST, LARGEST).to(FORMAT), scale_L1


def use_fp8(dit: AudioDiT) -> None:
    """Replace the blocks' large linear layers by 8-bit ones, which take half the memory. Call `require_fp8` first."""
    for block in dit.blocks:
        for parent, name in large_products(block):
            setattr(parent, name, Fp8Linear(getattr(parent, name)))


def large_products(block: nn.Module) -> list[tuple[nn.Module, str]]:
    """The linear layers that run in every step, as parent and name."""
    own, context = block.self_attn, block.cross_attn
    return [*((own, name) for name in "qkvo"), *((context, name) for name in "qo"), (block.ffn, "0"), (block.ffn, "2")]


def require_fp8(dit: AudioDiT, device: torch.device) -> None:
    """ValueError if the device, the weights' location or a width does not allow 8-bit products."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < CAPABILITY:
        raise ValueError(f"fast='fp8' needs a GPU of compute capability 8.9 or more; {torch.cuda.get_device_name(device)} has less")
    for i, block in enumerate(dit.blocks):
        for parent, name in large_products(block):
            weight = getattr(parent, name).weight
            if weight.device.type != device.type:
                raise ValueError(f"fast='fp8' needs the DiT's weights on {device}, but block {i} is in host memory; use a larger GPU")
            if any(side % MULTIPLE for side in weight.shape):
                raise ValueError(
                    f"fast='fp8' needs widths that are multiples of {MULTIPLE}, but a weight is {tuple(weight.shape)}; leave it out"
                )
