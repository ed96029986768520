"""Counts a call's floating-point operations, bytes moved and operations on the meta device, where nothing is computed.

Bytes are those of eager execution: every operation reads its operands from memory and writes its result there. Views and empty tensors do
not count. Attention counts as one operation that writes no scores, like the fused kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from livetalk_core.models.convolution import folded_kernels

aten = torch.ops.aten
NO_KERNEL = {
    aten.empty,
    aten.empty_like,
    aten.empty_strided,
    aten.new_empty,
    aten.new_empty_strided,
    aten._unsafe_view,
    aten._reshape_alias,
}
"""Operations besides views that move no data."""
LOOKUPS = {aten.embedding, aten.index, aten.index_select, aten.gather}
"""Operations that read only as much of their first operand as they write."""
OVERWRITES = {aten.copy_, aten.fill_, aten.zero_}
"""Operations that do not read the tensor they write to."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """The work of a call."""

    flops: int = 0
    """Of matmuls, convolutions and attention; a multiplication and an addition are two."""
    ops: int = 0
    """Operations dispatched; each is one GPU kernel or more."""
    weight_bytes: int = 0
    """Weights read."""
    matrix_bytes: int = 0
    """Other operands and results of the operations in `flops`."""
    elementwise_bytes: int = 0
    """Operands and results of all other operations, without weights."""

    def __add__(self, other: Work) -> Work:
        return Work(**{name: value + vars(other)[name] for name, value in vars(self).items()})

    def __mul__(self, times: int) -> Work:
        return Work(**{name: value * times for name, value in vars(self).items()})

    @property
    def num_bytes(self) -> int:
        return self.weight_bytes + self.matrix_bytes + self.elementwise_bytes


@torch.no_grad()
def count_work(call: Callable[[], object], modules: Iterable[nn.Module] = ()) -> Work:
    """The work of a call whose tensors are on the meta device. Tensors of `modules` count as weights."""
    counter = WorkCounter({storage_of(tensor) for module in modules for tensor in weights_of(module)})
    with counter, AttentionCounter(counter):
        call()
    return counter.work


class WorkCounter(TorchDispatchMode):
    """Adds up the operations that write to the meta device."""

    def __init__(self, weights: set[int]):
        super().__init__()
        self.weights, self.work = weights, Work()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        packet = func.overloadpacket
        if func.is_view or packet in NO_KERNEL:
            return result
        written = tensors_in(result)
        if not any(tensor.is_meta for tensor in written):
            return result
        read = tensors_in((args[1:] if packet in OVERWRITES else args, kwargs))
        flops = flop_registry[packet](*args, **kwargs, out_val=result) if packet in flop_registry else None
        if packet in LOOKUPS:
            self.add(None, [], written * 2)
        else:
            self.add(flops, read, written)
        return result

    def add(self, flops: int | None, read: list[Tensor], written: list[Tensor]) -> None:
        """One operation. `flops` None: an elementwise one."""
        weights = {id(tensor) for tensor in read if storage_of(tensor) in self.weights}
        others = [tensor for tensor in (*read, *written) if id(tensor) not in weights]
        weight_bytes = sum(bytes_of(tensor) for tensor in read if id(tensor) in weights)
        other_bytes = sum(map(bytes_of, others))
        kind = "elementwise_bytes" if flops is None else "matrix_bytes"
        self.work += Work(flops=flops or 0, ops=1, weight_bytes=weight_bytes, **{kind: other_bytes})


class AttentionCounter(TorchFunctionMode):
    """Counts torch's attention as one operation. On the meta device torch would split it, with all scores in memory."""

    def __init__(self, counter: WorkCounter):
        super().__init__()
        self.counter = counter

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **kwargs)
        q, k, v = (args[i] if i < len(args) else kwargs[name] for i, name in enumerate(("query", "key", "value")))
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        flops = 2 * q.shape[:-1].numel() * k.shape[-2] * (q.shape[-1] + v.shape[-1])
        self.counter.add(flops, tensors_in((args, kwargs)), [out])
        return out


def weights_of(module: nn.Module) -> list[Tensor]:
    """Parameters, buffers, and the folded kernels of convolutions."""
    return [*module.parameters(), *module.buffers(), *folded_kernels(module)]


def storage_of(tensor: Tensor) -> int:
    """The same number for a tensor and its views; works on the meta device, where tensors have no address."""
    return StorageWeakRef(tensor.untyped_storage()).cdata


def bytes_of(tensor: Tensor) -> int:
    """Memory of a tensor; an expanded axis counts once."""
    sizes = (size if stride else min(size, 1) for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    total = tensor.dtype.itemsize
    for size in sizes:
        total *= size
    return total


def tensors_in(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
