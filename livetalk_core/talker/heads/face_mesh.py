"""MediaPipe's 478 face points on the heads' mesh, so that a rendered person is fitted without a detector.

Each point lies in a triangle of the mesh, at weights of its corners; find_face_mesh.py found them once.

Axes: N points of the mesh.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from livetalk_core.talker.heads.anatomy import Anatomy

TABLE = Path(__file__).resolve().parents[2] / "assets" / "face_mesh.npz"


def face_mesh(anatomy: Anatomy, seen_N3: np.ndarray) -> np.ndarray:
    """[478, 3] MediaPipe's points of a head whose mesh is seen at these places: x and y in pixels, z in pixels away from the camera."""
    corners_L3, weights_L3 = table()
    place = anatomy.place
    own_L3 = np.vectorize(place.__getitem__)(corners_L3)
    return (seen_N3[own_L3] * weights_L3[..., None]).sum(1).astype(np.float32)


@cache
def table() -> tuple[np.ndarray, np.ndarray]:
    """(corners as MakeHuman's numbers [478, 3], their weights [478, 3], which sum to 1)."""
    with np.load(TABLE) as stored:
        return stored["corners"].astype(int), stored["weights"]
