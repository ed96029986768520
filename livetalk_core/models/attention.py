"""The one attention function: every attention of the DiT and the VAE goes through it. Of several kernels the fastest is measured."""

from __future__ import annotations

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

from livetalk_core.models.kernels import Case, fastest, time_kernels

log = logging.getLogger(__name__)

MODULES = {"flash2": "flash_attn", "flash3": "flash_attn_interface", "sage": "sageattention"}
"""The packages of the kernels that are not torch's own."""
BACKENDS = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION}
MEASURED = {"cuda": ("flash3", "cudnn", "flash2", "flash", "efficient")}
"""Kernels of a device among which `auto` measures, the likeliest first. On a CPU torch's fused kernel is the faster in every shape."""
WIDEST = 256
"""Head width up to which the packages' kernels go."""
KERNELS = ("auto", "sdpa", *BACKENDS, *MODULES)
INEXACT = ("sage",)
"""Kernels that change the result by more than rounding."""

_wanted = "auto"
_chosen: dict[tuple[str, bool, Case], str] = {}


def attention(q_BLNK: Tensor, k_BMNK: Tensor, v_BMNK: Tensor, bias_M: Tensor | None = None) -> Tensor:
    """softmax(q k / sqrt(K) + bias) v over all M keys: [B, L, heads, K]. Only torch's own kernels take a bias."""
    if bias_M is not None or q_BLNK.device.type not in MEASURED:
        return attention_sdpa(q_BLNK, k_BMNK, v_BMNK, bias_M)
    name = kernel_for(_wanted, q_BLNK.device, q_BLNK.dtype, tuple(q_BLNK.shape), k_BMNK.shape[1], torch.is_grad_enabled())
    if name in MODULES and torch.compiler.is_compiling() and not torch.is_grad_enabled():
        return package_kernel(q_BLNK, k_BMNK, v_BMNK, name)
    return RUN[name](q_BLNK, k_BMNK, v_BMNK)


def select_kernel(name: str) -> None:
    """Prefer one kernel for this process; ValueError for a name that is unknown or not installed."""
    global _wanted
    if name not in KERNELS:
        raise ValueError(f"attention kernel {name!r} must be one of {', '.join(KERNELS)}")
    if name in MODULES and not installed(name):
        raise ValueError(f"attention kernel {name!r} needs the package {MODULES[name]!r}, which is not installed; use 'auto'")
    _wanted = name


def wanted_kernel() -> str:
    """What `select_kernel` was last given."""
    return _wanted


@contextmanager
def kernel_as(name: str) -> Iterator[None]:
    """Prefer another kernel for a while."""
    before = _wanted
    select_kernel(name)
    try:
        yield
    finally:
        select_kernel(before)


def kernel_for(wanted: str, device: torch.device, dtype: torch.dtype, shape: tuple[int, ...], num_keys: int, learns: bool) -> str:
    """The kernel of a call; measured once a shape, with random numbers, and kept for the process. A compiler takes it as it is then.

    What learns goes through the first that is there, unmeasured: its way back is not timed.
    """
    batch, queries, heads, width = shape
    case = Case(device=device, dtype=dtype, batch=batch, queries=queries, keys=num_keys, heads=heads, width=width)
    key = (wanted, learns, case)
    if key not in _chosen:
        candidates = [name for name in (MEASURED[device.type] if wanted == "auto" else (wanted,)) if suits(name, case)]
        if learns:
            candidates = [name for name in candidates if name in MODULES][:1]
        _chosen[key] = choose(candidates, case)
    return _chosen[key]


kernel_for._dynamo_marked_constant = True
"""What torch.compiler.assume_constant_result does, without the compiler's import, which takes seconds."""


def choose(candidates: list[str], case: Case) -> str:
    """The fastest of the candidates that work; torch's own choice when there is none. Says which, and why."""
    seconds = time_kernels({name: RUN[name] for name in candidates}, case)
    name = fastest(seconds) if seconds else "sdpa"
    why = ", ".join(f"{name} {1000 * taken:.3g} ms" for name, taken in seconds.items()) or "no other is there"
    log.info("attention kernel of %s: %s (%s)", case, name, why)
    return name


def suits(name: str, case: Case) -> bool:
    """Whether a kernel is there and takes this precision and width."""
    if name not in MODULES:
        return True
    return installed(name) and case.dtype in (torch.bfloat16, torch.float16) and case.width <= WIDEST


def chosen() -> dict[str, str]:
    """What was chosen so far in this process: the kernel of each kind of call."""
    return {str(case): name for (_, _, case), name in _chosen.items()}


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
    with sdpa_kernel([*BACKENDS.values(), SDPBackend.MATH], set_priority=True):
        return F.scaled_dot_product_attention(q, k, v, bias).transpose(1, 2)


def attention_backend(backend: SDPBackend, q_BLNK: Tensor, k_BMNK: Tensor, v_BMNK: Tensor) -> Tensor:
    """By one of torch's kernels; RuntimeError where it does not take the shape."""
    with sdpa_kernel(backend):
        return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q_BLNK, k_BMNK, v_BMNK))).transpose(1, 2)


def attention_plain(q_BNLK: Tensor, k_BNMK: Tensor, v_BNMK: Tensor) -> Tensor:
    """In matrix products, which a CPU learns through several times faster than through its fused kernel in bfloat16."""
    return (q_BNLK * q_BNLK.shape[-1] ** -0.5 @ k_BNMK.transpose(-1, -2)).softmax(-1) @ v_BNMK


def attention_flash2(q_BLNK: Tensor, k_BMNK: Tensor, v_BMNK: Tensor) -> Tensor:
    return importlib.import_module("flash_attn").flash_attn_func(q_BLNK, k_BMNK, v_BMNK)


def attention_flash3(q_BLNK: Tensor, k_BMNK: Tensor, v_BMNK: Tensor) -> Tensor:
    out = importlib.import_module("flash_attn_interface").flash_attn_func(q_BLNK, k_BMNK, v_BMNK)
    return out[0] if isinstance(out, tuple) else out


def attention_sage(q_BLNK: Tensor, k_BMNK: Tensor, v_BMNK: Tensor) -> Tensor:
    """Queries and keys in 8 bits (SageAttention), never chosen unasked."""
    return importlib.import_module("sageattention").sageattn(q_BLNK, k_BMNK, v_BMNK, tensor_layout="NHD")


@torch.library.custom_op("livetalk::package_kernel", mutates_args=())
def package_kernel(q_BLNK: Tensor, k_BMNK: Tensor, v_BMNK: Tensor, name: str) -> Tensor:
    """A package's kernel as one operation of a compiled graph."""
    return RUN[name](q_BLNK, k_BMNK, v_BMNK).contiguous()


@package_kernel.register_fake
def _(q_BLNK: Tensor, k_BMNK: Tensor, v_BMNK: Tensor, name: str) -> Tensor:
    return q_BLNK.new_empty(*q_BLNK.shape[:-1], v_BMNK.shape[-1])


RUN: dict[str, Callable[..., Tensor]] = {
    "sdpa": attention_sdpa,
    **{name: partial(attention_backend, backend) for name, backend in BACKENDS.items()},
    **{"flash2": attention_flash2, "flash3": attention_flash3, "sage": attention_sage},
}
