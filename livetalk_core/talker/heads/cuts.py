"""Hair cuts: how the ribbons of each are combed. Lengths in decimeters; x is the picture's right, y up, z to the camera."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from livetalk_core.talker.heads import zones
from livetalk_core.talker.heads.anatomy import Anatomy
from livetalk_core.talker.heads.person import Person
from livetalk_core.talker.heads.strands import Ribbons, Roots, Solid, clumps, make_solid, scatter_roots, tint

DOWN = torch.tensor((0.0, -1.0, 0.0))
KNOT = torch.tensor((0.0, 8.22, -0.42))


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What tells one cut from another."""

    count: int
    length: float
    """On top; `sides` is its share at the sides and back."""
    sides: float = 1.0
    width: float = 0.022
    stiff: float = 0.5
    """How long a hair keeps the direction it grew in."""
    lift: float = 0.2
    """How far it stands off at the root."""
    comb: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Where the top is combed to; x is turned to the side of the parting."""
    parted: float = 0.0
    """How far the hair falls away from a parting."""
    weight: float = 0.5
    """How strongly it falls."""
    wave: float = 0.0
    curl: float = 0.0
    off: float = 0.05
    """Thickness of the whole hair."""
    slack: float = 0.05
    """How far it may stand off beyond that."""
    gathered: bool = False
    """Combed to the knot at the crown."""
    steps: int = 9


CUTS = {
    "buzz": Cut(count=5200, length=0.07, width=0.014, lift=0.9, weight=0.1, stiff=1.0, off=0.0, steps=3),
    "crop": Cut(count=3600, length=0.34, sides=0.5, lift=0.45, comb=(0.25, 0.1, 0.9), weight=0.3, off=0.05, steps=5),
    "side": Cut(count=3000, length=0.75, sides=0.32, lift=0.4, comb=(1.1, 0.25, 0.1), weight=0.35, off=0.09, slack=0.12, steps=7),
    "swept": Cut(count=3000, length=0.95, sides=0.35, lift=0.35, comb=(0.25, 0.35, -1.0), weight=0.28, off=0.12, slack=0.22, steps=8),
    "receding": Cut(count=2600, length=0.26, sides=0.8, lift=0.3, comb=(0.2, 0.0, 0.4), weight=0.45, off=0.03, steps=4),
    "bob": Cut(count=3000, length=2.0, sides=0.72, width=0.040, lift=0.15, parted=1.0, weight=0.85, off=0.14, steps=14),
    "long": Cut(count=3000, length=4.2, sides=0.85, width=0.042, lift=0.15, parted=1.0, weight=0.85, off=0.13, steps=15),
    "wavy": Cut(count=3000, length=3.6, sides=0.85, width=0.042, lift=0.2, parted=1.0, weight=0.8, wave=0.11, off=0.17, steps=16),
    "bun": Cut(
        count=3600, length=1.7, sides=0.8, width=0.026, lift=0.0, stiff=0.1, weight=0.0, off=0.03, slack=0.01, gathered=True, steps=12
    ),
    "curls": Cut(
        count=3400,
        length=0.95,
        sides=0.8,
        width=0.030,
        lift=0.8,
        comb=(0.0, 0.6, -0.7),
        weight=0.12,
        curl=0.10,
        off=0.14,
        slack=0.3,
        steps=14,
    ),
}


def grow_hair(anatomy: Anatomy, points_N3: Tensor, person: Person) -> list[Ribbons]:
    """The hair of the head; nothing for the bald."""
    if person.hair_cut == "bald":
        return []
    cut = CUTS[person.hair_cut]
    receding = 1.0 if person.hair_cut == "receding" else 0.0
    rng = np.random.default_rng([person.seed, 41])

    def weigh(places_P3: Tensor) -> Tensor:
        lowest = 7.0 if cut.gathered else 6.4
        return zones.step(zones.above_hairline(places_P3, person.hairline, receding), -1.5, 5.0) * (places_P3[:, 1] > lowest)

    roots = scatter_roots(anatomy, points_N3, cut.count, weigh, person.seed)
    solid = make_solid(anatomy, points_N3)
    ribbons = [comb(roots, solid, cut, person, rng)]
    return [*ribbons, knot(ribbons[0], person)] if person.hair_cut == "bun" else ribbons


def comb(roots: Roots, solid: Solid, cut: Cut, person: Person, rng: np.random.Generator) -> Ribbons:
    """Lets every ribbon grow step by step: out of the skin, along the comb, down, and never into the head."""
    side = 1.0 if rng.random() < 0.5 else -1.0
    part_x = float(rng.normal(0, 0.04)) if rng.random() < 0.45 else 0.32 * side
    base = roots.base_R3
    top = zones.step(base[:, 1], 7.55, 8.1)
    locks = clumps(roots, 5.5, person.seed)
    random = torch.randn(len(roots), 3, generator=torch.Generator().manual_seed(person.seed + 1))
    length_R = cut.length * (cut.sides + (1 - cut.sides) * top) * torch.exp(0.14 * random[:, 0] + 0.12 * locks[:, 0])
    if cut.length > 1.5:
        length_R = length_R * (0.62 + 0.38 * torch.rand(len(roots), generator=torch.Generator().manual_seed(person.seed + 2)))
    flow = flow_field(roots, cut, top, side, part_x)
    falls_R = fringe_share(roots, cut, person)
    flow = torch.where(falls_R[:, None], torch.tensor((0.10 * side, -0.55, 0.85)), flow)
    length_R = torch.where(
        falls_R, (0.42 + 0.20 * person.fringe) * torch.exp(0.07 * random[:, 0]) + 0.8 * (8.05 - base[:, 1]).abs(), length_R
    )
    heading = normalize(flow + cut.lift * roots.out_R3 + 0.10 * random + 0.16 * locks, dim=1)
    off_R = cut.off * (0.15 + 0.85 * torch.rand(len(roots), generator=torch.Generator().manual_seed(person.seed + 3)))
    at, path = roots.at_R3, [roots.at_R3]
    step_R1 = (length_R / cut.steps)[:, None]
    for k in range(1, cut.steps + 1):
        part = k / cut.steps
        fall = cut.weight * (0.25 + 0.75 * part)
        heading = normalize((1 - 0.45 * (1 - cut.stiff)) * heading + 0.45 * (1 - cut.stiff) * flow * (1 - part) + 0.5 * fall * DOWN, dim=1)
        flow = normalize(KNOT - at, dim=1) if cut.gathered else flow
        moved = solid.hold(at + heading * step_R1, off_R * min(1.0, 2.5 * part), cut.slack)
        moved = torch.where(falls_R[:, None], moved, out_of_face(moved, cut))
        heading = normalize(moved - at, dim=1)
        at = moved
        path.append(at)
    path_RS3 = bend(torch.stack(path, 1), roots, cut, person, (~falls_R).float())
    along = torch.linspace(0, 1, cut.steps + 1)
    width = cut.width * (0.8 + 0.35 * random[:, 1:2].abs()) * (1 - 0.6 * along**4)
    depth = (off_R / max(cut.off, 1e-3))[:, None].clamp(0, 1)
    shade = (0.45 + 0.55 * depth) * (0.62 + 0.38 * zones.step(along, 0.0, 0.45))
    return Ribbons(
        roots=roots, path_RS3=path_RS3, width_RS=width, color_R3=tint(roots, person.hair, person.seed), shade_RS=shade, follows=False
    )


def fringe_share(roots: Roots, cut: Cut, person: Person) -> Tensor:
    """bool [R]: the hairs that fall over the forehead."""
    if not person.fringe or not cut.parted:
        return torch.zeros(len(roots), dtype=torch.bool)
    x, y, z = roots.base_R3.unbind(1)
    return (x.abs() < 0.50) & (z > 0.55) & (y > 7.6)


def flow_field(roots: Roots, cut: Cut, top: Tensor, side: float, part_x: float) -> Tensor:
    """Where each ribbon is combed to, along the skin."""
    base = roots.base_R3
    comb_to = torch.tensor((cut.comb[0] * side, cut.comb[1], cut.comb[2]))
    sideways = torch.zeros_like(base)
    sideways[:, 0] = torch.sign(base[:, 0] - part_x) * 1.0
    sideways[:, 2] = -0.30 - 0.25 * zones.step(base[:, 2], 0.6, 1.3)
    back = zones.step(base[:, 2], 0.1, -0.5)[:, None]
    flow = comb_to * top[:, None] + cut.parted * sideways * (1 - back) + cut.parted * back * torch.tensor((0, -0.5, -0.6))
    flow = flow + (1 - top[:, None]) * torch.tensor((0.0, -0.9, -0.25))
    along = flow - (flow * roots.out_R3).sum(1, keepdim=True) * roots.out_R3
    return normalize(along + 1e-4, dim=1) * (flow.norm(dim=1, keepdim=True) > 0.05)


def out_of_face(places_R3: Tensor, cut: Cut) -> Tensor:
    """Long hair parts before the face."""
    if cut.length < 1.5:
        return places_R3
    x, y, z = places_R3.unbind(1)
    before = zones.step(z, 0.55, 0.95) * zones.step(y, 8.0, 7.6)
    least = 0.70 + 0.05 * zones.step(y, 7.0, 6.2)
    pushed = torch.where(x.abs() < least, torch.sign(x) * (x.abs() + (least - x.abs()) * 0.55 * before), x)
    return torch.stack([pushed, y, z - 0.05 * before], 1)


def bend(path_RS3: Tensor, roots: Roots, cut: Cut, person: Person, share_R: Tensor) -> Tensor:
    """Waves in locks, curls one by one; `share` of it for each ribbon."""
    steps = path_RS3.shape[1]
    along = torch.linspace(0, 1, steps)
    locks = clumps(roots, 4.0, person.seed + 9)
    if cut.wave:
        phase = 2 * torch.pi * (2.6 * along[None] * (1 + 0.15 * locks[:, 2:]) + 0.5 * locks[:, :1])
        sway = torch.stack([phase.sin(), 0 * phase, (phase + 1.3).cos()], -1) * cut.wave * zones.step(along, 0.15, 0.5)[None, :, None]
        return path_RS3 + sway * share_R[:, None, None]
    if cut.curl:
        random = torch.rand(len(roots), 2, generator=torch.Generator().manual_seed(person.seed + 4))
        phase = 2 * torch.pi * (2.4 * along[None] * (0.8 + 0.5 * random[:, 1:]) + random[:, :1] + 0.3 * locks[:, :1])
        ring = torch.stack([phase.sin(), phase.cos(), (phase + 0.8).sin()], -1) * cut.curl * zones.step(along, 0.0, 0.35)[None, :, None]
        return path_RS3 + ring
    return path_RS3


def knot(hair: Ribbons, person: Person) -> Ribbons:
    """A bun at the back of the crown: ribbons wound about a ball."""
    count, steps = 500, 12
    rng = torch.Generator().manual_seed(person.seed + 6)
    center = KNOT
    turn, tilt, start = torch.rand(3, count, generator=rng)
    along = torch.linspace(0, 1, steps)
    angle = 2 * torch.pi * (start[:, None] + 0.6 * along)
    radius = 0.34 * (0.75 + 0.25 * torch.rand(count, 1, generator=rng))
    ring = torch.stack([angle.cos(), angle.sin(), 0 * angle], -1)
    lean = 1.3 * (tilt[:, None] - 0.5)
    spin = 2 * torch.pi * turn[:, None]
    y, z = ring[..., 1] * lean.cos(), ring[..., 1] * lean.sin() + 0.25 * (tilt[:, None] - 0.5)
    x, z = ring[..., 0] * (0.3 * spin).cos() + z * (0.3 * spin).sin(), z * (0.3 * spin).cos() - ring[..., 0] * (0.3 * spin).sin()
    path = center + radius[..., None] * torch.stack([x, y, z], -1)
    roots = hair.roots.only(torch.randint(len(hair.roots), (count,), generator=rng))
    return Ribbons(
        roots=roots, path_RS3=path, width_RS=torch.full((count, steps), 0.03), color_R3=tint(roots, person.hair, person.seed + 8),
        shade_RS=(0.5 + 0.5 * (radius - 0.255) / 0.085).expand(count, steps), follows=False,
    )  # fmt: skip
