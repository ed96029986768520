"""8-bit weights: int8 and e4m3 floats with a scale for each output row, and products in 8 bits on GPUs that have them.

Tokens are rounded at run time, each with its own scale, so that no calibration is needed. Axes: L tokens, D width, N output rows,
B blocks of a row that share a scale.
"""

from __future__ import annotations

import torch
from torch import Tensor

EIGHT_BITS = {"int8": torch.int8, "fp8": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}
"""The number format of each form."""
LARGEST = {"int8": 127.0, "fp8": torch.finfo(torch.float8_e4m3fn).max}
"""Largest number of the forms that can be made."""
TINY = torch.finfo(torch.float32).tiny
CAPABILITY = {"int8": (7, 5), "fp8": (8, 9)}
"""Lowest CUDA compute capability with products in this form."""
MULTIPLE = 16
"""CUDA's 8-bit products need matrices whose sides are multiples of this."""
FEWEST = 17
"""torch._int_mm needs at least so many rows on CUDA."""


def round_rows(form: str, x_LD: Tensor) -> tuple[Tensor, Tensor]:
    """Rows in int8 or fp8, and their scales, float32 [L, 1]: each row's largest absolute value over the form's largest number."""
    scale_L1 = x_LD.abs().amax(1, keepdim=True).float().clamp(min=TINY) / LARGEST[form]
    rows = x_LD.float() / scale_L1
    if form == "int8":
        rows = rows.round_()
    return rows.clamp_(-LARGEST[form], LARGEST[form]).to(EIGHT_BITS[form]), scale_L1


def unpack_eight_bits(form: str, rows: Tensor, scale_NB: Tensor) -> Tensor:
    """Bytes int8 [N, D] -> float32 [N, D]."""
    numbers = rows.view(EIGHT_BITS[form]).float()
    if scale_NB.shape[1] == 1:
        return numbers.mul_(scale_NB)
    return (numbers.unflatten(1, (scale_NB.shape[1], -1)) * scale_NB[..., None]).flatten(1)


def has_products(form: str, shape: tuple[int, int], scale_NB: Tensor | None, device: torch.device) -> bool:
    """Whether this device multiplies such a weight in 8 bits: the form, its sides, and one scale a row."""
    if form not in CAPABILITY or device.type != "cuda" or scale_NB is None or scale_NB.shape[1] != 1:
        return False
    return all(side % MULTIPLE == 0 for side in shape) and torch.cuda.get_device_capability(device) >= CAPABILITY[form]


def multiply(form: str, x: Tensor, rows_ND: Tensor, scale_N1: Tensor) -> Tensor:
    """x [..., D] times the weight's transpose, both in 8 bits -> [..., N] in x's type. `has_products` says where this runs."""
    x_LD = x.flatten(0, -2)
    if form == "int8" and len(x_LD) < FEWEST:
        return x @ unpack_eight_bits(form, rows_ND, scale_N1).to(x.dtype).t()
    x8_LD, scale_L1 = round_rows(form, x_LD)
    if form == "int8":
        y_LN = torch._int_mm(x8_LD, rows_ND.t()) * scale_L1 * scale_N1.t()
    else:
        kind = torch.bfloat16 if x.is_cuda else x.dtype
        weight_DN = rows_ND.view(torch.float8_e4m3fn).t()
        y_LN = torch._scaled_mm(x8_LD, weight_DN, scale_a=scale_L1, scale_b=scale_N1.t(), out_dtype=kind, use_fast_accum=True)
    return y_LN.to(x.dtype).unflatten(0, x.shape[:-1])
