"""The process groups that share one model. The only file that imports xfuser.

Process r has place r % U in its Ulysses group and r // U in its ring (U: Ulysses degree), with or without xfuser.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

log = logging.getLogger(__name__)

KERNELS = ("auto", "plain", "xfuser")
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
    kernel: str = "auto",
    timeout_s: float = 600,
) -> SequenceGroup:
    """Connect to the other processes and form one group of all: NCCL on CUDA, gloo on the CPU. Every process calls it.

    `init_method` is a torch.distributed address such as tcp://127.0.0.1:29500 or file:///tmp/meet; `timeout_s` applies to
    every collective. `kernel` auto: xfuser on CUDA where it is installed, plain elsewhere. ValueError if the kernel cannot run here.
    """
    wanted = choose_kernel(kernel, device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=init_method, rank=rank, world_size=size, timeout=timedelta(seconds=timeout_s))
    if wanted == "xfuser":
        return connect_xfuser(size, ulysses_degree, ring_degree, device)
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


def connect_xfuser(size: int, ulysses_degree: int, ring_degree: int, device: torch.device) -> SequenceGroup:
    """A group of the whole world with xfuser's process groups and attention.

    xfuser's own initialization supports several processes only in its pipelines, so its runtime state is set up here.
    Checked over gloo with a CPU kernel; not yet run on several GPUs.
    """
    distributed = importlib.import_module("xfuser.core.distributed")
    runtime = importlib.import_module("xfuser.core.distributed.runtime_state")
    arguments = importlib.import_module("xfuser.config").xFuserArgs(ulysses_degree=ulysses_degree, ring_degree=ring_degree)
    distributed.init_distributed_environment(world_size=size, rank=dist.get_rank(), local_rank=device.index, backend="nccl")
    distributed.initialize_model_parallel(
        sequence_parallel_degree=size, ulysses_degree=ulysses_degree, ring_degree=ring_degree, backend="nccl"
    )
    runtime._RUNTIME = runtime.RuntimeState(arguments.create_config()[0])
    sequence = importlib.import_module("xfuser.core.distributed.parallel_state").get_sp_group()
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
        usp=importlib.import_module("xfuser.model_executor.layers.usp").USP,
    )
    return connect_members(group)


def choose_kernel(kernel: str, device: torch.device) -> str:
    """plain or xfuser. ValueError if the kernel is unknown or cannot run here."""
    if kernel not in KERNELS:
        raise ValueError(f"kernel={kernel!r} must be one of {', '.join(KERNELS)}")
    installed = importlib.util.find_spec("xfuser") is not None
    if kernel == "xfuser" and device.type != "cuda":
        raise ValueError(f"kernel='xfuser' needs CUDA, and the device is {device}; use 'auto' or 'plain'")
    if kernel == "xfuser" and not installed:
        raise ValueError("kernel='xfuser' needs the package xfuser, which is not installed; pip install xfuser==0.7.0, or use 'auto'")
    chosen = "xfuser" if kernel != "plain" and installed and device.type == "cuda" else "plain"
    if chosen == "xfuser":
        check_version(importlib.metadata.version("xfuser"))
    log.info("sequence-parallel attention on %s: %s", device, chosen)
    return chosen


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
