"""Short hairs that ride on the moving skin: brows, beards and lashes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from livetalk_core.talker.heads import zones
from livetalk_core.talker.heads.anatomy import Anatomy
from livetalk_core.talker.heads.person import Person
from livetalk_core.talker.heads.strands import Ribbons, Roots, clumps, scatter_roots, tint

BEARD_LENGTH = {"short": 0.09, "full": 0.30, "moustache": 0.11, "goatee": 0.16}


def grow_brows(anatomy: Anatomy, points_N3: Tensor, person: Person) -> Ribbons:
    """Hairs that lie flat, upward at the inner end and outward farther out."""
    roots = scatter_roots(anatomy, points_N3, 800, lambda places: zones.brow(places, person.brow), person.seed + 11)
    x, side = roots.base_R3[:, 0].abs(), torch.sign(roots.base_R3[:, 0])
    up = (
        0.75 * zones.step(x, 0.34, 0.12)
        - 0.25 * zones.step(x, 0.45, 0.62)
        - 1.6 * (roots.base_R3[:, 1] - zones.curve_at(x, zones.BROW_LINE)) * 4
    )
    heading = torch.stack([side, up, torch.zeros_like(up)], 1)
    length = 0.062 * (0.6 + 0.5 * person.brow)
    return lie(roots, heading, length, 0.0042 + 0.0022 * person.brow, person, person.seed + 12, lift=0.10)


def grow_beard(anatomy: Anatomy, points_N3: Tensor, person: Person) -> list[Ribbons]:
    """Nothing for a shaven face or mere stubble, which is paint."""
    if person.beard not in BEARD_LENGTH:
        return []
    zone = {"moustache": zones.moustache, "goatee": zones.goatee}.get(person.beard, zones.beard)
    count = {"moustache": 900, "goatee": 1100}.get(person.beard, 3600)
    roots = scatter_roots(anatomy, points_N3, count, zone, person.seed + 21)
    side, x = torch.sign(roots.base_R3[:, 0]), roots.base_R3[:, 0].abs()
    above = zones.step(roots.base_R3[:, 1], 6.58, 6.66) * zones.step(x, 0.40, 0.3)
    heading = torch.stack([side * (0.15 + 0.75 * above), -1 + 0.62 * above, 0.1 + 0 * x], 1)
    length = BEARD_LENGTH[person.beard] * (0.55 if person.beard == "full" else 1.0) * torch.where(above > 0.5, 0.42, 1.0)
    if person.beard == "full":
        length = length * (1 + 1.1 * zones.step(roots.base_R3[:, 1], 6.6, 6.25))
    return [lie(roots, heading, length, 0.012, person, person.seed + 22, lift=0.45)]


def lie(roots: Roots, heading: Tensor, length: Tensor | float, width: float, person: Person, seed: int, lift: float) -> Ribbons:
    """Short ribbons along the skin."""
    steps = 3
    random = torch.randn(len(roots), 3, generator=torch.Generator().manual_seed(seed))
    along = heading - (heading * roots.out_R3).sum(1, keepdim=True) * roots.out_R3
    way = normalize(normalize(along, dim=1) + lift * roots.out_R3 + 0.16 * random + 0.22 * clumps(roots, 9.0, seed), dim=1)
    long_R = length * torch.exp(0.2 * random[:, 0])
    part = torch.linspace(0, 1, steps + 1)
    sag = torch.tensor((0.0, -0.25, 0.0)) * lift
    path = (
        roots.at_R3[:, None]
        + (way[:, None] + sag * part[None, :, None]) * (long_R[:, None] * part)[:, :, None]
        + 0.006 * roots.out_R3[:, None]
    )
    dark = torch.tensor(person.hair)
    gray = dark * (0.45 + 0.55 / (1 + 4 * dark.max()))
    return Ribbons(
        roots=roots, path_RS3=path, width_RS=(width * (1 - 0.7 * part**2)).expand(len(roots), -1),
        color_R3=tint(roots, tuple(gray.tolist()), seed), shade_RS=(0.7 + 0.3 * part).expand(len(roots), -1), follows=True,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Lashes:
    """Triangles at rest: each corner follows one point of the lids."""

    corners_L33: Tensor
    bind_L: Tensor
    tip_follow: float = 1.5
    """A tip goes this much farther than its root: lashes turn down with the lid."""


def grow_lashes(anatomy: Anatomy, points_N3: Tensor, person: Person) -> Lashes:
    """Single lashes on the lids' edges, longest on the upper lid's outer half, and the dark line at their roots."""
    rng = np.random.default_rng([person.seed, 61])
    roots, upper = lash_roots(anatomy)
    corners, bind = [], []
    strength = 0.62 + 0.33 * person.makeup + 0.22 * (1 - person.masculine)
    for point, is_upper in zip(np.repeat(roots, 1 + 2 * upper), np.repeat(upper, 1 + 2 * upper), strict=True):
        at = points_N3[point].numpy() + rng.normal(0, 0.006, 3) * [1, 0.3, 0.3]
        side, x = np.sign(at[0]), abs(float(anatomy.points_N3[point, 0]))
        out = np.clip((x - 0.31) / 0.14, -1, 1)
        length = strength * (0.062 + 0.022 * out if is_upper else 0.030) * rng.uniform(0.75, 1.15)
        way = np.array([side * (0.55 * out + rng.normal(0, 0.15)), 0.55 if is_upper else -0.6, 0.75])
        tip = at + length * way / np.linalg.norm(way)
        width = (0.008 if is_upper else 0.004) * strength
        corners.append([at - [width / 2, 0, 0], at + [width / 2, 0, 0], tip])
        bind.append(point)
    return Lashes(
        corners_L33=torch.tensor(np.asarray(corners), dtype=torch.float32), bind_L=torch.tensor(np.asarray(bind), dtype=torch.long)
    )


def lash_roots(anatomy: Anatomy) -> tuple[np.ndarray, np.ndarray]:
    """(points of the strips' middle rows, which lie on the lids' edges; whether each is on an upper lid)."""
    quads = anatomy.faces_F4[anatomy.faces_of("lashes")]
    edges = np.sort(np.stack([quads, np.roll(quads, -1, 1)], -1).reshape(-1, 2), 1)
    kinds, count = np.unique(edges, axis=0, return_counts=True)
    inner = np.setdiff1d(np.unique(quads), np.unique(kinds[count == 1]))
    return inner, anatomy.points_N3[inner, 1] > 7.272
