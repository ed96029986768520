"""The most bytes that tensors hold at a time while a call runs: on the CPU, or on the meta device, where they have shapes only."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the tensors that operations make within a `with` block, without mapped files."""

    def __init__(self, device: str = "cpu"):
        super().__init__()
        self.device, self.now, self.most = device, 0, 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        given = {key_of(storage) for storage in self.storages((arguments, options or {}))}
        out = function(*arguments, **(options or {}))
        for storage in [] if function.overloadpacket is torch.ops.aten.from_file else self.storages(out):
            if key_of(storage) not in given:
                self.add(storage)
        return out

    def storages(self, tree: object) -> list:
        return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.device.type == self.device]

    def add(self, storage) -> None:
        key, size = key_of(storage), storage.nbytes()
        if key in self.known or size == 0:
            return
        self.known.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self.drop, key, size)

    def drop(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


class FusedAttention(TorchFunctionMode):
    """torch's attention makes its result alone, as a GPU's kernels do. On the meta device it would make all scores."""

    def __torch_function__(self, function, types, arguments=(), options=None):
        if function is not scaled_dot_product_attention:
            return function(*arguments, **(options or {}))
        q, _, v = arguments[:3]
        return q.new_empty(*q.shape[:-1], v.shape[-1])


def key_of(storage) -> int:
    """The same number for a tensor and its views, also without an address."""
    return StorageWeakRef(storage).cdata
