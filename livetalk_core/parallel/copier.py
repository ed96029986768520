"""Copies weights from host memory to a device: at once, or on a CUDA stream of their own while blocks run."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Copier(Protocol):
    """Copies weights to the device. An event is a point in the device's work that a copy can wait for, as in CUDA."""

    def host_memory(self, num_bytes: int) -> Tensor: ...

    def device_memory(self, num_bytes: int) -> Tensor: ...

    def record(self) -> object:
        """An event after all work queued so far."""
        ...

    def start(self, target: Tensor, source: Tensor, free: object) -> object:
        """Start a copy after event `free`. Returns an event after the copy."""
        ...

    def wait(self, event: object) -> None:
        """Work queued from now on runs after the copy with this event."""
        ...


class BlockingCopier:
    """Blocking copies, as on a CPU."""

    def __init__(self, device: torch.device):
        self.device = device

    def host_memory(self, num_bytes: int) -> Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8)

    def device_memory(self, num_bytes: int) -> Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8, device=self.device)

    def record(self) -> None:
        return None

    def start(self, target: Tensor, source: Tensor, free: object) -> None:
        target.copy_(source)

    def wait(self, event: object) -> None:
        return None


class StreamCopier:
    """Copies from pinned memory on a separate CUDA stream. Streams wait for each other by events; the host never waits.

    torch rounds pinned memory up to a power of two: 1 GiB per block at 14B, 40 GiB in all.
    """

    def __init__(self, device: torch.device):
        self.device, self.stream = device, torch.cuda.Stream(device)

    def host_memory(self, num_bytes: int) -> Tensor:
        try:
            return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)
        except RuntimeError as error:
            size = f"{num_bytes / 2**30:.1f} GiB"
            raise ValueError(
                f"memory='offload' cannot pin host memory for a block ({size}); close other programs, or split the model "
                "over several GPUs with memory='sharded'"
            ) from error

    def device_memory(self, num_bytes: int) -> Tensor:
        memory = torch.empty(num_bytes, dtype=torch.uint8, device=self.device)
        memory.record_stream(self.stream)  # if freed during a copy, it must not be reused before the copy ends
        return memory

    def record(self) -> torch.cuda.Event:
        return torch.cuda.current_stream(self.device).record_event()

    def start(self, target: Tensor, source: Tensor, free: torch.cuda.Event) -> torch.cuda.Event:
        self.stream.wait_event(free)
        with torch.cuda.stream(self.stream):
            target.copy_(source, non_blocking=True)
        return self.stream.record_event()

    def wait(self, filled: torch.cuda.Event) -> None:
        torch.cuda.current_stream(self.device).wait_event(filled)
