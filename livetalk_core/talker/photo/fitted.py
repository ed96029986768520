"""A photograph with its fitted face mesh, cropped to a square and split into the person and the background.

Axes: N points, H W pixels of the working picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from livetalk_core.talker.photo.mesh import OVAL, POINTS, face_height


@dataclass(frozen=True, kw_only=True)
class Portrait:
    """A square picture of one person."""

    pixels_HWC: np.ndarray
    """float32 RGB, 0 to 255."""
    person_HW: np.ndarray
    """float32, 1 where the person is."""
    points_N3: np.ndarray
    """The face mesh, pixels."""


def read_portrait(picture: Path, fit: Path) -> Portrait | None:
    """The whole picture with its fit (see fit.py); None where no face was found."""
    from PIL import Image

    with np.load(fit) as found:
        points_N3 = found["points"].astype(np.float32)
        if len(points_N3) != POINTS:
            return None
        person_HW = found["mask"].astype(np.float32) / 255
    pixels_HWC = np.asarray(Image.open(picture).convert("RGB"), np.float32)
    return Portrait(pixels_HWC=pixels_HWC, person_HW=person_HW, points_N3=points_N3)


def cut_square(portrait: Portrait, side: int, share: float, aim: tuple[float, float], tilt: float = 0.0) -> Portrait:
    """A square of `side` pixels in which the face takes `share` of the height and its middle lies at `aim` (fractions).

    The picture is turned by `tilt` degrees, clockwise. Where the square reaches over the picture's edge, the edge's pixels repeat.
    """
    import cv2

    face = portrait.points_N3[list(OVAL), :2]
    middle = (face.max(0) + face.min(0)) / 2
    scale = share * side / face_height(portrait.points_N3)
    across, along = scale * np.cos(np.radians(tilt)), scale * np.sin(np.radians(tilt))
    turn_22 = np.array([[across, -along], [along, across]])
    shift = np.asarray(aim) * side - turn_22 @ middle
    soft = portrait.pixels_HWC
    if scale < 0.5:
        soft = cv2.GaussianBlur(soft, (0, 0), 0.35 / scale)
    matrix = np.column_stack([turn_22, shift]).astype(np.float32)
    how = {"dsize": (side, side), "flags": cv2.INTER_LINEAR if scale < 1 else cv2.INTER_CUBIC}
    pixels = cv2.warpAffine(soft, matrix, borderMode=cv2.BORDER_REPLICATE, **how).clip(0, 255)
    person = cv2.warpAffine(portrait.person_HW, matrix, borderMode=cv2.BORDER_REPLICATE, **how).clip(0, 1)
    points = portrait.points_N3 * scale
    points[:, :2] = portrait.points_N3[:, :2] @ turn_22.T + shift
    return Portrait(pixels_HWC=pixels, person_HW=person, points_N3=points.astype(np.float32))


def fits_in(portrait: Portrait, side: int, share: float, aim: tuple[float, float], most: float = 0.12) -> bool:
    """Whether at most this part of the square's width would lie beyond the picture's left, right and upper edge."""
    face = portrait.points_N3[list(OVAL), :2]
    middle = (face.max(0) + face.min(0)) / 2
    whole = face_height(portrait.points_N3) / share
    left, top = middle - np.asarray(aim) * whole
    width = portrait.pixels_HWC.shape[1]
    return bool(left >= -most * whole and top >= -most * whole and left + whole <= width + most * whole)


def mirrored(portrait: Portrait, order_N: np.ndarray) -> Portrait:
    """The picture seen in a mirror; `order_N` is each point's number on the other side of the face."""
    points = portrait.points_N3[order_N].copy()
    points[:, 0] = portrait.pixels_HWC.shape[1] - points[:, 0]
    return replace(portrait, pixels_HWC=portrait.pixels_HWC[:, ::-1].copy(), person_HW=portrait.person_HW[:, ::-1].copy(), points_N3=points)


def background_of(portrait: Portrait) -> np.ndarray:
    """[H, W, 3] the picture without the person: what is behind is filled from around."""
    import cv2

    free_HW = (portrait.person_HW < 0.1).astype(np.float32)
    free_HW = cv2.erode(free_HW, np.ones((5, 5)))
    filled = filled_from(portrait.pixels_HWC, free_HW, (64, 32, 16, 8, 4, 2))
    return filled + (portrait.pixels_HWC - filled) * free_HW[..., None]


def filled_from(pixels_HWC: np.ndarray, free_HW: np.ndarray, reaches: Sequence[float]) -> np.ndarray:
    """[H, W, 3] a smooth picture from the pixels where `free_HW` is 1: the mean of those around, from the farthest reach to the nearest,
    in pixels."""
    import cv2

    filled = np.full_like(pixels_HWC, float(pixels_HWC.mean()))
    for sigma in reaches:
        weight = cv2.GaussianBlur(free_HW, (0, 0), sigma)[..., None]
        mean = cv2.GaussianBlur(pixels_HWC * free_HW[..., None], (0, 0), sigma) / np.maximum(weight, 1e-4)
        filled += (mean - filled) * np.clip(weight / 0.05, 0, 1)
    return filled
