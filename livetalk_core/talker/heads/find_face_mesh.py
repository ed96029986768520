"""Finds where MediaPipe's face points lie on the heads' mesh: `python -m livetalk_core.talker.heads.find_face_mesh FOLDER`.

FOLDER has pictures by stills.py whose fits were made anew with MediaPipe (see photo/fit.py). For each point, the triangle and the place in
it are searched that come nearest to where MediaPipe read the point in all pictures, by least squares.

Axes: S stills, L face points, N points of the mesh, F triangles.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from livetalk_core.talker.heads.anatomy import Anatomy
from livetalk_core.talker.heads.face_mesh import TABLE
from livetalk_core.talker.heads.sitter import the_anatomy
from livetalk_core.talker.heads.stills import frame_still, seed_of
from livetalk_core.talker.photo.fit import fit_path, pictures_of
from livetalk_core.talker.photo.mesh import CHIN, IRISES, POINTS, TOP

NEAREST = 12
"""Triangles about this many points of the mesh are tried for each face point."""
OUTLIER = 0.08
"""A still that MediaPipe read farther off, in face heights, counts as so far off."""


def main(folder: Path) -> None:
    seen, read = [], []
    for picture in pictures_of(folder):
        with np.load(fit_path(picture)) as fit:
            if len(fit["points"]) == POINTS:
                still = frame_still(seed_of(picture), int(fit["mask"].shape[0]))
                seen.append(still.seen_N3)
                read.append(fit["points"])
    anatomy = the_anatomy()
    corners_L3, weights_L3, errors_L = find_points(anatomy, np.stack(seen), np.stack(read))
    np.savez_compressed(TABLE, corners=anatomy.origin_N[corners_L3].astype(np.int16), weights=weights_L3)
    print(f"{len(seen)} stills: error {errors_L.mean():.4f} of the face's height, at most {errors_L.max():.4f}; stored in {TABLE}")


def find_points(anatomy: Anatomy, seen_SN3: np.ndarray, read_SL3: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(corners [L, 3] as numbers of this mesh, weights [L, 3], error [L] in face heights) that put the points where they were read."""
    heights_S = np.linalg.norm(read_SL3[:, CHIN, :2] - read_SL3[:, TOP, :2], axis=1)
    seen_SN2, read_SL2 = (points[..., :2] / heights_S[:, None, None] for points in (seen_SN3, read_SL3))
    found = []
    for point in range(POINTS):
        groups = ("left_eye", "right_eye") if point in IRISES else ("skin",)
        candidates, read_S2 = anatomy.points_of(*groups), read_SL2[:, point]
        apart = np.median(np.linalg.norm(seen_SN2[:, candidates] - read_S2[:, None], axis=2), axis=0)
        near = candidates[np.argsort(apart)[:NEAREST]]
        faces_F3 = anatomy.triangles(*groups)
        tried = [(*place_in(seen_SN2[:, corners], read_S2), corners) for corners in faces_F3[np.isin(faces_F3, near).any(1)]]
        found.append(min(tried, key=lambda each: each[0]))
    errors, weights, corners = zip(*found, strict=True)
    return np.array(corners), np.array(weights, np.float32), np.array(errors)


def place_in(corners_S32: np.ndarray, read_S2: np.ndarray) -> tuple[float, np.ndarray]:
    """(error, weights [3]) of the place in a triangle that is nearest to where a point was read in all stills."""
    first_S2 = corners_S32[:, 0]
    sides_S22 = np.stack([corners_S32[:, 1] - first_S2, corners_S32[:, 2] - first_S2], -1)
    away_S2 = read_S2 - first_S2
    other_2 = np.linalg.lstsq(sides_S22.reshape(-1, 2), away_S2.reshape(-1), rcond=None)[0].clip(-0.5, 1.5)
    missed_S = np.linalg.norm(sides_S22 @ other_2 - away_S2, axis=1).clip(max=OUTLIER)
    return float(np.sqrt((missed_S**2).mean())), np.array([1 - other_2.sum(), *other_2])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
