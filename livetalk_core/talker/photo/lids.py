"""Shuts the eyes of a photograph: skin is painted down from the upper lid, with lashes at its edge.

A warp of the eye would end in a line of bright and dark specks. Axes: H W pixels, N points of the mesh, K points of a lid's edge.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from livetalk_core.talker.photo.fitted import filled_from
from livetalk_core.talker.photo.mesh import BROWS, EYE_CORNERS, LOWER_LIDS, UPPER_LIDS, unit
from livetalk_core.talker.photo.warp import FRACTION_BITS, fixed

ABOVE, BELOW, ASIDE = 0.14, 0.12, 0.10
"""So far around the fitted lids there may be lashes, make-up or the white of the eye. All lengths are in eye widths."""
BROW = 0.07
"""Half the height of a brow, whose color a lid must not have."""
REACHES = (0.9, 0.5, 0.25, 0.12)
"""How far skin is spread over an eye."""
LASHES, LASH_SHADE = 0.055, 0.7
"""Thickness of the line of lashes, and how much darker than skin it is."""
FALL = 0.02
"""A shut upper lid ends so far below the lower one."""
CREASE, CREASE_SHADE = 0.07, 0.16
"""Reach of the shadow at a lid's upper end, and how much darker it is there."""
BULGE, BULGE_LIGHT = 0.28, 0.05
"""Radius of the eyeball's roundness, and how much brighter a lid is in its middle."""
SOFT = 0.025
"""How soft painted edges are."""


@dataclass(frozen=True, eq=False)
class Eye:
    """The lids' edges of an open eye, both with its corners, from left to right, in pixels."""

    upper_K2: np.ndarray
    lower_K2: np.ndarray

    @property
    def width(self) -> float:
        return float(np.linalg.norm(self.upper_K2[-1] - self.upper_K2[0]))

    @property
    def right(self) -> np.ndarray:
        """[2] the unit vector from the left corner to the right one."""
        return unit(self.upper_K2[-1] - self.upper_K2[0])

    @property
    def down(self) -> np.ndarray:
        """[2] the unit vector across the eye."""
        x, y = self.right
        return np.array([-y, x])

    def bulging(self, length: float) -> np.ndarray:
        """[K, 2] a shift down by this many eye widths in the middle, by nothing at the corners."""
        arch_K1 = np.sqrt(np.sin(np.pi * np.linspace(0, 1, len(self.upper_K2))))[:, None]
        return length * self.width * arch_K1 * self.down

    def down_to(self, edge_K2: np.ndarray) -> np.ndarray:
        """[2 K, 2] the outline of everything from above the upper lid to this edge, a little wider than the eye."""
        aside = np.zeros_like(edge_K2)
        aside[0], aside[-1] = -ASIDE * self.width * self.right, ASIDE * self.width * self.right
        top_K2 = self.upper_K2 - ABOVE * self.width * self.down
        return np.concatenate([top_K2 + aside, (edge_K2 + aside)[::-1]])


def eyes_of(points_N2: np.ndarray) -> Iterator[Eye]:
    """Both eyes of a mesh."""
    for upper, lower, (left, right) in zip(UPPER_LIDS, LOWER_LIDS, EYE_CORNERS, strict=True):
        yield Eye(points_N2[[left, *upper, right]], points_N2[[left, *lower, right]])


def without_eyes(picture_HWC: np.ndarray, points_N2: np.ndarray) -> np.ndarray:
    """The picture with skin from around them over its eyes. Its first three channels are colors, 0 to 255."""
    import cv2

    painted = picture_HWC.copy()
    brows = np.zeros(picture_HWC.shape[:2], np.float32)
    for eye in eyes_of(points_N2):
        for point in points_N2[list(BROWS)]:
            cv2.circle(brows, tuple(int(place) for place in point.round()), max(1, round(BROW * eye.width)), 1.0, -1)
        area = inside(brows.shape, eye.down_to(eye.lower_K2 + BELOW * eye.width * eye.down))
        skin = filled_from(picture_HWC[..., :3], (area == 0) * (1 - brows), [reach * eye.width for reach in REACHES])
        share = cv2.GaussianBlur(area, (0, 0), SOFT * eye.width)[..., None]
        painted[..., :3] += (skin - painted[..., :3]) * share
    return painted


def shut_eyes(picture_HWC: np.ndarray, lids_HWC: np.ndarray, points_N2: np.ndarray, blink: float) -> None:
    """Shuts the eyes in place: at 0 they stay as they are, at 1 they are shut. `lids_HWC` is the same picture without eyes."""
    import cv2

    sure = min(1.0, 4 * blink)
    for eye in eyes_of(points_N2):
        edge_K2 = eye.upper_K2 + blink * (eye.lower_K2 - eye.upper_K2 + eye.bulging(FALL))
        below_K2 = edge_K2 + eye.bulging(BELOW * np.clip((blink - 0.7) / 0.3, 0, 1))
        cover, lashes = inside(picture_HWC.shape[:2], eye.down_to(below_K2)), np.zeros(picture_HWC.shape[:2], np.float32)
        cv2.polylines(lashes, [fixed(edge_K2)], False, 1.0, max(1, round(LASHES * eye.width)), cv2.LINE_AA, FRACTION_BITS)
        cover, lashes = (sure * cv2.GaussianBlur(share, (0, 0), SOFT * eye.width)[..., None] for share in (cover, lashes))
        lid = lids_HWC[..., :3] * light_on(eye, edge_K2, cover.shape[:2], blink)
        picture_HWC[..., :3] += (lid - picture_HWC[..., :3]) * cover
        picture_HWC[..., :3] *= 1 - LASH_SHADE * lashes


def light_on(eye: Eye, edge_K2: np.ndarray, size: tuple[int, int], blink: float) -> np.ndarray:
    """[H, W, 1] how bright a lid is: round over the eyeball, with a shadow where it comes from."""
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    top, middle = eye.upper_K2.mean(0), (eye.upper_K2.mean(0) + edge_K2.mean(0)) / 2
    below = (x - top[0]) * eye.down[0] + (y - top[1]) * eye.down[1]
    crease = np.exp(-0.5 * (below / (CREASE * eye.width)) ** 2)
    bulge = np.exp(-0.5 * ((x - middle[0]) ** 2 + (y - middle[1]) ** 2) / (BULGE * eye.width) ** 2)
    return (1 + blink * (BULGE_LIGHT * bulge - CREASE_SHADE * crease))[..., None].astype(np.float32)


def inside(size: tuple[int, int], outline: np.ndarray) -> np.ndarray:
    """float32 [H, W], 1 inside the outline."""
    import cv2

    area = np.zeros(size, np.uint8)
    cv2.fillPoly(area, [fixed(outline)], 255, cv2.LINE_AA, FRACTION_BITS)
    return area.astype(np.float32) / 255
