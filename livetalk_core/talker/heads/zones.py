"""Where things are on a face: hairline, brows, beard, cheeks; shares 0 to 1 at points of the shared mesh at rest.

All places are in decimeters of MakeHuman's base mesh. Axes: P places.
"""

from __future__ import annotations

import torch
from torch import Tensor

SKULL = (0.0, 7.55, 0.35)
HAIRLINE_DEG = (
    # around the head from the front, degrees: how high the hair begins there
    (0, 21.0), (22, 24.0), (38, 24.0), (52, 11.0), (62, -6.0), (70, -21.0), (84, -20.0), (92, 2.0), (108, 2.0), (118, -22.0), (140, -44.0),
    (180, -50.0),
)  # fmt: skip
BROW_LINE = ((0.10, 7.490), (0.22, 7.503), (0.38, 7.515), (0.50, 7.500), (0.64, 7.435))
"""The middle of the brow from its inner to its outer end: x, y."""


def step(values: Tensor, low: float, high: float) -> Tensor:
    """0 below `low`, 1 above `high`, smooth in between; falls where `low` > `high`."""
    part = ((values - low) / (high - low)).clamp(0, 1)
    return part * part * (3 - 2 * part)


def curve_at(x: Tensor, line: tuple[tuple[float, float], ...]) -> Tensor:
    """A broken line at x, held flat beyond its ends."""
    y = torch.full_like(x, line[0][1])
    for (x0, y0), (x1, y1) in zip(line[:-1], line[1:], strict=True):
        y = torch.where(x > x0, y0 + (y1 - y0) * ((x - x0) / (x1 - x0)).clamp(max=1.0), y)
    return y


def around(places_P3: Tensor) -> tuple[Tensor, Tensor]:
    """(degrees from the front, degrees up) as seen from the middle of the skull."""
    d_P3 = places_P3 - torch.tensor(SKULL, device=places_P3.device)
    flat = torch.hypot(d_P3[:, 0], d_P3[:, 2])
    return torch.rad2deg(torch.atan2(d_P3[:, 0].abs(), d_P3[:, 2])), torch.rad2deg(torch.atan2(d_P3[:, 1], flat))


def above_hairline(places_P3: Tensor, hairline: float = 0.5, receding: float = 0.0) -> Tensor:
    """Degrees above the line where hair begins; negative on the face and the neck. `receding` 1 leaves a wreath."""
    turn, up = around(places_P3)
    high = (hairline - 0.5) * 14 * step(turn, 60, 30)
    corner = 26 * receding * (step(turn, 8, 30) * step(turn, 75, 50)) + 16 * receding * step(turn, 60, 10)
    return up - curve_at(turn, HAIRLINE_DEG) - high - corner


def brow(places_P3: Tensor, thickness: float) -> Tensor:
    """`thickness` is 0 to 1."""
    x, y, z = places_P3[:, 0].abs(), places_P3[:, 1], places_P3[:, 2]
    half = (0.016 + 0.017 * thickness) * (1 - 0.6 * step(x, 0.35, 0.66))
    off = (y - curve_at(x, BROW_LINE)).abs() / half
    return step(off, 1.25, 0.5) * step(x, 0.085, 0.16) * step(x, 0.68, 0.58) * (z > 1.0)


def beard(places_P3: Tensor) -> Tensor:
    """Jaw, chin, cheeks below a line from the ear to the mouth, upper lip."""
    x, y, z = places_P3[:, 0].abs(), places_P3[:, 1], places_P3[:, 2]
    line = curve_at(x, ((0.0, 6.84), (0.16, 6.84), (0.30, 6.66), (0.50, 6.70), (0.66, 6.95), (0.74, 7.25)))
    lower = curve_at(z, ((0.2, 6.55), (0.7, 6.25), (1.1, 6.05), (1.4, 6.0)))
    return step(y - line, 0.04, -0.05) * step(y - lower, -0.08, 0.06) * step(z, 0.42, 0.62) * (1 - lip_gap_zone(places_P3))


def lip_gap_zone(places_P3: Tensor) -> Tensor:
    """The lips themselves, a little generous."""
    x, y = places_P3[:, 0].abs(), places_P3[:, 1]
    return step(((x / 0.29) ** 2 + ((y - 6.6) / 0.115) ** 2), 1.15, 0.85) * (places_P3[:, 2] > 1.2)


def moustache(places_P3: Tensor) -> Tensor:
    x, y, z = places_P3[:, 0].abs(), places_P3[:, 1], places_P3[:, 2]
    return beard(places_P3) * step(y, 6.55, 6.66) * step(x, 0.36, 0.28) * (z > 1.2)


def goatee(places_P3: Tensor) -> Tensor:
    x, y = places_P3[:, 0].abs(), places_P3[:, 1]
    chin = step(x, 0.27, 0.17) * step(y, 6.58, 6.5)
    return beard(places_P3) * torch.maximum(chin, torch.maximum(moustache(places_P3), step(x, 0.4, 0.3) * step(x, 0.22, 0.27)))


def spot(places_P3: Tensor, center: tuple[float, float, float], radius: float) -> Tensor:
    """A soft ball on both sides of the face."""
    mirrored_P3 = torch.cat([places_P3[:, :1].abs(), places_P3[:, 1:]], 1)
    distance = torch.linalg.norm(mirrored_P3 - torch.tensor(center, device=places_P3.device), dim=1)
    return torch.exp(-((distance / radius) ** 2))
