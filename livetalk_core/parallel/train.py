"""Training on all processes of the world: sharded weights (FSDP2) and activation checkpointing.

One process uses the same code path as many. Weight names do not change.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.utils.checkpoint import checkpoint


@contextmanager
def training_world(device: torch.device) -> Iterator[None]:
    """Initialize torch.distributed for torchrun's processes, or for this one alone: gloo on the CPU, NCCL on CUDA.

    If it is initialized already, nothing happens. gloo's threads may outlive the group, so its process must end with `leave` (cli/end.py).
    """
    if dist.is_initialized():
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if "RANK" in os.environ:
        dist.init_process_group(backend)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
        dist.barrier()  # nobody leaves while another still receives
    finally:
        dist.destroy_process_group()


def own_device(name: str) -> torch.device:
    """This process's device. `auto`: the GPU of its local rank if there is one, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if name == "cuda" else torch.device(name)


def shard(
    make: Callable[[], nn.Module],
    state: dict[str, Tensor],
    units: Callable[[nn.Module], Iterable[nn.Module]],
    device: torch.device,
    *,
    compute: torch.dtype = torch.float32,
    master: torch.dtype = torch.float32,
    checkpoint_activations: bool = False,
) -> nn.Module:
    """Build a module on the meta device, shard it, and load rank 0's `state` (empty on the other ranks).

    `units` are sharded separately, the rest with the module itself. Weights are stored in `master` and used in `compute`; gradients are
    reduced in float32.
    """
    with torch.device("meta"):
        module = make()
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32, cast_forward_inputs=False)
    module.to(master)
    for unit in units(module):
        if checkpoint_activations:
            unit.forward = partial(checkpoint, unit.forward, use_reentrant=False)
        fully_shard(unit, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    module.to_empty(device=device)
    set_model_state_dict(module, dict(state), options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True))
    return module


def mean_over_ranks(value: Tensor) -> Tensor:
    """The mean of a tensor over all processes."""
    value = value.detach().clone()
    dist.all_reduce(value)
    return value / dist.get_world_size()


def is_first() -> bool:
    return dist.get_rank() == 0
