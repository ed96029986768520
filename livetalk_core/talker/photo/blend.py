"""Makes a portrait of a person who does not exist: hair and clothes of one picture, and the mean face of others.

`python -m livetalk_core.talker.photo.blend OUT HAIR FACE FACE...` reads pictures that fit.py has fitted. Faces that look into the camera
with closed lips, in similar light, blend best.

Axes: K pictures, N points, H W pixels.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from livetalk_core.talker.photo.fit import fit_path
from livetalk_core.talker.photo.fitted import Portrait, cut_square, read_portrait
from livetalk_core.talker.photo.mesh import OVAL, face_height, laid_onto
from livetalk_core.talker.photo.warp import Puppet

SIDE, FACE_SHARE, AIM = 560, 0.57, (0.49, 0.52)
RIM, EDGE, SOFT = 0.16, 0.06, 0.05
"""In face heights: from its outline to here the face keeps its first shape; so far inside, and so softly, the mean face begins."""
PORES = 0.5
"""How much of the first picture's fine detail is kept, since a mean has none."""


def main(out: Path, *pictures: Path) -> None:
    if len(pictures) < 2:
        raise ValueError("give a picture for hair and clothes, and at least one for the face")
    portraits = [read_portrait(path, fit_path(path)) for path in pictures]
    if None in portraits:
        raise ValueError(f"{pictures[portraits.index(None)]}: no face was found")
    Image.fromarray(blend([cut_square(portrait, SIDE, FACE_SHARE, AIM) for portrait in portraits])).save(out, quality=93)


def blend(portraits: Sequence[Portrait]) -> np.ndarray:
    """uint8 [H, W, 3]: the first portrait with the mean face of the others. All are squares of one size."""
    points_KN2 = [portrait.points_N3[:468, :2].astype(float) for portrait in portraits]
    first_N2 = points_KN2[0]
    mean_N2 = np.mean([laid_onto(points_N2, first_N2)(points_N2) for points_N2 in points_KN2[1:]], axis=0)
    target_N2 = first_N2 + (mean_N2 - first_N2) * inner_share(first_N2)[:, None]
    moved = [moved_to(portrait, target_N2, number == 0) for number, portrait in enumerate(portraits)]
    return composed(moved[0], moved[1:], target_N2).round().clip(0, 255).astype(np.uint8)


def inner_share(points_N2: np.ndarray) -> np.ndarray:
    """[N]: 0 on the face's outline, 1 inside of the rim."""
    import cv2

    outline = cv2.convexHull(points_N2[list(OVAL)].astype(np.float32))
    inside_N = np.array([cv2.pointPolygonTest(outline, (float(x), float(y)), True) for x, y in points_N2])
    share_N = np.clip(inside_N / (RIM * face_height(points_N2)), 0, 1)
    return share_N * share_N * (3 - 2 * share_N)


def moved_to(portrait: Portrait, target_N2: np.ndarray, stays: bool) -> np.ndarray:
    """float32 [H, W, 3]: the picture with its face in another shape; what is around it stays, or goes along."""
    import cv2

    puppet = Puppet.of(portrait.points_N3, portrait.pixels_HWC.shape[0])
    around_N2 = puppet.source_N2[len(target_N2) :]
    if not stays:
        around_N2 = laid_onto(portrait.points_N3[:468, :2].astype(float), target_N2)(around_N2)
    there = puppet.source_map(np.concatenate([target_N2, around_N2])).astype(np.float32)
    return cv2.remap(portrait.pixels_HWC, there[..., 0], there[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def composed(first_HWC: np.ndarray, faces: Sequence[np.ndarray], target_N2: np.ndarray) -> np.ndarray:
    """float32 [H, W, 3]: the mean of the faces, in the first one's light, within the first picture."""
    import cv2

    height = face_height(target_N2)
    inside = np.zeros(first_HWC.shape[:2], np.uint8)
    cv2.fillConvexPoly(inside, cv2.convexHull(target_N2[list(OVAL)].round().astype(np.int32)), 255)
    inside = cv2.erode(inside, np.ones([2 * round(EDGE * height) + 1] * 2))
    light = lambda face: (face[inside > 0].mean(0), face[inside > 0].std(0))  # noqa: E731
    (middle, spread), seen = light(first_HWC), [(face, *light(face)) for face in faces]
    mean_HWC = np.mean([(face - its_middle) / its_spread * spread + middle for face, its_middle, its_spread in seen], axis=0)
    mean_HWC += PORES * (first_HWC - cv2.GaussianBlur(first_HWC, (0, 0), 0.012 * height))
    share = cv2.GaussianBlur(inside.astype(np.float32) / 255, (0, 0), SOFT * height)[..., None]
    return first_HWC + (mean_HWC - first_HWC) * share


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
