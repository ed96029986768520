"""A GPU without a GPU: tensors on `cuda:0` have shapes and types but no numbers, and every operation on them is checked.

Work on the host stays real. `cudart.c` and `cuda.c` answer what torch asks the driver (start Python as test_rehearsal.py does).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
CUDA = torch.device("cuda:0")
ONE_TYPE = {
    *(aten.mm, aten.addmm, aten.bmm, aten.baddbmm, aten.convolution, aten.linear, aten._fused_rms_norm, aten.native_layer_norm),
    *(aten._scaled_dot_product_flash_attention, aten._scaled_dot_product_efficient_attention, aten._scaled_dot_product_cudnn_attention),
}
"""Operations whose floating-point operands must have one type: CUDA refuses others, and fake tensors do not notice."""


class FakeGpu(FakeTensorMode):
    """Inside it, tensors on `cuda` are fake. A value that is read from one is 1, and a tensor that comes from there is zeros."""

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.host_is_fake = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if not self.host_is_fake and on_host(tensors, kwargs):
            return func(*args, **kwargs)
        packet = func.overloadpacket
        check_types(packet, tensors)
        if packet is aten._local_scalar_dense:
            return torch.ones((), dtype=tensors[0].dtype).item()
        if not self.host_is_fake and packet is aten.copy_ and not isinstance(args[0], FakeTensor) and args[0].device.type == "cpu":
            return args[0]
        if not self.host_is_fake and packet is aten._to_copy and str(kwargs.get("device")) == "cpu":
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        return super().__torch_dispatch__(func, types, args, kwargs)

    @contextmanager
    def fake_host(self) -> Iterator[None]:
        """Host tensors are fake as well: for weights that would not fit."""
        self.host_is_fake = True
        try:
            yield
        finally:
            self.host_is_fake = False


def on_host(tensors: list[Tensor], kwargs: dict) -> bool:
    """Whether an operation has real host tensors only, and leaves its result there."""
    device = kwargs.get("device")
    return (device is None or torch.device(device).type == "cpu") and not any(
        isinstance(tensor, FakeTensor) or tensor.device.type == "cuda" for tensor in tensors
    )


def check_types(packet, tensors: list[Tensor]) -> None:
    kinds = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
    if packet in ONE_TYPE and len(kinds) > 1:
        raise TypeError(f"{packet} of {', '.join(sorted(map(str, kinds)))}: its operands must have one type")


def set_data(tensor: FakeTensor, value: Tensor) -> None:
    """As `tensor.data = value`, which would not move a fake tensor to another device."""
    DATA.__set__(tensor, value)
    tensor.fake_device = value.device


DATA = torch._C.TensorBase.data
FakeTensor.data = property(DATA.__get__, set_data)


def apply(module: nn.Module, change, recurse: bool = True) -> nn.Module:
    """As nn.Module._apply, which would exchange fake weights for new ones and refuses some."""
    for child in module.children() if recurse else ():
        child._apply(change)
    for name, weight in module._parameters.items():
        if isinstance(weight, FakeTensor):
            weight.data = change(weight.data)
        elif weight is not None:
            module._parameters[name] = nn.Parameter(change(weight.data), weight.requires_grad)
    for name, buffer in module._buffers.items():
        module._buffers[name] = None if buffer is None else change(buffer)
    return module


nn.Module._apply = apply
