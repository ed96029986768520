"""Points beside the mesh's own: hair, brows, beard, lashes and glasses, as triangles that ride on the face or on the head.

Axes: N points, F triangles, R ribbons, S places along each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from livetalk_core.talker.heads.anatomy import NOSE_BRIDGE, Anatomy
from livetalk_core.talker.heads.collar import build_collar
from livetalk_core.talker.heads.cuts import grow_hair
from livetalk_core.talker.heads.glasses import build_glasses
from livetalk_core.talker.heads.person import Person
from livetalk_core.talker.heads.strands import Ribbons, skin_triangles
from livetalk_core.talker.heads.whiskers import grow_beard, grow_brows, grow_lashes
from livetalk_core.talker.heads.zones import SKULL, step

HAIR, GLASSES, CLOTH = 6, 7, 8
"""Materials, numbered on from the mesh's groups."""
COLLARED = ("shirt", "jacket")
LASH = (0.010, 0.008, 0.007)


@dataclass(frozen=True, kw_only=True)
class Extra:
    """See the file's head."""

    rest_N3: Tensor
    normal_N3: Tensor
    turn_N: Tensor
    """How far each goes along with the head's turn, 0 to 1."""
    bind_N3: Tensor
    """Three points of the mesh whose movement each follows, by `share_N3` (all 0: it follows the head alone)."""
    share_N3: Tensor
    before_N: Tensor
    after_N: Tensor
    """Neighbors along a hair, numbers among these points."""
    color_N3: Tensor
    shade_N: Tensor
    faces_F3: Tensor
    material_F: Tensor

    def __len__(self) -> int:
        return len(self.rest_N3)


def gather_extras(anatomy: Anatomy, points_N3: Tensor, person: Person) -> Extra:
    """All of them for one person's points at rest."""
    triangles = skin_triangles(anatomy)
    ribbons = [*grow_hair(anatomy, points_N3, person), grow_brows(anatomy, points_N3, person), *grow_beard(anatomy, points_N3, person)]
    parts = [weave(one, triangles) for one in ribbons]
    parts.append(lashes(anatomy, points_N3, person))
    if person.glasses != "none":
        parts.append(spectacles(anatomy, points_N3, person))
    if person.clothes in COLLARED:
        parts.append(collar(anatomy, points_N3, person))
    return joined(parts)


def collar(anatomy: Anatomy, points_N3: Tensor, person: Person) -> Extra:
    """The folded collar of a shirt, alone or under a jacket."""
    points, normals, faces = build_collar(neck_ring(anatomy, points_N3))
    color = person.cloth if person.clothes == "shirt" else person.accent
    return stiff(points, normals, faces, color, CLOTH, turn=0.08)


def neck_ring(anatomy: Anatomy, points_N3: Tensor) -> tuple[float, float, float]:
    """(middle z, half width, half depth) of the neck where a collar lies."""
    skin = anatomy.points_of("skin")
    base = anatomy.points_N3[skin]
    near = points_N3.numpy()[skin[(np.abs(base[:, 1] - 6.0) < 0.12) & (np.abs(base[:, 0]) < 0.75)]]
    low, high = np.quantile(near[:, 2], 0.04), np.quantile(near[:, 2], 0.96)
    return float((low + high) / 2), float(np.quantile(np.abs(near[:, 0]), 0.97)), float((high - low) / 2)


def weave(ribbons: Ribbons, triangles: Tensor) -> Extra:
    """Two points at each place of each ribbon, and the faces between them."""
    path = ribbons.path_RS3
    count, steps = path.shape[:2]
    out = normalize(path - torch.tensor(SKULL), dim=-1)
    if ribbons.follows:
        out = ribbons.roots.out_R3[:, None].expand_as(path)
    ahead = torch.gradient(path, dim=1)[0]
    across = normalize(torch.linalg.cross(ahead, out, dim=-1), dim=-1) * ribbons.width_RS[..., None] / 2
    points = torch.stack([path - across, path + across], 2).reshape(-1, 3)
    grid = torch.arange(count * steps * 2).view(count, steps, 2)
    a, b, c, d = grid[:, :-1, 0], grid[:, :-1, 1], grid[:, 1:, 0], grid[:, 1:, 1]
    faces = torch.stack([torch.stack([a, b, c], -1), torch.stack([b, d, c], -1)], 2).reshape(-1, 3)
    each = steps * 2
    follow = ribbons.roots.weights_R3 if ribbons.follows else torch.zeros(count, 3)
    return Extra(
        rest_N3=points,
        normal_N3=out.repeat_interleave(2, 1).reshape(-1, 3),
        turn_N=step(path[..., 1], 5.5, 6.7).repeat_interleave(2, 1).reshape(-1),
        bind_N3=triangles[ribbons.roots.face_R].repeat_interleave(each, 0),
        share_N3=follow.repeat_interleave(each, 0),
        before_N=torch.cat([grid[:, :1], grid[:, :-1]], 1).reshape(-1),
        after_N=torch.cat([grid[:, 1:], grid[:, -1:]], 1).reshape(-1),
        color_N3=ribbons.color_R3.repeat_interleave(each, 0),
        shade_N=ribbons.shade_RS.repeat_interleave(2, 1).reshape(-1),
        faces_F3=faces,
        material_F=torch.full((len(faces),), HAIR),
    )


def lashes(anatomy: Anatomy, points_N3: Tensor, person: Person) -> Extra:
    """Lashes follow the lids' edges; their tips a little more."""
    grown = grow_lashes(anatomy, points_N3, person)
    rest = grown.corners_L33.reshape(-1, 3)
    count = len(rest)
    share = torch.zeros(count, 3)
    share[:, 0] = torch.tensor((1.0, 1.0, grown.tip_follow)).repeat(count // 3)
    root = torch.arange(count) // 3 * 3
    return Extra(
        rest_N3=rest, normal_N3=torch.tensor((0.0, 0.0, 1.0)).expand(count, 3), turn_N=torch.ones(count),
        bind_N3=grown.bind_L[:, None].expand(-1, 3).repeat_interleave(3, 0), share_N3=share, before_N=root, after_N=root + 2,
        color_N3=torch.tensor(LASH).expand(count, 3), shade_N=torch.ones(count), faces_F3=torch.arange(count).view(-1, 3),
        material_F=torch.full((count // 3,), HAIR),
    )  # fmt: skip


def spectacles(anatomy: Anatomy, points_N3: Tensor, person: Person) -> Extra:
    eyes = np.stack([points_N3[torch.as_tensor(anatomy.points_of(f"{side}_eye"))].mean(0).numpy() for side in ("right", "left")])
    ears = points_N3[:, 0][torch.as_tensor(anatomy.masks_NC[:, 3] > 0.5)].abs().quantile(0.3)
    bridge = points_N3[anatomy.place[NOSE_BRIDGE]].numpy()
    points, normals, faces = build_glasses(person.glasses, eyes, bridge, float(ears))
    rng = np.random.default_rng([person.seed, 88])
    color = ((0.012, 0.011, 0.012), (0.10, 0.045, 0.02), (0.35, 0.33, 0.30), (0.02, 0.03, 0.07))[int(rng.integers(4))]
    return stiff(points, normals, faces, color, GLASSES, turn=1.0)


def stiff(points: np.ndarray, normals: np.ndarray, faces: np.ndarray, color: tuple[float, ...], material: int, turn: float) -> Extra:
    """A thing that does not bend."""
    count, itself = len(points), torch.arange(len(points))
    return Extra(
        rest_N3=torch.as_tensor(points).float(),
        normal_N3=torch.as_tensor(normals).float(),
        turn_N=torch.full((count,), turn),
        bind_N3=torch.zeros(count, 3, dtype=torch.long),
        share_N3=torch.zeros(count, 3),
        before_N=itself,
        after_N=itself,
        color_N3=torch.tensor(color).expand(count, 3),
        shade_N=torch.ones(count),
        faces_F3=torch.as_tensor(faces),
        material_F=torch.full((len(faces),), material),
    )


def joined(parts: list[Extra]) -> Extra:
    """One of many, with their points numbered on."""
    starts = np.cumsum([0, *[len(part) for part in parts]])
    fields: dict[str, Tensor] = {}
    for name in vars(parts[0]):
        shift = name in ("before_N", "after_N", "faces_F3")
        pieces = [vars(part)[name] + int(start) if shift else vars(part)[name] for part, start in zip(parts, starts[:-1], strict=True)]
        fields[name] = torch.cat(pieces)
    return Extra(**fields)
