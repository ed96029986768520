"""A person ready to be photographed: every point and triangle, what each is made of, and the textures; made once, posed for each frame.

Axes: N points, F triangles.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from livetalk_core.talker.heads import clothes
from livetalk_core.talker.heads.anatomy import GROUPS, Anatomy
from livetalk_core.talker.heads.extras import HAIR, Extra, gather_extras
from livetalk_core.talker.heads.movement import Moment
from livetalk_core.talker.heads.person import Person
from livetalk_core.talker.heads.pose import rotation, turn_points
from livetalk_core.talker.heads.shape import Face, shape_face
from livetalk_core.talker.heads.skin import Skin, paint_skin
from livetalk_core.talker.heads.strands import skin_triangles
from livetalk_core.talker.heads.wheel import load_anatomy

SKIN, LEFT_EYE, RIGHT_EYE, UPPER_TEETH, LOWER_TEETH, TONGUE = range(6)
MESH_GROUPS = GROUPS[:6]
"""The lashes' strips are no surface of their own."""


@dataclass(frozen=True, kw_only=True)
class Sitter:
    """Everything constant about one person's pictures."""

    anatomy: Anatomy
    person: Person
    face: Face
    skin: Skin
    extra: Extra
    faces_F3: Tensor
    material_F: Tensor
    """SKIN to TONGUE, HAIR, GLASSES, CLOTH."""
    uv_F32: Tensor
    """Texture place of each corner of the skin's triangles, which come first; -1 to 1."""
    base_N3: Tensor
    """The same point on the shared mesh."""


@dataclass(frozen=True, kw_only=True)
class Posed:
    """All points of a sitter at one moment."""

    points_N3: Tensor
    normals_N3: Tensor
    along_N3: Tensor
    """Direction of hairs; 0 where there is none."""
    turn_33: Tensor
    """The head's turn."""


@lru_cache(maxsize=1)
def the_anatomy() -> Anatomy:
    return load_anatomy()


@lru_cache(maxsize=4)
def seat(person: Person) -> Sitter:
    """Makes a person's shape, skin, hair and clothes."""
    anatomy = the_anatomy()
    face = dress(anatomy, shape_face(anatomy, person), person)
    extra = gather_extras(anatomy, torch.as_tensor(face.points_N3), person)
    own, material, uv = mesh_faces(anatomy)
    return Sitter(
        anatomy=anatomy,
        person=person,
        face=face,
        skin=paint_skin(anatomy, person),
        extra=extra,
        faces_F3=torch.cat([own, extra.faces_F3 + len(face.points_N3)]),
        material_F=torch.cat([material, extra.material_F]),
        uv_F32=uv,
        base_N3=torch.cat([torch.as_tensor(anatomy.points_N3), extra.rest_N3]),
    )


def dress(anatomy: Anatomy, face: Face, person: Person) -> Face:
    """The face with the torso as thick as its clothes."""
    base = torch.as_tensor(anatomy.points_N3)
    into = clothes.below_neckline(base, person.clothes)
    on_skin = torch.zeros(len(base))
    on_skin[torch.as_tensor(anatomy.points_of("skin"))] = 1.0
    thick = clothes.THICK[person.clothes] * (into / 0.08).clamp(0, 1) * on_skin * (base[:, 1] < 6.3)
    points = torch.as_tensor(face.points_N3).float()
    normals = point_normals(points, skin_triangles(anatomy))
    return replace(face, points_N3=(points + thick[:, None] * normals).numpy())


def mesh_faces(anatomy: Anatomy) -> tuple[Tensor, Tensor, Tensor]:
    """(triangles [F, 3], material [F], texture places of the skin's corners [F', 3, 2])."""
    faces, material, places = [], [], []
    for number, group in enumerate(MESH_GROUPS):
        both = anatomy.triangles(group)
        faces.append(both)
        material.append(np.full(len(both), number))
        if number == SKIN:
            uvs = anatomy.uv_faces_F4[anatomy.faces_of(group)].astype(np.int64)
            places.append(np.concatenate([uvs[:, :3], uvs[:, [0, 2, 3]]]))
    uv = anatomy.uvs_M2[places[0]] * [2, -2] + [-1, 1]
    return torch.as_tensor(np.concatenate(faces)), torch.as_tensor(np.concatenate(material)), torch.as_tensor(uv).float()


def point_normals(points_N3: Tensor, faces_F3: Tensor) -> Tensor:
    """[N, 3] unit: the mean of the faces about each point, by their area."""
    a, b, c = points_N3[faces_F3].unbind(1)
    across = torch.linalg.cross(b - a, c - a)
    total = torch.zeros_like(points_N3)
    for k in range(3):
        total.index_add_(0, faces_F3[:, k], across)
    return normalize(total, dim=1)


def posed_points(sitter: Sitter, bent_N3: np.ndarray, moment: Moment) -> Tensor:
    """The mesh's own points [N, 3] at one moment."""
    return turn_points(torch.as_tensor(bent_N3), torch.as_tensor(sitter.anatomy.turn_N), moment)


def pose_sitter(sitter: Sitter, bent_N3: Tensor, moment: Moment) -> Posed:
    """Puts the bent face and all that rides on it in front of the camera."""
    extra, count = sitter.extra, len(bent_N3)
    moved = bent_N3 - torch.as_tensor(sitter.face.points_N3)
    riding = extra.rest_N3 + (moved[extra.bind_N3] * extra.share_N3[..., None]).sum(1)
    turn_N = torch.cat([torch.as_tensor(sitter.anatomy.turn_N), extra.turn_N])
    points = turn_points(torch.cat([bent_N3, riding]), turn_N, moment)
    turn = torch.as_tensor(rotation(moment.yaw, moment.pitch, moment.roll))
    own_faces = sitter.faces_F3[sitter.material_F < HAIR]
    normals = torch.cat([point_normals(points[:count], own_faces), extra.normal_N3 @ turn.T])
    along = points[count:][extra.after_N] - points[count:][extra.before_N]
    return Posed(points_N3=points, normals_N3=normals, along_N3=torch.cat([torch.zeros(count, 3), along]), turn_33=turn)
