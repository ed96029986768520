"""Hair as many narrow ribbons: where each grows, how it is combed and how far it falls.

Axes: R ribbons, S places along each, N points of the face.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from livetalk_core.talker.heads import zones
from livetalk_core.talker.heads.anatomy import Anatomy
from livetalk_core.talker.heads.noise import noise
from livetalk_core.talker.heads.skin import skin_block


@dataclass(frozen=True, kw_only=True)
class Roots:
    """Where ribbons grow, on one person at rest."""

    at_R3: Tensor
    out_R3: Tensor
    """The skin's normal."""
    base_R3: Tensor
    """The same place on the shared mesh."""
    face_R: Tensor
    """Which triangle of the skin, and where on it."""
    weights_R3: Tensor

    def __len__(self) -> int:
        return len(self.at_R3)

    def only(self, chosen: Tensor) -> Roots:
        return Roots(**{name: value[chosen] for name, value in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class Ribbons:
    """Paths and how they look."""

    roots: Roots
    path_RS3: Tensor
    width_RS: Tensor
    color_R3: Tensor
    shade_RS: Tensor
    """0 to 1: how much light reaches this deep."""
    follows: bool
    """Whether the ribbons ride on the skin's movement (brows, beard) or only on the head's."""


def skin_triangles(anatomy: Anatomy) -> Tensor:
    """int64 [F, 3]."""
    return torch.as_tensor(anatomy.triangles("skin"))


def scatter_roots(anatomy: Anatomy, points_N3: Tensor, count: int, weigh, seed: int) -> Roots:
    """`count` places on the skin, as dense as `weigh(places [P, 3] of the shared mesh) -> [P]` says."""
    rng = torch.Generator().manual_seed(seed)
    triangles = skin_triangles(anatomy)
    base_N3 = torch.as_tensor(anatomy.points_N3)
    corners = base_N3[triangles]
    area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=1)
    chance = 1e-12 + area * weigh(corners.mean(1)).clamp(min=0) * (
        1 - torch.as_tensor(anatomy.masks_NC).float()[triangles][:, :, 2].amax(1)
    )
    face = torch.multinomial(chance, count, replacement=True, generator=rng)
    u, v = torch.rand(2, count, generator=rng)
    u, v = torch.where(u + v > 1, 1 - u, u), torch.where(u + v > 1, 1 - v, v)
    weights = torch.stack([1 - u - v, u, v], 1)
    own = points_N3[triangles[face]]
    out = normalize(torch.linalg.cross(own[:, 1] - own[:, 0], own[:, 2] - own[:, 0]), dim=1)
    at, base = ((weights[:, :, None] * corners_).sum(1) for corners_ in (own, corners[face]))
    kept = weigh(base) > 0.02
    return Roots(at_R3=at, out_R3=out, base_R3=base, face_R=face, weights_R3=weights).only(kept)


@dataclass(frozen=True, kw_only=True)
class Solid:
    """What hair cannot go through: the head as radii over directions, the neck and the shoulders."""

    radius_AE: Tensor
    """Over turn (-180 to 180 degrees) and rise (-90 to 90)."""
    center: Tensor

    def hold(self, places_P3: Tensor, off: Tensor, slack: float) -> Tensor:
        """Places outside by at least `off`; on the head no farther than `slack` beyond that."""
        away = places_P3 - self.center
        far = away.norm(dim=-1, keepdim=True).clamp(min=1e-4)
        turn = torch.atan2(away[..., 0], away[..., 2]) / torch.pi
        rise = torch.asin((away[..., 1] / far[..., 0]).clamp(-1, 1)) / (torch.pi / 2)
        grid = torch.stack([rise, turn], -1).view(1, 1, -1, 2)
        radius = torch.nn.functional.grid_sample(self.radius_AE[None, None], grid, align_corners=True, padding_mode="border")
        least = radius.view(far.shape) + off[..., None]
        over = (far - least - slack).clamp(min=0)
        held = far - over * 0.8 * zones.step(places_P3[..., 1:2], 6.9, 7.4)
        return push_from_shoulders(self.center + away * torch.maximum(held, least) / far, off)


def push_from_shoulders(places: Tensor, off: Tensor) -> Tensor:
    """Out of an upright neck and an ellipsoid of shoulders."""
    flat = places - torch.tensor((0.0, 0.0, 0.12))
    reach = torch.hypot(flat[..., 0], flat[..., 2]).clamp(min=1e-4)
    inside = (places[..., 1] < 6.7) & (reach < 0.62)
    factor = torch.where(inside, 0.62 / reach, torch.ones_like(reach))
    places = torch.stack([flat[..., 0] * factor, places[..., 1], flat[..., 2] * factor + 0.12], -1)
    center, radii = torch.tensor((0.0, 4.55, 0.10)), torch.tensor((2.0, 1.32, 0.98))
    scaled = (places - center) / radii
    far = scaled.norm(dim=-1, keepdim=True).clamp(min=1e-4)
    least = 1 + off[..., None]
    return center + scaled * torch.maximum(far, torch.where(places[..., 1:2] < 6.3, least * torch.ones_like(far), far)) / far * radii


def make_solid(anatomy: Anatomy, points_N3: Tensor, turns: int = 49, rises: int = 25) -> Solid:
    """The person's head without ears, smoothed."""
    skin = torch.as_tensor(anatomy.points_of("skin"))
    masks = torch.as_tensor(anatomy.masks_NC).float()[skin]
    base = torch.as_tensor(anatomy.points_N3)[skin]
    chosen = (masks[:, 2] < 0.5) & (masks[:, 3] < 0.5) & (base[:, 1] > 5.9)
    center = torch.tensor(zones.SKULL)
    away = points_N3[skin][chosen] - center
    far = away.norm(dim=1)
    unit = away / far[:, None]
    turn = torch.linspace(-torch.pi, torch.pi, turns)[:, None].expand(turns, rises)
    rise = torch.linspace(-torch.pi / 2, torch.pi / 2, rises)[None].expand(turns, rises)
    look = torch.stack([turn.sin() * rise.cos(), rise.sin(), turn.cos() * rise.cos()], -1).view(-1, 3)
    near = torch.exp(60.0 * (look @ unit.T - 1))
    return Solid(radius_AE=((near @ far) / near.sum(1).clamp(min=1e-9)).view(turns, rises), center=center)


def clumps(roots: Roots, scale: float, seed: int) -> Tensor:
    """[R, 3] about -1 to 1, alike for neighbors: what makes locks of hair."""
    return noise(skin_block(), roots.base_R3, scale, 0.37 * (seed % 97))


def tint(roots: Roots, color: tuple[float, float, float], seed: int, spread: float = 0.22) -> Tensor:
    """[R, 3]: each ribbon's color, in locks and one by one."""
    rng = torch.Generator().manual_seed(seed + 5)
    own = spread * torch.randn(len(roots), 1, generator=rng) + 0.18 * clumps(roots, 7.0, seed)[:, :1]
    return torch.tensor(color) * torch.exp(own.clamp(-0.7, 0.7))
