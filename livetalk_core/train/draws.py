"""All chance in training, as a function of where it is drawn: (seed, step, what for, which sample of the batch).

So a run that stops and goes on draws the same, and so do one process with two samples and two processes with one each.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Draws:
    """The chance of one sample of one step, or of one step for all processes."""

    where: str

    @classmethod
    def of(cls, *where: object) -> Draws:
        return cls(where="/".join(map(str, where)))

    def at(self, *where: object) -> Draws:
        """Another, independent place under this one."""
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
        """Standard normal, float32, of a tensor's shape, drawn on its device."""
        generator = torch.Generator(device=like.device).manual_seed(self.seed(name))
        return torch.randn(like.shape, generator=generator, device=like.device)

    def source(self, name: str) -> random.Random:
        return random.Random(f"{self.where}/{name}")


def shifted(u: float, shift: float) -> float:
    """Flow time shift u / (1 + (shift - 1) u)."""
    return shift * u / (1 + (shift - 1) * u)
