"""The mesh of head and shoulders that everyone shares. Lengths are decimeters; x is to the picture's right, y up, z to the camera.

Axes: N points, F faces of four corners, K targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

GROUPS = ("skin", "left_eye", "right_eye", "upper_teeth", "lower_teeth", "tongue", "lashes")
MASKS = ("lips", "eyelids", "inside_mouth", "ears", "face")

LIP_UPPER, LIP_LOWER = 474, 493
"""Where the lips meet in the middle; these and the following are numbers of points in MakeHuman's base mesh."""
LIP_LEFT, LIP_RIGHT = 7184, 424
LIDS_UPPER, LIDS_LOWER = {"Left": (6785, 6784), "Right": (1, 0)}, {"Left": (6828, 6825), "Right": (44, 41)}
CHIN, HAIRLINE, NOSE_TIP, NOSE_BRIDGE, CROWN = 5225, 983, 297, 136, 882


@dataclass(frozen=True, eq=False)
class Anatomy:
    """Points, faces and the targets that move them."""

    points_N3: np.ndarray
    faces_F4: np.ndarray
    uv_faces_F4: np.ndarray
    """Texture place of each corner, an index into `uvs_M2`."""
    groups_F: np.ndarray
    """Index into GROUPS."""
    uvs_M2: np.ndarray
    """From the texture's lower left corner, 0 to 1."""
    origin_N: np.ndarray
    """The point's number in MakeHuman's base mesh."""
    turn_N: np.ndarray
    """How far the point goes along with the head's turn, 0 to 1."""
    names_K: np.ndarray
    deltas_KN3: np.ndarray
    """float16."""
    masks_CHW: np.ndarray
    """uint8, one for each of MASKS, in texture space."""

    @cached_property
    def index(self) -> dict[str, int]:
        """A target's name -> its row."""
        return {str(name): k for k, name in enumerate(self.names_K)}

    @cached_property
    def place(self) -> dict[int, int]:
        """MakeHuman's number of a point -> ours."""
        return {int(origin): n for n, origin in enumerate(self.origin_N)}

    def delta(self, name: str) -> np.ndarray:
        """[N, 3] float32: where a target moves the points. KeyError for an unknown one."""
        return self.deltas_KN3[self.index[name]].astype(np.float32)

    def points_of(self, *names: str) -> np.ndarray:
        """Numbers of the points of these groups."""
        return np.unique(self.faces_F4[self.faces_of(*names)])

    def faces_of(self, *names: str) -> np.ndarray:
        """Numbers of the faces of these groups."""
        return np.flatnonzero(np.isin(self.groups_F, [GROUPS.index(name) for name in names]))

    def triangles(self, *names: str) -> np.ndarray:
        """int64 [2 F, 3]: the faces of these groups, each cut into two triangles."""
        quads_F4 = self.faces_F4[self.faces_of(*names)].astype(np.int64)
        return np.concatenate([quads_F4[:, :3], quads_F4[:, [0, 2, 3]]])

    @cached_property
    def masks_NC(self) -> np.ndarray:
        """[N, len(MASKS)] 0 to 1: the masks at the points."""
        uv_N2 = np.zeros((len(self.points_N3), 2))
        uv_N2[self.faces_F4.ravel()] = self.uvs_M2[self.uv_faces_F4.ravel()]
        size = self.masks_CHW.shape[1]
        x, y = np.clip((uv_N2 * size).astype(int), 0, size - 1).T
        return self.masks_CHW[:, size - 1 - y, x].T / 255.0
