"""Finished frames on their way from the device to the host, while the device goes on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class HostCopy:
    """The way out of one stream's frames. On CUDA the host should be one piece ahead: it asks for a copy, launches the next piece's
    work, and only then waits for the copy; elsewhere work is done at once, and a piece that is ready should leave before the next."""

    def __init__(self, device: torch.device):
        self.copies = torch.cuda.Stream(device) if device.type == "cuda" else None

    @property
    def pieces_ahead(self) -> int:
        """How many pieces are to be launched before one is waited for."""
        return 0 if self.copies is None else 1

    def send(self, frames: Tensor) -> Callable[[], Tensor]:
        """Start to bring frames to the host; the call that is returned waits until they are there, and gives them."""
        if self.copies is None:
            on_host = frames.cpu()
            return lambda: on_host
        return self.copy_beside(frames)

    def copy_beside(self, frames: Tensor) -> Callable[[], Tensor]:
        """On a stream of its own, into pinned memory: work launched after this call does not wait for the copy, nor the copy for it."""
        on_host = torch.empty(frames.shape, dtype=frames.dtype, pin_memory=True)
        self.copies.wait_stream(torch.cuda.current_stream(frames.device))  # the frames are complete before they are copied
        with torch.cuda.stream(self.copies):
            on_host.copy_(frames, non_blocking=True)
        frames.record_stream(self.copies)  # their memory is not used again before they are copied
        copied = self.copies.record_event()

        def arrive() -> Tensor:
            copied.synchronize()
            return on_host

        return arrive
