"""What a measurement ran on: device, torch, threads, memory."""

from __future__ import annotations

import os
import platform
import resource
from pathlib import Path

import torch

from livetalk_core.parallel.memory import host_bytes


def describe_machine(device: torch.device) -> dict[str, str | int | float | None]:
    """Device, its memory, torch, threads, and the load of other work on the machine."""
    return {
        "device": device_name(device),
        "device_type": device.type,
        "memory_gb": total_bytes(device) / 1e9,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()} ({device.type})"


def total_bytes(device: torch.device) -> int:
    """Memory of the device on CUDA, of the machine elsewhere."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def reset_peak(device: torch.device) -> None:
    """Start the peak anew. Only CUDA can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_mb(device: torch.device) -> float:
    """On CUDA the device's peak since `reset_peak`; elsewhere this process's peak since its start."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def free_bytes(device: torch.device) -> int:
    """Free memory of the device on CUDA, of the machine elsewhere."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    host = host_bytes()
    return total_bytes(device) if host is None else host
