"""Decides where the weights of the DiT's blocks are kept. In the published model the blocks are 37 of 38 GB."""

from __future__ import annotations

from pathlib import Path

import torch

from livetalk_core.parallel.offload import NUM_SLOTS

GIB = 1 << 30
OVERHEAD_BYTES = GIB
"""Overhead of allocators and libraries: an estimate."""
MIN_FREE_BYTES = 20 * GIB
"""Free memory that `auto` keeps when it offloads. It is for absorbed audio keys (9.4 GB at 14B and 720 x 416), which are used if they take
less than half of the free memory. They save more time than more resident blocks would."""
PROCESS_BYTES = 2 * GIB
"""Host memory that one process takes beside offloaded weights: an estimate."""
GATHERED_BLOCKS = 4
"""Memory for the running block, the block being gathered, and copies, in blocks: an estimate."""


def check_memory(memory: str, num_processes: int) -> None:
    """ValueError for sharded weights in a single process."""
    if memory == "sharded" and num_processes < 2:
        raise ValueError("memory='sharded' shares the weights over 2 processes or more, and this is one; use more GPUs, or 'offload'")


def blocks_on_device(memory: str, block_bytes: int, num_blocks: int, count: int = 1) -> int:
    """Bytes of block weights that each of `count` devices must hold. `auto` counts as resident."""
    if memory == "offload":
        return NUM_SLOTS * block_bytes
    if memory == "sharded":
        return -(-num_blocks * block_bytes // count) + GATHERED_BLOCKS * block_bytes
    return num_blocks * block_bytes


def free_bytes(device: torch.device) -> int | None:
    """Free bytes of a GPU, including what torch has reserved but not used. None on other devices."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def host_bytes() -> int | None:
    """Host memory that is available; None where the system does not tell."""
    info = Path("/proc/meminfo")
    lines = info.read_text(encoding="ascii").splitlines() if info.exists() else []
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
    return found[0] if found else None


def host_share(host: int | None, num_processes: int) -> int | None:
    """Host memory for the offloaded weights of each process."""
    return None if host is None else max(0, host // num_processes - PROCESS_BYTES)


def blocks_beyond_host(block_bytes: int, num_blocks: int, host: int | None) -> int:
    """Blocks that `host` bytes cannot hold, so that they must stay on the device. Pinned memory is rounded up to a power of two."""
    if host is None or block_bytes == 0:
        return 0
    return max(0, num_blocks - host // (1 << (block_bytes - 1).bit_length()))


def settle_memory(
    memory: str, free: int | None, block_bytes: int, num_blocks: int, rest_bytes: int, room_bytes: int, host: int | None = None
) -> tuple[str, int]:
    """resident or offload, and how many blocks stay on the device. `host`: bytes of host memory for weights, None if not known.
    `room_bytes`: those to leave free for the work (engine/working.py).

    `auto`: resident if blocks, other weights and the room fit; else offload, with as many blocks on the device as leave
    MIN_FREE_BYTES free. An explicit offload keeps only the blocks on the device that the host cannot hold.
    """
    least = blocks_beyond_host(block_bytes, num_blocks, host)
    if memory == "offload":
        return "offload", least
    if memory == "resident" or free is None or free >= num_blocks * block_bytes + rest_bytes + room_bytes:
        return "resident", num_blocks
    spare = free - blocks_on_device("offload", block_bytes, num_blocks) - rest_bytes - max(room_bytes, MIN_FREE_BYTES)
    return "offload", max(least, min(num_blocks, spare // block_bytes))
