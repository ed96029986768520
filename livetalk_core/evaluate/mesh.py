"""Reads videos of talking photographs with MediaPipe's face mesh, and compares the mouth with the true one.

`python -m livetalk_core.evaluate.mesh PICTURES OUT` reads what photographs.py has made and writes OUT/mesh.json. Each reading is kept
beside it. MediaPipe wants numpy below 2, so give it an environment of its own (with av); see talker/photo/fit.py.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from livetalk_core.talker.photo.fit import finder, pictures_of
from livetalk_core.talker.photo.mesh import CHIN, EYE_CORNERS, INNER_CORNERS, LOWER_LIDS, MOUTH, POINTS, TOP, UPPER_LIDS, laid_onto

LEAST_SIDE = 512
"""Smaller frames are enlarged to this, or the mesh is coarse."""
UPPER_LIP, LOWER_LIP = 13, 14
LAGS = range(-3, 4)
SHUT_EYE = 0.6
"""A blink: the eyes are less open than this part of their median."""
CLOSED, SHUT_LIPS = 0.8, 0.25
"""Frames whose true closure is above the first count as p, b, m; there the mouth must be less open than the second part of its range."""
PERSON = 20
"""Of 255: the segmentation sees the person where it says this or more."""
MINUTE = 1500
"""Frames at 25 a second. A video of at least two is also compared between its first minute and its last."""


def main(pictures: Path, out: Path) -> None:
    find, rows = finder(), {}
    for path in pictures_of(pictures):
        for video in sorted(out.glob(f"{path.stem}-??.mp4")):
            stored = video.with_suffix(".mesh.npz")
            if not stored.exists():
                np.savez_compressed(stored, **read_video(video, find))
            with np.load(stored) as read, np.load(out / f"{video.stem[-2:]}.npz") as truth:
                rows[video.stem] = measures(read, truth, others(out, video.stem[-2:]))
    (out / "mesh.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    for name, row in rows.items():
        print(name, "  ".join(f"{key} {value:.3f}" for key, value in row.items()))
    for key in next(iter(rows.values()), {}):
        values = [row[key] for row in rows.values()]
        print(f"{key}: mean {np.nanmean(values):.3f}, least {np.nanmin(values):.3f}, most {np.nanmax(values):.3f}")


def read_video(video: Path, find) -> dict[str, np.ndarray]:
    """What is read of a video.

    points [T, 478, 3] in pixels, NaN without a face; background, the mean square to the first frame where the person is neither in it nor
    in the frame itself, NaN where that is nowhere; sharpness [T], variance of the Laplacian; color [T, 3].
    """
    import av

    points, sharpness, color, first, behind = [], [], [], None, None
    total, count = 0.0, 0
    with av.open(str(video)) as file:
        for frame in file.decode(video=0):
            pixels = frame.to_ndarray(format="rgb24")
            times = max(1, LEAST_SIDE // max(pixels.shape[:2]))
            large = np.ascontiguousarray(pixels.repeat(times, 0).repeat(times, 1))
            points_N3, mask = find(large)
            points.append(points_N3 / times if len(points_N3) else np.full((POINTS, 3), np.nan))
            free = mask[::times, ::times] < PERSON
            if first is None:
                first, behind = pixels.astype(np.float32), free
            change = ((pixels - first) ** 2).mean(2)[behind & free]
            total, count = total + float(change.sum()), count + change.size
            sharpness.append(detail(pixels))
            color.append(pixels.mean((0, 1)))
    return {
        "points": np.stack(points).astype(np.float32),
        "background": np.array(total / count if count else np.nan),
        "sharpness": np.array(sharpness),
        "color": np.stack(color),
    }


def detail(pixels_HWC: np.ndarray) -> float:
    """Variance of the Laplacian of the gray values."""
    gray = pixels_HWC.astype(np.float32).mean(2)
    middle, cross = gray[1:-1, 1:-1], gray[:-2, 1:-1] + gray[2:, 1:-1] + gray[1:-1, :-2] + gray[1:-1, 2:]
    return float((cross - 4 * middle).var())


def measures(read, truth, other_openings: list[np.ndarray]) -> dict[str, float]:
    """The numbers of one video."""
    points, found = read["points"], ~np.isnan(read["points"][:, 0, 0])
    height = np.linalg.norm(points[:, TOP, :2] - points[:, CHIN, :2], axis=1)
    opening = np.linalg.norm(points[:, UPPER_LIP, :2] - points[:, LOWER_LIP, :2], axis=1) / height
    true = truth["opening_T"][: len(opening)]
    opening, found = opening[: len(true)], found[: len(true)]
    r, lag = best_lag(opening, true, found)
    low, high = np.nanpercentile(opening, (5, 95))
    shut = (truth["closure_T"][: len(opening)] > CLOSED) & found
    eyes = eye_opening(points)
    blinks = eyes < SHUT_EYE * np.nanmedian(eyes)
    row = {
        "face": float(found.mean()),
        "deviation": float(np.nanstd(opening)),
        "r": r,
        "lag": float(lag),
        "r_shuffled": float(np.mean([correlation(opening, other, found) for other in other_openings])) if other_openings else np.nan,
        "closed": float((opening[shut] < low + SHUT_LIPS * (high - low)).mean()) if shut.any() else np.nan,
        "blinks_a_minute": float((blinks[1:] & ~blinks[:-1]).sum() * MINUTE / len(eyes)),
        "shape": shape_change(points),
        "background_db": 10 * float(np.log10(255**2 / max(float(read["background"]), 1e-3))),
    }
    return row | (compare_minutes(read, opening, true, found) if len(opening) >= 2 * MINUTE else {})


def compare_minutes(read, opening_T: np.ndarray, true_T: np.ndarray, found_T: np.ndarray) -> dict[str, float]:
    """The mouth in the first and in the last minute, and by what part sharpness and color (the channel that changes most) differ then."""
    first, last = slice(None, MINUTE), slice(len(opening_T) - MINUTE, len(opening_T))
    r_first, r_last = (correlation(opening_T[part], true_T[part], found_T[part]) for part in (first, last))
    sharper, brighter = (read[name][last].mean(0) / read[name][first].mean(0) - 1 for name in ("sharpness", "color"))
    return {
        "r_first_minute": r_first,
        "r_last_minute": r_last,
        "sharpness_change": float(sharper),
        "color_change": float(max(brighter, key=abs)),
    }


def best_lag(opening_T: np.ndarray, true_T: np.ndarray, found_T: np.ndarray) -> tuple[float, int]:
    """The highest correlation within three frames, and where it is."""
    return max((correlation(opening_T, np.roll(true_T, lag), found_T), lag) for lag in LAGS)


def correlation(opening_T: np.ndarray, true_T: np.ndarray, found_T: np.ndarray) -> float:
    """Where a face was found; the longer of the two is cut."""
    count = min(len(opening_T), len(true_T))
    kept = found_T[:count]
    return float(np.corrcoef(opening_T[:count][kept], true_T[:count][kept])[0, 1])


def eye_opening(points_TN3: np.ndarray) -> np.ndarray:
    """[T] between the lids' middles, by the eye's width; mean of both eyes."""
    eyes = []
    for upper, lower, (left, right) in zip(UPPER_LIDS, LOWER_LIDS, EYE_CORNERS, strict=True):
        gap = np.linalg.norm(points_TN3[:, upper[3], :2] - points_TN3[:, lower[3], :2], axis=1)
        eyes.append(gap / np.linalg.norm(points_TN3[:, left, :2] - points_TN3[:, right, :2], axis=1))
    return np.mean(eyes, axis=0)


def shape_change(points_TN3: np.ndarray) -> float:
    """How far the face without mouth and lids leaves its first shape, by its height: after the best turn, shift and scale in 3-D."""
    moving = {*MOUTH, *INNER_CORNERS, *(point for row in (*UPPER_LIDS, *LOWER_LIDS) for point in row), *range(468, POINTS), CHIN}
    still = [point for point in range(468) if point not in moving]
    errors, seen = [], points_TN3[~np.isnan(points_TN3[:, 0, 0])]
    if not len(seen):
        return np.nan
    first, height = seen[0, still], np.linalg.norm(seen[0, TOP] - seen[0, CHIN])
    for points_N3 in seen:
        laid = laid_onto(points_N3[still], first)(points_N3[still])
        errors.append(np.sqrt(((laid - first) ** 2).sum(1).mean()) / height)
    return float(np.mean(errors))


def others(out: Path, language: str) -> list[np.ndarray]:
    """The true openings of the other languages' speech."""
    openings = []
    for path in sorted(out.glob("??.npz")):
        if path.stem != language:
            with np.load(path) as truth:
                openings.append(truth["opening_T"])
    return openings


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
