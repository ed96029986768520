"""Clothes are the torso's own surface beyond a neckline, a little thicker and woven. Places are on the shared mesh at rest.

Axes: P places.
"""

from __future__ import annotations

import torch
from torch import Tensor

from livetalk_core.talker.heads.noise import layers, noise
from livetalk_core.talker.heads.person import Person
from livetalk_core.talker.heads.skin import skin_block
from livetalk_core.talker.heads.zones import step

THICK = {"tee": 0.05, "vneck": 0.05, "shirt": 0.07, "turtleneck": 0.07, "jacket": 0.10}


def below_neckline(places_P3: Tensor, kind: str) -> Tensor:
    """Decimeters into the cloth; negative on bare skin."""
    x, y, z = places_P3[:, 0].abs(), places_P3[:, 1], places_P3[:, 2]
    front = step(z, 0.0, 0.8)
    if kind == "turtleneck":
        return 6.12 - 0.10 * front - y
    ring = 5.86 - 0.30 * front + 0.10 * step(x, 0.2, 0.7)
    if kind == "tee":
        return ring - y
    if kind == "vneck":
        return ring - 0.62 * front * (1 - x / 0.62).clamp(min=0) - y
    return 6.00 - 0.18 * front - 0.75 * front * (1 - x / 0.34).clamp(min=0) - y


def lapel(places_P3: Tensor) -> Tensor:
    """Of a jacket: positive on it, negative on the shirt in its V."""
    x, y, z = places_P3[:, 0].abs(), places_P3[:, 1], places_P3[:, 2]
    return torch.where(z > 0.1, x - 0.62 * ((y - 4.2) / 1.7).clamp(0, 1.2), x + 1)


def cloth_color(places_P3: Tensor, person: Person) -> Tensor:
    """[P, 3] linear."""
    into = below_neckline(places_P3, person.clothes)
    main, accent = torch.tensor(person.cloth), torch.tensor(person.accent)
    color = main.expand(len(places_P3), 3)
    if person.clothes == "jacket":
        on = step(lapel(places_P3), -0.01, 0.01)[:, None]
        edge = 1 - 0.45 * torch.exp(-((lapel(places_P3) / 0.02) ** 2))[:, None]
        color = (accent * (1 - on) + main * on) * edge
    hem = (
        1 - 0.25 * torch.exp(-(((into - 0.11) / 0.012) ** 2)) * (places_P3[:, 0].abs() < 0.95)
        if person.clothes in ("tee", "vneck")
        else torch.ones_like(into)
    )
    if person.clothes == "shirt":
        hem = 1 - 0.4 * torch.exp(-(((places_P3[:, 0] - 0.03) / 0.010) ** 2)) * (places_P3[:, 2] > 0.2)
    return color * hem[:, None] * weave(places_P3)


def weave(places_P3: Tensor) -> Tensor:
    """[P, 1] about 1: threads, and wear."""
    block = skin_block()
    return 1 + 0.06 * noise(block, places_P3, 60.0, 4)[:, :1] + 0.05 * noise(block, places_P3, 8.0, 1)[:, 1:2]


def fold_slope(places_P3: Tensor) -> Tensor:
    """[P, 3]: folds of the cloth."""
    block = skin_block()
    stretched = places_P3 * torch.tensor((1.0, 0.45, 1.0))
    return 0.20 * layers(block, stretched, 1.6, 2) + 0.05 * noise(block, places_P3, 45.0, 2)
