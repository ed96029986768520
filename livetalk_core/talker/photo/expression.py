"""How mouth, jaw and brows move the points of a fitted face; lids.py shuts the eyes. Everything is in the head's frame (see mesh.py).

Axes: N points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from livetalk_core.talker.identity import Mouth
from livetalk_core.talker.photo.mesh import (
    BETWEEN,
    BROWS,
    CORNERS,
    INNER_CORNERS,
    LIPS_INNER,
    LIPS_OUTER,
    LOWER_INNER,
    LOWER_OUTER,
    MOUTH,
    UPPER_INNER,
    UPPER_OUTER,
)  # fmt: skip

FULL_GAP = 0.165
"""The gap between the lips at opening 1."""
FULL_WIDTH = 0.035
"""How much wider the mouth is at width 1."""
NARROWED = 0.045
"""How much narrower it is at rounding 1."""
UPPER_SHARE = 0.22
"""Part of the gap by which the upper lip rises; the jaw gives the rest."""
REACH = 0.11
"""How far lips pull on the skin around them."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """A face at one moment, besides its mouth. 0 is as in the picture."""

    blink: float = 0.0
    """0 open, 1 shut; moves no points, see lids.py."""
    brow: float = 0.0
    smile: float = 0.0


@dataclass(frozen=True, eq=False)
class Expressions:
    """One face's points with closed lips, and how much each follows jaw and lips."""

    rest_N3: np.ndarray
    jaw_N: np.ndarray
    corner_N2: np.ndarray
    """How much each point follows the left and the right corner of the mouth."""

    @classmethod
    def of(cls, fitted_N3: np.ndarray) -> Expressions:
        rest_N3 = closed_lips(fitted_N3)
        corners = rest_N3[list(CORNERS)]
        far_N2 = np.linalg.norm(rest_N3[:, None, :2] - corners[None, :, :2], axis=2)
        near_N2 = np.exp(-0.5 * (far_N2 / REACH) ** 2)
        return cls(rest_N3, jaw_share(rest_N3), near_N2)

    def at(self, mouth: Mouth, look: Look) -> np.ndarray:
        """[N, 3]: the face with this mouth and look."""
        points_N3 = self.rest_N3.copy()
        self.shape_width(points_N3, mouth, look)
        self.open_mouth(points_N3, mouth)
        fill_lips(points_N3, self.rest_N3)
        points_N3[list(BROWS), 1] -= 0.018 * look.brow
        return points_N3

    def shape_width(self, points_N3: np.ndarray, mouth: Mouth, look: Look) -> None:
        """Spread, narrowed or pushed forward lips, in place."""
        aside = 0.5 * (FULL_WIDTH * mouth.width * (1 - 0.6 * mouth.rounding) - NARROWED * mouth.rounding) + 0.012 * look.smile
        half = max(1e-3, float(np.abs(self.rest_N3[list(CORNERS), 0]).mean()))
        lips = list(MOUTH)
        moved_N = (self.corner_N2 * [-1.0, 1.0]).sum(1) * aside
        moved_N[lips] = self.rest_N3[lips, 0] / half * aside
        points_N3[:, 0] += moved_N
        points_N3[:, 1] -= self.corner_N2.sum(1).clip(0, 1) * (0.016 * look.smile + 0.004 * max(0.0, mouth.width))
        thick = 1 + 0.12 * mouth.rounding - 0.15 * mouth.closure
        points_N3[lips, 1] += (thick - 1) * (self.rest_N3[lips, 1] - self.lip_line(lips))
        points_N3[lips, 2] -= 0.03 * mouth.rounding

    def open_mouth(self, points_N3: np.ndarray, mouth: Mouth) -> None:
        """Lowers the jaw and raises the upper lip, so that the lips are apart by the mouth's opening, in place."""
        gap = FULL_GAP * mouth.opening * (1 - mouth.closure)
        arch_N = self.arch()
        upper, lower = [*UPPER_OUTER, *UPPER_INNER], [*LOWER_OUTER, *LOWER_INNER]
        down_N = (1 - UPPER_SHARE) * gap * self.jaw_N
        down_N[lower] = (1 - UPPER_SHARE) * gap * arch_N[lower]
        down_N[upper] = -UPPER_SHARE * gap * arch_N[upper]
        down_N[[*CORNERS, *INNER_CORNERS]] = 0.25 * gap
        tucked = 0.012 * mouth.teeth * (1 - mouth.tongue)
        down_N[list(LOWER_OUTER)] -= tucked * arch_N[list(LOWER_OUTER)]
        points_N3[:, 1] += down_N
        points_N3[:, 2] += 0.35 * np.where(np.isin(np.arange(len(down_N)), upper), 0, down_N)

    def arch(self) -> np.ndarray:
        """[N] 1 in the middle of the lips, 0 at the corners: the outline of an open mouth."""
        half = np.abs(self.rest_N3[list(INNER_CORNERS), 0]).mean()
        return np.sqrt(np.clip(1 - (self.rest_N3[:, 0] / max(half, 1e-3)) ** 2, 0.0, 1)) ** 0.8

    def lip_line(self, points: list[int]) -> np.ndarray:
        """Height of the line between the closed lips at some points."""
        line = self.rest_N3[[INNER_CORNERS[0], *UPPER_INNER, INNER_CORNERS[1]]]
        return np.interp(self.rest_N3[points, 0], line[:, 0], line[:, 1])


def closed_lips(fitted_N3: np.ndarray) -> np.ndarray:
    """The fitted face with its lips brought together."""
    points_N3 = fitted_N3.copy()
    upper, lower = fitted_N3[list(UPPER_INNER)], fitted_N3[list(LOWER_INNER)]
    line = 0.4 * upper + 0.6 * lower
    gap = (lower - upper)[:, 1].clip(0)
    for inner, outer in ((UPPER_INNER, UPPER_OUTER), (LOWER_INNER, LOWER_OUTER)):
        points_N3[list(outer), 1] += 0.8 * (line - fitted_N3[list(inner)])[:, 1]
        points_N3[list(inner)] = line
    points_N3[:, 1] -= 0.6 * 0.4 * gap.max() * jaw_share(fitted_N3) * ~np.isin(np.arange(len(fitted_N3)), MOUTH)
    fill_lips(points_N3, fitted_N3)
    return points_N3


def fill_lips(points_N3: np.ndarray, before_N3: np.ndarray) -> None:
    """Moves the points inside the lips as the edges of the lips beside them have moved, in place."""
    moved_N3 = points_N3 - before_N3
    for inward, ring in BETWEEN:
        outer, inner = moved_N3[list(LIPS_OUTER)], moved_N3[list(LIPS_INNER)]
        points_N3[list(ring)] = before_N3[list(ring)] + outer + inward * (inner - outer)


def jaw_share(points_N3: np.ndarray) -> np.ndarray:
    """[N] how much each point goes down with the jaw: from the mouth's corners to below the lip it rises from 0 to 1."""
    corner_y = points_N3[list(CORNERS), 1].mean()
    share_N = np.clip((points_N3[:, 1] - corner_y + 0.06) / 0.16, 0, 1)
    share_N = share_N * share_N * (3 - 2 * share_N)
    upper = [*UPPER_OUTER, *UPPER_INNER]
    share_N = share_N * np.clip(1 - 0.9 * (np.abs(points_N3[:, 0]) / 0.42) ** 2, 0, 1)
    share_N[upper] = 0
    return share_N
