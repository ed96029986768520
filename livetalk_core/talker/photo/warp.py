"""Moves a picture with its face mesh: triangles of the fitted face and of the picture around it, each warped by its corners.

Axes: N points, F triangles, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from livetalk_core.talker.identity import Mouth
from livetalk_core.talker.photo.expression import Expressions, Look
from livetalk_core.talker.photo.mesh import CHIN, INNER_CORNERS, LOWER_INNER, OVAL, UPPER_INNER, HeadFrame

RING_STEP = 0.22
"""Distance of the points around the face, face heights."""
NECK = 0.55
"""Below the chin the head's movement fades to nothing within this length, face heights."""
PIVOT = np.array([0.0, 0.55, 0.45])
"""What the head turns about, from the middle of the mouth."""
FRACTION_BITS = 4


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Movement of the head against the picture: radians and face heights."""

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    x: float = 0.0
    y: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True, eq=False)
class Puppet:
    """A fitted face that can be moved: its mesh with points around it, and how far each goes along with the head."""

    frame: HeadFrame
    expressions: Expressions
    source_N2: np.ndarray
    """Where each point takes its pixels from."""
    around_N3: np.ndarray
    """The points around the face, in the head's frame."""
    turn_N: np.ndarray
    faces_F3: np.ndarray
    side: int

    @classmethod
    def of(cls, points_N3: np.ndarray, side: int) -> Puppet:
        """The puppet of a fitted mesh in a square picture."""
        points_N3 = points_N3[:468]
        frame = HeadFrame.of(points_N3)
        expressions = Expressions.of(frame.into(points_N3))
        around_N2 = surrounding(points_N3, frame.height, side)
        depth = points_N3[list(OVAL), 2].max() + 0.1 * frame.height
        around_N3 = frame.into(np.column_stack([around_N2, np.full(len(around_N2), depth)]))
        source_N2 = np.concatenate([points_N3[:, :2], around_N2])
        parted = frame.out_of(expressions.at(Mouth(opening=0.6), Look()))[:, :2]
        chin = frame.into(points_N3)[CHIN, 1]
        below = np.concatenate([expressions.rest_N3, around_N3])[:, 1] - chin
        turn_N = np.clip(1 - below / NECK, 0, 1)
        faces_F3 = triangles(np.concatenate([parted, around_N2]))
        return cls(frame, expressions, source_N2, around_N3, turn_N * turn_N * (3 - 2 * turn_N), faces_F3, side)

    def posed(self, mouth: Mouth, look: Look, turn: Turn) -> np.ndarray:
        """[N, 2] pixels."""
        whole_N3 = np.concatenate([self.expressions.at(mouth, look), self.around_N3])
        from_pivot = whole_N3 - PIVOT
        moved = turn.scale * from_pivot @ rotation(turn).T + PIVOT + [turn.x, turn.y, 0]
        share_N1 = self.turn_N[:, None]
        return self.frame.out_of(whole_N3 + (moved - whole_N3) * share_N1)[:, :2]

    def source_map(self, posed_N2: np.ndarray) -> np.ndarray:
        """[H, W, 2] float32: where each pixel of the moved picture lies in the original one."""
        import cv2

        found = np.full((self.side, self.side), -1, np.int32)
        corners_F32 = posed_N2[self.faces_F3]
        for number, corners in enumerate(fixed(corners_F32)):
            cv2.fillConvexPoly(found, corners, number, cv2.LINE_8, FRACTION_BITS)
        matrices = affine(corners_F32, self.source_N2[self.faces_F3]).astype(np.float32)
        y, x = np.mgrid[: self.side, : self.side].astype(np.float32)
        chosen = matrices[np.maximum(found, 0)]
        there = chosen[..., 0] * x[..., None] + chosen[..., 1] * y[..., None] + chosen[..., 2]
        outside = found < 0
        there[outside] = np.stack([x, y], -1)[outside]
        return there

    def lips(self, posed_N2: np.ndarray) -> np.ndarray:
        """[K, 2] the outline of the mouth's opening: along the upper lip from left to right, back along the lower one."""
        return posed_N2[[INNER_CORNERS[0], *UPPER_INNER, INNER_CORNERS[1], *reversed(LOWER_INNER)]]


def surrounding(points_N3: np.ndarray, height: float, side: int) -> np.ndarray:
    """[K, 2] a grid of points over the picture and a little beyond, but not on the face."""
    import cv2

    step = RING_STEP * height
    count = int(np.ceil((side + 2 * step) / step)) + 1
    grid = np.stack(np.meshgrid(*[np.linspace(-step, side + step, count)] * 2), -1).reshape(-1, 2)
    outline = cv2.convexHull(points_N3[list(OVAL), :2].astype(np.float32))
    far = [-cv2.pointPolygonTest(outline, (float(x), float(y)), True) for x, y in grid]
    return grid[np.asarray(far) > 0.4 * step].astype(np.float32)


def triangles(points_N2: np.ndarray) -> np.ndarray:
    """[F, 3] Delaunay's triangles without those inside the mouth."""
    from scipy.spatial import Delaunay

    faces_F3 = Delaunay(points_N2).simplices
    inner = [*INNER_CORNERS, *UPPER_INNER, *LOWER_INNER]
    return faces_F3[~np.isin(faces_F3, inner).all(1)]


def affine(moved_F32: np.ndarray, source_F32: np.ndarray) -> np.ndarray:
    """[F, 2, 3] the map of each triangle from where it is to where its pixels come from."""
    a, b, c = (np.asarray(moved_F32[:, k], np.float64) for k in range(3))
    u, v, w = (np.asarray(source_F32[:, k], np.float64) for k in range(3))
    ab, ac = b - a, c - a
    area = ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0]
    area = np.where(np.abs(area) < 1e-6, 1e-6, area)[:, None]
    across = ((v - u) * ac[:, 1:] - (w - u) * ab[:, 1:]) / area
    down = ((w - u) * ab[:, :1] - (v - u) * ac[:, :1]) / area
    return np.stack([across, down, u - across * a[:, :1] - down * a[:, 1:]], axis=2)


def rotation(turn: Turn) -> np.ndarray:
    """[3, 3]: yaw to the picture's right, pitch down, roll clockwise."""
    cy, sy, cp, sp, cr, sr = (f(a) for a in (turn.yaw, turn.pitch, turn.roll) for f in (np.cos, np.sin))
    yaw = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
    pitch = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    roll = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return roll @ pitch @ yaw


def fixed(points_N2: np.ndarray) -> np.ndarray:
    """Pixels with a fraction as OpenCV takes them."""
    return np.round(points_N2 * (1 << FRACTION_BITS)).astype(np.int32)
