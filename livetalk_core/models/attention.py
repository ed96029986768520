"""The one attention function: every attention of the DiT and the VAE goes through it."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from livetalk_core.models.kernels import Case, preferred, supports

log = logging.getLogger(__name__)

MODULES = {"flash2": "flash_attn", "flash3": "flash_attn_interface", "sage": "sageattention"}
"""Kernels that come from packages, not from torch: kernel name -> package name."""
BACKENDS = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION}
CHOICE = {"cuda"}
"""Device types with several kernels. On a CPU torch's fused kernel is the fastest for every shape."""
GROUP_KERNELS = ("xfuser",)
"""Kernels of a process group's self-attention only (see parallel/group.py); all other calls then use `auto`."""
KERNELS = ("auto", "sdpa", *BACKENDS, *MODULES, *GROUP_KERNELS)
INEXACT = ("sage",)
"""Lossy kernels: they change the result by more than rounding."""

_wanted = "auto"
_chosen: dict[tuple[str, bool, Case], str] = {}


def attention(q_BLNK: Tensor, k_BMNK: Tensor, v_BMNK: Tensor, bias_M: Tensor | None = None) -> Tensor:
    """softmax(q k / sqrt(K) + bias) v over all M keys: [B, L, heads, K]. Only torch's own kernels take a bias."""
    if bias_M is not None or q_BLNK.device.type not in CHOICE:
        return attention_sdpa(q_BLNK, k_BMNK, v_BMNK, bias_M)
    name = kernel_for(_wanted, q_BLNK.device, q_BLNK.dtype, tuple(q_BLNK.shape), k_BMNK.shape[1], torch.is_grad_enabled())
    if name in MODULES and torch.compiler.is_compiling() and not torch.is_grad_enabled():
        return package_kernel(q_BLNK, k_BMNK, v_BMNK, name)
    return RUN[name](q_BLNK, k_BMNK, v_BMNK)


def select_kernel(name: str) -> None:
    """Select the kernel of this process. ValueError if the name is unknown or its package is not installed."""
    global _wanted
    if name not in KERNELS:
        raise ValueError(f"attention kernel {name!r} must be one of {', '.join(KERNELS)}")
    if name in MODULES and not installed(name):
        raise ValueError(f"attention kernel {name!r} needs the package {MODULES[name]!r}, which is not installed; use 'auto'")
    _wanted = "auto" if name in GROUP_KERNELS else name


def wanted_kernel() -> str:
    """The kernel last selected, by name or `auto`."""
    return _wanted


@contextmanager
def kernel_as(name: str) -> Iterator[None]:
    """Select another kernel within a `with` block."""
    before = _wanted
    select_kernel(name)
    try:
        yield
    finally:
        select_kernel(before)


def kernel_for(wanted: str, device: torch.device, dtype: torch.dtype, shape: tuple[int, ...], num_keys: int, learns: bool) -> str:
    """The kernel for a call: the selected one, or for `auto` the first of the table that works. Cached; a compiler bakes it in.

    Training takes a package's kernel if there is one, else torch's own choice, whose backward torch knows.
    """
    batch, queries, heads, width = shape
    case = Case(device=device, dtype=dtype, batch=batch, queries=queries, keys=num_keys, heads=heads, width=width)
    key = (wanted, learns, case)
    if key not in _chosen:
        names = preferred(case) if wanted == "auto" else (wanted,)
        usable = (name for name in names if (name in MODULES or not learns) and supports(name, case))
        _chosen[key] = next((name for name in usable if works(name, device, dtype, width)), "sdpa")
        log.info("attention kernel of %s: %s", case, _chosen[key])
    return _chosen[key]


kernel_for._dynamo_marked_constant = True
"""Same as torch.compiler.assume_constant_result, without importing the compiler, which takes seconds."""


@functools.cache
def works(name: str, device: torch.device, dtype: torch.dtype, width: int) -> bool:
    """Whether a kernel is installed and answers a small call. If an installed one fails, a warning says why."""
    if name in MODULES and not installed(name):
        return False
    q = torch.zeros(1, 128, 2, width, device=device, dtype=dtype)
    try:
        with torch.no_grad():
            RUN[name](q, q, q)
    except Exception as error:  # whatever a package raises, another kernel does the same work
        log.warning("attention kernel %s is left out: %s", name, (str(error).splitlines() or [type(error).__name__])[0])
        return False
    return True


def chosen() -> dict[str, str]:
    """The kernels chosen so far in this process, by kind of call."""
    return {str(case): name for (_, _, case), name in _chosen.items()}


def installed(name: str) -> bool:
    """Whether the kernel's package is installed."""
    return importlib.util.find_spec(MODULES[name]) is not None


def attention_sdpa(q_BLNK: Tensor, k_BMNK: Tensor, v_BMNK: Tensor, bias_M: Tensor | None = None) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q_BLNK, k_BMNK, v_BMNK))
    bias = None if bias_M is None else bias_M.to(q.dtype).expand(1, 1, q.shape[2], -1)
    if q.device.type != "cuda":
        if torch.is_grad_enabled() and q.dtype == torch.bfloat16 and bias is None:
            return attention_plain(q, k, v).transpose(1, 2)
        return F.scaled_dot_product_attention(q, k, v, bias).transpose(1, 2)
    with sdpa_kernel([*BACKENDS.values(), SDPBackend.MATH], set_priority=True):
        return F.scaled_dot_product_attention(q, k, v, bias).transpose(1, 2)


def attention_backend(backend: SDPBackend, q_BLNK: Tensor, k_BMNK: Tensor, v_BMNK: Tensor) -> Tensor:
    """Attention with one of torch's kernels. RuntimeError if that kernel does not support the shape."""
    with sdpa_kernel(backend):
        return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q_BLNK, k_BMNK, v_BMNK))).transpose(1, 2)


def attention_plain(q_BNLK: Tensor, k_BNMK: Tensor, v_BNMK: Tensor) -> Tensor:
    """Attention as matrix products. On a CPU in bfloat16 its backward is several times faster than the fused kernel's."""
    return (q_BNLK * q_BNLK.shape[-1] ** -0.5 @ k_BNMK.transpose(-1, -2)).softmax(-1) @ v_BNMK


def attention_flash2(q_BLNK: Tensor, k_BMNK: Tensor, v_BMNK: Tensor) -> Tensor:
    return importlib.import_module("flash_attn").flash_attn_func(q_BLNK, k_BMNK, v_BMNK)


def attention_flash3(q_BLNK: Tensor, k_BMNK: Tensor, v_BMNK: Tensor) -> Tensor:
    out = importlib.import_module("flash_attn_interface").flash_attn_func(q_BLNK, k_BMNK, v_BMNK)
    return out[0] if isinstance(out, tuple) else out


def attention_sage(q_BLNK: Tensor, k_BMNK: Tensor, v_BMNK: Tensor) -> Tensor:
    """SageAttention: queries and keys in 8 bits. Used only when selected by name."""
    return importlib.import_module("sageattention").sageattn(q_BLNK, k_BMNK, v_BMNK, tensor_layout="NHD")


@torch.library.custom_op("livetalk::package_kernel", mutates_args=())
def package_kernel(q_BLNK: Tensor, k_BMNK: Tensor, v_BMNK: Tensor, name: str) -> Tensor:
    """A package's kernel as a single operation in a compiled graph."""
    return RUN[name](q_BLNK, k_BMNK, v_BMNK).contiguous()


@package_kernel.register_fake
def _(q_BLNK: Tensor, k_BMNK: Tensor, v_BMNK: Tensor, name: str) -> Tensor:
    return q_BLNK.new_empty(*q_BLNK.shape[:-1], v_BMNK.shape[-1])


RUN: dict[str, Callable[..., Tensor]] = {
    "sdpa": attention_sdpa,
    **{name: partial(attention_backend, backend) for name, backend in BACKENDS.items()},
    **{"flash2": attention_flash2, "flash3": attention_flash3, "sage": attention_sage},
}
