"""What is behind the person, out of focus: painted walls, rooms, windows, leaves, streets; made of shapes and blur.

Axes: H W the picture, linear RGB.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from livetalk_core.talker.heads.light import blur
from livetalk_core.talker.heads.noise import layers
from livetalk_core.talker.heads.scene import Scene
from livetalk_core.talker.heads.skin import skin_block

WALLS = (
    (0.55, 0.53, 0.50),
    (0.30, 0.33, 0.36),
    (0.12, 0.13, 0.15),
    (0.42, 0.36, 0.29),
    (0.20, 0.26, 0.30),
    (0.62, 0.60, 0.60),
    (0.05, 0.05, 0.06),
)


def paint_backdrop(scene: Scene, size: int) -> Tensor:
    """[3, size, size]."""
    rng = np.random.default_rng([scene.seed, 606])
    image = PAINTERS[scene.backdrop](rng, size)
    light = torch.tensor(scene.around).mean(0) + 0.35 * torch.tensor(scene.key)
    light = light / light.mean() * (0.35 + 0.9 * scene.backdrop_light)
    return (image * light[:, None, None]).clamp(min=0.002)


def grid(size: int) -> tuple[Tensor, Tensor]:
    """x, y in 0 to 1, both [size, size]."""
    line = (torch.arange(size) + 0.5) / size
    return line[None].expand(size, size), line[:, None].expand(size, size)


def plain(rng: np.random.Generator, size: int) -> Tensor:
    """A painted wall or a paper roll, with the light's fall on it and a little mottle."""
    x, y = grid(size)
    color = torch.tensor(WALLS[int(rng.integers(len(WALLS)))]) * torch.as_tensor(rng.uniform(0.75, 1.25, 3)).float()
    cx, cy = rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.7)
    fall = torch.exp(-((x - cx) ** 2 + (y - cy) ** 2) / rng.uniform(0.25, 1.2))
    places = torch.stack([x.reshape(-1) * 3, y.reshape(-1) * 3, torch.full((size * size,), float(rng.uniform(0, 40)))], 1)
    mottle = layers(skin_block(), places, 1.0, 4)[:, 0].view(size, size)
    return color[:, None, None] * (0.45 + 0.7 * fall + 0.05 * float(rng.random()) * mottle)


def disks(
    rng: np.random.Generator, size: int, image: Tensor, count: int, colors: np.ndarray, radius: tuple[float, float], power: float
) -> Tensor:
    """Adds lights out of focus."""
    x, y = grid(size)
    for _ in range(count):
        cx, cy, r = rng.uniform(-0.05, 1.05), rng.uniform(-0.05, 1.05), rng.uniform(*radius)
        far = torch.hypot(x - cx, y - cy) / r
        disk = ((1.0 - far) / 0.12).clamp(0, 1) * (0.75 + 0.35 * far**3)
        image = image + power * rng.beta(1.2, 3) * disk * torch.as_tensor(colors[int(rng.integers(len(colors)))]).float()[:, None, None]
    return image


def bokeh(rng: np.random.Generator, size: int) -> Tensor:
    dark = plain(rng, size) * 0.35
    colors = rng.uniform(0.25, 1.0, (5, 3)) ** 1.5 * [1.15, 1.0, 0.8]
    return blur(disks(rng, size, dark, int(rng.integers(15, 50)), colors, (0.02, 0.09), 1.1)[None], size / 180)[0]


def foliage(rng: np.random.Generator, size: int) -> Tensor:
    """Leaves and sky through them."""
    x, y = grid(size)
    places = torch.stack([x.reshape(-1) * 3, y.reshape(-1) * 3, torch.full((size * size,), float(rng.uniform(0, 40)))], 1)
    wave = layers(skin_block(), places, 1.6, 5)
    green = torch.tensor((0.10, 0.17, 0.045)) * torch.as_tensor(rng.uniform(0.6, 1.3, 3)).float()
    image = (green * torch.exp(0.75 * wave[:, :1]) + 0.05 * wave[:, 1:2].clamp(min=0)).T.reshape(3, size, size)
    sky = (wave[:, 2].view(size, size) + 1.2 * (0.45 - y)).clamp(0, 1) * float(rng.uniform(0.2, 1.0))
    image = image * (1 - sky) + torch.tensor((0.75, 0.85, 1.0))[:, None, None] * sky
    image = disks(
        rng, size, image, int(rng.integers(20, 60)), np.array([[0.5, 0.7, 0.25], [0.8, 0.85, 0.6], [0.25, 0.4, 0.12]]), (0.012, 0.05), 0.6
    )
    return blur(image[None], size / rng.uniform(60, 120))[0]


def boxes(rng: np.random.Generator, size: int, image: Tensor, count: int, spread: float) -> Tensor:
    """Furniture, pictures, doors: rectangles."""
    x, y = grid(size)
    for _ in range(count):
        cx, cy, w, h = rng.uniform(0, 1), rng.uniform(0.05, 0.95), rng.uniform(0.03, 0.2), rng.uniform(0.04, 0.35)
        inside = ((x - cx).abs() < w) & ((y - cy).abs() < h)
        color = torch.as_tensor(np.clip(rng.beta(1.3, 2.5) * (1 + spread * (rng.random(3) - 0.5)), 0.01, 0.9)).float()
        image = torch.where(inside, color[:, None, None] * (0.8 + 0.4 * (x - cx + 0.5)), image)
    return image


def room(rng: np.random.Generator, size: int) -> Tensor:
    image = boxes(rng, size, plain(rng, size), int(rng.integers(3, 14)), 0.35)
    if rng.random() < 0.4:
        image = disks(rng, size, image, int(rng.integers(1, 4)), np.array([[1.6, 1.25, 0.8]]), (0.04, 0.09), 2.0)
    return blur(image[None], size / rng.uniform(25, 70))[0]


def window(rng: np.random.Generator, size: int) -> Tensor:
    """A bright window with bars beside a dark wall."""
    x, y = grid(size)
    outside = foliage(rng, size) * 2.2 + 0.35
    left, wide = rng.uniform(-0.2, 0.7), rng.uniform(0.3, 0.6)
    frame = (x > left) & (x < left + wide) & (y < rng.uniform(0.6, 1.0))
    bars = (torch.remainder((x - left) / wide * rng.integers(1, 4), 1.0) < 0.06) | (torch.remainder(y * rng.uniform(1, 3), 1.0) < 0.05)
    return blur(torch.where(frame & ~bars, outside, plain(rng, size) * 0.7)[None], size / rng.uniform(40, 90))[0]


def street(rng: np.random.Generator, size: int) -> Tensor:
    x, y = grid(size)
    image = torch.tensor((0.55, 0.65, 0.8))[:, None, None] * (1.1 - 0.5 * y)
    image = boxes(rng, size, image, int(rng.integers(8, 20)), 0.3)
    ground = torch.tensor((0.22, 0.21, 0.20))[:, None, None].expand(3, size, size)
    image = torch.where(y > rng.uniform(0.65, 0.9), ground, image)
    image = disks(
        rng, size, image, int(rng.integers(3, 15)), np.array([[1.0, 0.7, 0.4], [1.0, 0.3, 0.2], [0.9, 0.95, 1.0]]), (0.015, 0.04), 1.2
    )
    return blur(image[None], size / rng.uniform(35, 80))[0]


PAINTERS = {"plain": plain, "bokeh": bokeh, "room": room, "window": window, "foliage": foliage, "street": street}
