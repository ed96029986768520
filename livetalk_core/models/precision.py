"""Where float64 can be computed: tables that need it are made elsewhere for a device that refuses it, such as Apple's mps."""

from __future__ import annotations

import torch

FLOAT64 = {"cpu", "cuda", "meta"}
"""Device types with float64. Nothing is computed on meta; it stands in for CUDA."""


def float64_device(device: torch.device) -> torch.device:
    """The device itself, or the CPU if it has no float64."""
    return device if device.type in FLOAT64 else torch.device("cpu")


def widest_dtype(device: torch.device) -> torch.dtype:
    """float64, or float32 if the device has no float64."""
    return torch.float64 if device.type in FLOAT64 else torch.float32
