"""Copies finished frames from the device to the host while the device continues."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class HostCopy:
    """Copies one stream's frames to the host. On CUDA the host should be one piece ahead: it starts a copy, launches the next piece's
    work, and only then waits for the copy. Elsewhere work is synchronous, and a finished piece should be returned before the next."""

    def __init__(self, device: torch.device):
        self.copies = torch.cuda.Stream(device) if device.type == "cuda" else None

    @property
    def pieces_ahead(self) -> int:
        """How many pieces to launch before waiting for one."""
        return 0 if self.copies is None else 1

    def send(self, frames: Tensor) -> Callable[[], Tensor]:
        """Start copying frames to the host; the returned function waits for them and returns them."""
        if self.copies is None:
            on_host = frames.cpu()
            return lambda: on_host
        return self.copy_beside(frames)

    def copy_beside(self, frames: Tensor) -> Callable[[], Tensor]:
        """Copy on a separate CUDA stream into pinned memory: later work does not wait for the copy, nor the copy for it."""
        on_host = torch.empty(frames.shape, dtype=frames.dtype, pin_memory=True)
        self.copies.wait_stream(torch.cuda.current_stream(frames.device))  # the frames are complete before they are copied
        with torch.cuda.stream(self.copies):
            on_host.copy_(frames, non_blocking=True)
        frames.record_stream(self.copies)  # their memory is not reused before the copy
        copied = self.copies.record_event()

        def arrive() -> Tensor:
            copied.synchronize()
            return on_host

        return arrive
