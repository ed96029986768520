"""The one attention function: every attention of the DiT and the VAE goes through it."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

log = logging.getLogger(__name__)

KERNELS = ("auto", "sdpa", "flash2", "flash3")
MODULES = {"flash2": "flash_attn", "flash3": "flash_attn_interface"}
BACKENDS = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]

_wanted = "auto"


def attention(q_BLNK: Tensor, k_BMNK: Tensor, v_BMNK: Tensor, bias_M: Tensor | None = None) -> Tensor:
    """softmax(q k / sqrt(K) + bias) v over all M keys: [B, L, heads, K]. Only torch's own kernels take a bias."""
    if bias_M is not None:
        return attention_sdpa(q_BLNK, k_BMNK, v_BMNK, bias_M)
    kernel = choose_kernel(_wanted, q_BLNK.device.type, q_BLNK.dtype in (torch.bfloat16, torch.float16))
    return RUN[kernel](q_BLNK, k_BMNK, v_BMNK)


def select_kernel(name: str) -> None:
    """Prefer one kernel for this process; ValueError for a name that is unknown or not installed."""
    global _wanted
    if name not in KERNELS:
        raise ValueError(f"attention kernel {name!r} must be one of {', '.join(KERNELS)}")
    if name in MODULES and not installed(name):
        raise ValueError(f"attention kernel {name!r} needs the package {MODULES[name]!r}, which is not installed; use 'auto'")
    _wanted = name


@functools.cache
def choose_kernel(wanted: str, device_type: str, half: bool) -> str:
    """The kernel for this device and precision; decided, and logged, once."""
    kernel = "sdpa"
    if device_type == "cuda" and half:
        capable = {"flash3": torch.cuda.get_device_capability()[0] == 9, "flash2": torch.cuda.get_device_capability()[0] >= 8}
        candidates = ("flash3", "flash2") if wanted == "auto" else (wanted,)
        kernel = next((name for name in candidates if name in MODULES and capable[name] and installed(name)), "sdpa")
    log.info("attention kernel on %s%s: %s", device_type, " (half precision)" if half else "", kernel)
    return kernel


@functools.cache
def installed(name: str) -> bool:
    """Whether the kernel's package is there."""
    return importlib.util.find_spec(MODULES[name]) is not None


def attention_sdpa(q_BLNK: Tensor, k_BMNK: Tensor, v_BMNK: Tensor, bias_M: Tensor | None = None) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q_BLNK, k_BMNK, v_BMNK))
    bias = None if bias_M is None else bias_M.to(q.dtype).expand(1, 1, q.shape[2], -1)
    if q.device.type != "cuda":
        if torch.is_grad_enabled() and q.dtype == torch.bfloat16 and bias is None:
            return attention_plain(q, k, v).transpose(1, 2)
        return F.scaled_dot_product_attention(q, k, v, bias).transpose(1, 2)
    with sdpa_kernel(BACKENDS, set_priority=True):
        return F.scaled_dot_product_attention(q, k, v, bias).transpose(1, 2)


def attention_plain(q_BNLK: Tensor, k_BNMK: Tensor, v_BNMK: Tensor) -> Tensor:
    """In matrix products, which a CPU learns through several times faster than through its fused kernel in bfloat16."""
    return (q_BNLK * q_BNLK.shape[-1] ** -0.5 @ k_BNMK.transpose(-1, -2)).softmax(-1) @ v_BNMK


def attention_flash2(q_BLNK: Tensor, k_BMNK: Tensor, v_BMNK: Tensor) -> Tensor:
    return importlib.import_module("flash_attn").flash_attn_func(q_BLNK, k_BMNK, v_BMNK)


def attention_flash3(q_BLNK: Tensor, k_BMNK: Tensor, v_BMNK: Tensor) -> Tensor:
    out = importlib.import_module("flash_attn_interface").flash_attn_func(q_BLNK, k_BMNK, v_BMNK)
    return out[0] if isinstance(out, tuple) else out


RUN = {"sdpa": attention_sdpa, "flash2": attention_flash2, "flash3": attention_flash3}
