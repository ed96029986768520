"""Sound on its way from a client to the engine: bounded, so that a client which is far ahead is read no further."""

from __future__ import annotations

import asyncio

import numpy as np
import torch
from torch import Tensor

SAMPLE_BYTES = 4


class SoundQueue:
    """float32 samples in order. `most`: how many may wait."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.data = bytearray()
        self.ended = False
        self.changed = asyncio.Condition()

    def __len__(self) -> int:
        return len(self.data) // SAMPLE_BYTES

    async def put(self, samples_N: np.ndarray) -> None:
        """Add sound, as soon as there is room for it, or nothing else waits."""
        async with self.changed:
            await self.changed.wait_for(lambda: not self.data or len(self) + len(samples_N) <= self.most)
            self.data += samples_N.astype(np.float32).tobytes()
            self.changed.notify_all()

    async def end(self) -> None:
        """No more sound will come."""
        async with self.changed:
            self.ended = True
            self.changed.notify_all()

    async def take(self, most: int) -> Tensor | None:
        """Up to `most` samples [N], as soon as there are any; None at the end."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.data or self.ended)
            if not self.data:
                return None
            taken = self.data[: most * SAMPLE_BYTES]
            del self.data[: most * SAMPLE_BYTES]
            self.changed.notify_all()
            return torch.frombuffer(taken, dtype=torch.float32)
