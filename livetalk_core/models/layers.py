"""Small layers of the DiT, rounded as published: they compute in float32 and return the tokens' type."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class KeyValue(NamedTuple):
    k_BMNK: Tensor
    v_BMNK: Tensor


class ContextKeys(NamedTuple):
    """One block's keys and values of the prompt and the picture: constant over a stream."""

    text: KeyValue
    image: KeyValue
    text_bias_M: Tensor | None = None
    """Added to the text's scores: the log of how many equal rows a key stands for."""


class RMSNorm(nn.Module):
    """RMS norm over the full width, before the split into heads."""

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        return (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype) * self.weight


def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float, dtype: torch.dtype | None = None) -> Tensor:
    """LN(x) (1 + scale) + shift; the norm is rounded to x's type, the rest is float32."""
    y = F.layer_norm(x.float(), x.shape[-1:], eps=eps).to(x.dtype)
    return (y * (1 + scale) + shift).to(dtype or x.dtype)


def norm_fp32(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    return F.layer_norm(x.float(), x.shape[-1:], norm.weight.float(), norm.bias.float(), norm.eps).to(x.dtype)


def linear_fp32(linear: nn.Linear, x: Tensor) -> Tensor:
    return F.linear(x.float(), linear.weight.float(), linear.bias.float())


def heads(x_BLD: Tensor, num_heads: int) -> Tensor:
    return x_BLD.unflatten(-1, (num_heads, -1))
