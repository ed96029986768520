"""The face mesh of 478 points that MediaPipe finds in a photograph, and the frame of the head that it lies in.

Axes: N points. Pixels run right and down, z away from the camera. In the head's frame x runs to the picture's right, y down, z away, all in
face heights (from the hairline's point to the chin's).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

POINTS = 478
CORNERS = (61, 291)
"""Corners of the mouth, on the picture's left and right."""
UPPER_OUTER = (185, 40, 39, 37, 0, 267, 269, 270, 409)
LOWER_OUTER = (146, 91, 181, 84, 17, 314, 405, 321, 375)
INNER_CORNERS = (78, 308)
UPPER_INNER = (191, 80, 81, 82, 13, 312, 311, 310, 415)
LOWER_INNER = (95, 88, 178, 87, 14, 317, 402, 318, 324)
"""Points of the lips from the picture's left to its right; those of upper and lower lip face each other."""
BETWEEN = (
    (1 / 3, (76, 184, 74, 73, 72, 11, 302, 303, 304, 408, 306, 77, 90, 180, 85, 16, 315, 404, 320, 307)),
    (2 / 3, (62, 183, 42, 41, 38, 12, 268, 271, 272, 407, 292, 96, 89, 179, 86, 15, 316, 403, 319, 325)),
)
"""The rings of the lips between their outer and inner edges, and how far in they lie: in the order of LIPS_OUTER and LIPS_INNER."""
LIPS_OUTER = (CORNERS[0], *UPPER_OUTER, CORNERS[1], *LOWER_OUTER)
LIPS_INNER = (INNER_CORNERS[0], *UPPER_INNER, INNER_CORNERS[1], *LOWER_INNER)
EYE_CORNERS = ((33, 133), (362, 263))
UPPER_LIDS = ((246, 161, 160, 159, 158, 157, 173), (398, 384, 385, 386, 387, 388, 466))
LOWER_LIDS = ((7, 163, 144, 145, 153, 154, 155), (382, 381, 380, 374, 373, 390, 249))
"""Edges of the lids, left eye of the picture first; upper and lower points face each other."""
BROWS = (46, 52, 53, 55, 63, 65, 66, 70, 105, 107, 276, 282, 283, 285, 293, 295, 296, 300, 334, 336)
IRISES = range(468, 478)
OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176, 149, 150, 136, 172, 58, 132,
    93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
TOP, CHIN = 10, 152
MOUTH = (*LIPS_OUTER, *LIPS_INNER, *BETWEEN[0][1], *BETWEEN[1][1])


@dataclass(frozen=True, kw_only=True)
class HeadFrame:
    """Where a face is in its picture: the middle of its mouth, its axes and its height."""

    origin_3: np.ndarray
    axes_33: np.ndarray
    """Rows: the head's x, y and z in the picture."""
    height: float
    """Pixels."""

    @classmethod
    def of(cls, points_N3: np.ndarray) -> HeadFrame:
        """The frame of a fitted mesh in pixels."""
        left, right = (points_N3[list(pair)].mean(0) for pair in EYE_CORNERS)
        x = unit(right - left)
        down = points_N3[CHIN] - points_N3[TOP]
        y = unit(down - x * (down @ x))
        height = float(np.linalg.norm(down))
        return cls(origin_3=points_N3[list(INNER_CORNERS)].mean(0), axes_33=np.stack([x, y, np.cross(x, y)]), height=height)

    def into(self, points_N3: np.ndarray) -> np.ndarray:
        """Pixels -> the head's frame."""
        return (points_N3 - self.origin_3) @ self.axes_33.T / self.height

    def out_of(self, points_N3: np.ndarray) -> np.ndarray:
        """The head's frame -> pixels."""
        return points_N3 * self.height @ self.axes_33 + self.origin_3


def face_height(points_N3: np.ndarray) -> float:
    """From the chin to the top of the face in the picture, pixels; points may lack z."""
    return float(np.linalg.norm(points_N3[CHIN, :2] - points_N3[TOP, :2]))


def laid_onto(points_ND: np.ndarray, goal_ND: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The shift, turn and scale that bring points nearest to others (Umeyama 1991): a function on points."""
    middle, goal = points_ND.mean(0), goal_ND.mean(0)
    left, sizes, right = np.linalg.svd((goal_ND - goal).T @ (points_ND - middle))
    turn = left @ right * sizes.sum() / ((points_ND - middle) ** 2).sum()
    return lambda some_ND: (some_ND - middle) @ turn.T + goal


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def other_side(points_N3: np.ndarray) -> np.ndarray:
    """[N] each point's number on the other half of the face: the nearest one in the mirror of the head's frame."""
    inside_N3 = HeadFrame.of(points_N3).into(points_N3)
    mirror_N3 = inside_N3 * [-1, 1, 1]
    order_N = np.argmin(((mirror_N3[:, None] - inside_N3[None]) ** 2).sum(2), axis=1)
    pairs = [
        *zip(CORNERS[:1], CORNERS[1:], strict=True), *zip(INNER_CORNERS[:1], INNER_CORNERS[1:], strict=True), (TOP, TOP), (CHIN, CHIN),
        *((a, b) for row in (UPPER_OUTER, LOWER_OUTER, UPPER_INNER, LOWER_INNER) for a, b in zip(row, row[::-1], strict=True)),
        *((a, b) for row in (UPPER_LIDS, LOWER_LIDS) for a, b in zip(row[0], row[1][::-1], strict=True)),
        (EYE_CORNERS[0][0], EYE_CORNERS[1][1]), (EYE_CORNERS[0][1], EYE_CORNERS[1][0]),
    ]  # fmt: skip
    for a, b in pairs:
        order_N[a], order_N[b] = b, a
    return order_N
