"""The process groups that share one model. The only file that imports xfuser.

Process r has place r % U in its Ulysses group and r // U in its ring (U: Ulysses degree), with or without xfuser.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import ModuleType
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

log = logging.getLogger(__name__)

KERNELS = ("plain", "xfuser")
"""This package's own Ulysses and ring, which take any attention kernel, or xfuser's USP with its own."""
XFUSER = (0, 7)
"""Oldest xfuser whose USP masks padded keys through `valid_kv_len`."""


@dataclass(frozen=True, kw_only=True)
class SequenceGroup:
    """A group of processes, as one of them sees it."""

    rank: int
    """Rank within this group, from 0."""
    size: int
    ulysses_degree: int
    ring_degree: int
    device: torch.device
    whole: dist.ProcessGroup
    ulysses: dist.ProcessGroup
    ring: dist.ProcessGroup
    usp: Callable[..., Tensor] | None = None
    """xfuser's attention over the same groups, for q, k, v [B, heads, L, K]. None: this package's own attention."""

    @property
    def ring_place(self) -> int:
        return self.rank // self.ulysses_degree


def init_group(
    *,
    rank: int,
    size: int,
    init_method: str,
    device: torch.device,
    ulysses_degree: int,
    ring_degree: int,
    kernel: str = "plain",
    timeout_s: float = 600,
) -> SequenceGroup:
    """Connect to the other processes and form one group of all: NCCL on CUDA, gloo on the CPU. Every process calls it.

    `init_method` is a torch.distributed address such as tcp://127.0.0.1:29500 or file:///tmp/meet; `timeout_s` applies to
    every collective. `kernel` xfuser: its attention if it works on all processes, else plain. ValueError if the kernel is unknown.
    """
    check_kernel(kernel, device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=init_method, rank=rank, world_size=size, timeout=timedelta(seconds=timeout_s))
    if kernel == "xfuser" and (group := try_xfuser(size, ulysses_degree, ring_degree, device)) is not None:
        return group
    return connect(range(size), ulysses_degree, ring_degree, device)


def connect(ranks: Sequence[int], ulysses_degree: int, ring_degree: int, device: torch.device) -> SequenceGroup | None:
    """A group of these world ranks; None on processes outside it.

    Every process of the world calls it with the same arguments. ValueError if the degrees do not multiply to the group's size.
    """
    if ulysses_degree < 1 or ring_degree < 1 or ulysses_degree * ring_degree != len(ranks):
        raise ValueError(
            f"ulysses_degree={ulysses_degree} x ring_degree={ring_degree} must be the group's size {len(ranks)}, such as {len(ranks)} x 1"
        )
    me = dist.get_rank()
    whole = dist.new_group(list(ranks))
    columns = [list(ranks[i * ulysses_degree : (i + 1) * ulysses_degree]) for i in range(ring_degree)]
    rings = [list(ranks[i::ulysses_degree]) for i in range(ulysses_degree)]
    ulysses = [(members, dist.new_group(members)) for members in columns]
    ring = [(members, dist.new_group(members)) for members in rings]
    if me not in ranks:
        return None
    group = SequenceGroup(
        rank=list(ranks).index(me),
        size=len(ranks),
        ulysses_degree=ulysses_degree,
        ring_degree=ring_degree,
        device=device,
        whole=whole,
        ulysses=next(g for members, g in ulysses if me in members),
        ring=next(g for members, g in ring if me in members),
    )
    return connect_members(group)


def try_xfuser(size: int, ulysses_degree: int, ring_degree: int, device: torch.device) -> SequenceGroup | None:
    """A group with xfuser's attention. None, with a warning, on all processes if it fails on any of them.

    Imports are tried and agreed on before the first collective, so that a process without a working xfuser leaves no other waiting.
    """
    try:
        modules = import_xfuser()
    except Exception as error:  # a broken package may raise anything
        log.warning("xfuser cannot be used, so this package's own attention is: %s", first_line(error))
        modules = None
    if not on_all(modules is not None, device):
        return None
    try:
        group = connect_xfuser(modules, size, ulysses_degree, ring_degree, device)
    except Exception as error:
        log.warning("xfuser did not start, so this package's own attention is used: %s", first_line(error))
        group = None
    return group if on_all(group is not None, device) else None


def on_all(flag: bool, device: torch.device) -> bool:
    """Whether `flag` is set on every process of the world."""
    value = torch.tensor(float(flag), device=device)
    dist.all_reduce(value, dist.ReduceOp.MIN)
    return bool(value)


def first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


class Xfuser(NamedTuple):
    """The parts of xfuser that are used."""

    distributed: ModuleType
    runtime: ModuleType
    config: ModuleType
    parallel_state: ModuleType
    usp: Callable[..., Tensor]


def import_xfuser() -> Xfuser:
    check_version(importlib.metadata.version("xfuser"))
    names = ("core.distributed", "core.distributed.runtime_state", "config", "core.distributed.parallel_state")
    return Xfuser(
        *(importlib.import_module(f"xfuser.{name}") for name in names), importlib.import_module("xfuser.model_executor.layers.usp").USP
    )


def connect_xfuser(xfuser: Xfuser, size: int, ulysses_degree: int, ring_degree: int, device: torch.device) -> SequenceGroup:
    """A group of the whole world with xfuser's process groups and attention.

    xfuser's own initialization supports several processes only in its pipelines, so its runtime state is set up here.
    Checked over gloo with a CPU kernel; not yet run on several GPUs.
    """
    arguments = xfuser.config.xFuserArgs(ulysses_degree=ulysses_degree, ring_degree=ring_degree)
    xfuser.distributed.init_distributed_environment(world_size=size, rank=dist.get_rank(), local_rank=device.index, backend="nccl")
    xfuser.distributed.initialize_model_parallel(
        sequence_parallel_degree=size, ulysses_degree=ulysses_degree, ring_degree=ring_degree, backend="nccl"
    )
    xfuser.runtime._RUNTIME = xfuser.runtime.RuntimeState(arguments.create_config()[0])
    sequence = xfuser.parallel_state.get_sp_group()
    assert (sequence.ulysses_world_size, sequence.ring_world_size) == (ulysses_degree, ring_degree), "xfuser runs without yunchang"
    group = SequenceGroup(
        rank=sequence.rank_in_group,
        size=size,
        ulysses_degree=ulysses_degree,
        ring_degree=ring_degree,
        device=device,
        whole=sequence.device_group,
        ulysses=sequence.ulysses_group,
        ring=sequence.ring_group,
        usp=xfuser.usp,
    )
    return connect_members(group)


def check_kernel(kernel: str, device: torch.device) -> None:
    """ValueError if the kernel is unknown or cannot run on this device."""
    if kernel not in KERNELS:
        raise ValueError(f"kernel={kernel!r} must be one of {', '.join(KERNELS)}")
    if kernel == "xfuser" and device.type != "cuda":
        raise ValueError(f"kernel='xfuser' needs CUDA, and the device is {device}; use 'plain'")


def check_version(version: str) -> None:
    """ValueError for an xfuser that does not mask padded keys."""
    if tuple(int(part) for part in version.split(".")[:2]) < XFUSER:
        raise ValueError(f"xfuser {version} is too old; pip install xfuser==0.7.0, or use kernel='plain'")


def connect_members(group: SequenceGroup) -> SequenceGroup:
    """Run one collective per process group: NCCL connects at the first call, which needs all members; a point-to-point call has two."""
    for members in (group.whole, group.ulysses, group.ring):
        dist.all_reduce(torch.zeros(1, device=group.device), group=members)
    return group


def close_group() -> None:
    """Destroy the world's process group. No group can be used afterwards."""
    dist.destroy_process_group()
