"""All random numbers in training, each a function of (seed, step, purpose, sample of the batch).

So a resumed run draws the same numbers, and two processes with one sample each draw the same as one process with two.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Random numbers for one sample of one step, or for one step on all processes."""

    where: str

    @classmethod
    def of(cls, *where: object) -> Draws:
        return cls(where="/".join(map(str, where)))

    def at(self, *where: object) -> Draws:
        """Independent random numbers under another name."""
        return Draws.of(self.where, *where)

    def number(self, name: str) -> float:
        """Uniform in [0, 1)."""
        return self.source(name).random()

    def choice(self, name: str, count: int) -> int:
        """Uniform in 0 .. count - 1."""
        return self.source(name).randrange(count)

    def seed(self, name: str) -> int:
        return self.source(name).getrandbits(62)

    def noise(self, name: str, like: Tensor) -> Tensor:
        """Standard normal float32 with the shape and device of `like`."""
        generator = torch.Generator(device=like.device).manual_seed(self.seed(name))
        return torch.randn(like.shape, generator=generator, device=like.device)

    def source(self, name: str) -> random.Random:
        return random.Random(f"{self.where}/{name}")


def shifted(u: float, shift: float) -> float:
    """Flow time shift u / (1 + (shift - 1) u)."""
    return shift * u / (1 + (shift - 1) * u)
