"""Lip landmark distance: how far the lips are from the true video's, where there is one. 0 is the same mouth.

Axes: L lip points. Points are (x, y) in pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from livetalk_core.evaluate.talkbench.measure import Measured, NotMeasured, Shown, WindowMeans
from livetalk_core.evaluate.talkbench.sync import frames_of


@dataclass(frozen=True, kw_only=True)
class Mouth:
    """The lips of a face, and its size."""

    lips_L2: np.ndarray
    eyes: float
    """Pixels between the outer corners of the eyes."""


Read = Callable[[np.ndarray], Mouth | None]
"""A uint8 RGB frame -> the mouth of its face, or None without one."""
LIPS = (
    61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 185, 40, 39, 37, 0, 267, 269, 270, 409,
    78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 191, 80, 81, 82, 13, 312, 311, 310, 415,
)  # fmt: skip
"""MediaPipe's numbers of the outer and the inner contour."""
EYE_CORNERS = (33, 263)


class LipDistance:
    """Mean distance of lip points, after Chen et al. 2018; each mouth is centered and measured in its own face's distance of the eyes.

    `open_reader` makes a reader for one video, which may follow a face from frame to frame.
    """

    name = "lip_distance"

    def __init__(self, open_reader: Callable[[], Read], version: str) -> None:
        self.open_reader, self.version = open_reader, version

    def measure(self, shown: Shown) -> Measured:
        if shown.clip.video is None:
            raise NotMeasured("the clip has no true video")
        read_made, read_true = self.open_reader(), self.open_reader()
        total, count, frames, means = 0.0, 0, 0, WindowMeans(25)
        for made_HWC, true_HWC in zip(frames_of(shown.video), frames_of(shown.clip.video), strict=False):
            frames += 1
            made, true = read_made(made_HWC), read_true(true_HWC)
            if made is not None and true is not None:
                distance = lip_distance(made, true)
                total, count = total + distance, count + 1
                means.add(distance)
        if count == 0:
            raise NotMeasured(f"in none of {frames} frames a face was found in both videos")
        notes = (f"no face in one of the two videos in {frames - count} of {frames} frames",) if count < frames else ()
        return Measured(numbers={"lip_distance": total / count}, weight=count, series={"lip_distance": means.means}, notes=notes)


def lip_distance(a: Mouth, b: Mouth) -> float:
    """Mean over the points; each mouth in its own face's measure."""
    shapes = [(mouth.lips_L2 - mouth.lips_L2.mean(0)) / mouth.eyes for mouth in (a, b)]
    return float(np.linalg.norm(shapes[0] - shapes[1], axis=1).mean())


def mediapipe_distance() -> LipDistance:
    """Lip distance by MediaPipe's face mesh, whose weights are in its package. NotMeasured without the package."""
    mediapipe = need_mediapipe()
    mesh = mediapipe.solutions.face_mesh.FaceMesh
    return LipDistance(lambda: mesh_reader(mesh(max_num_faces=1)), f"mediapipe {mediapipe.__version__}")


def need_mediapipe() -> Any:
    """The package mediapipe, of a release that carries its models. NotMeasured without it."""
    try:
        import mediapipe
    except ImportError:
        mediapipe = None
    if not hasattr(mediapipe, "solutions"):
        raise NotMeasured("needs MediaPipe with its models: pip install mediapipe==0.10.14, in an environment with numpy below 2")
    return mediapipe


def mesh_reader(mesh: Any) -> Read:
    """Reads mouths by a face mesh that follows one face."""

    def read(frame_HWC: np.ndarray) -> Mouth | None:
        found = mesh.process(frame_HWC).multi_face_landmarks
        if not found:
            return None
        points = pixels_of(found[0], frame_HWC)
        return Mouth(lips_L2=points[list(LIPS)], eyes=eye_distance(points))

    return read


def pixels_of(found: Any, frame_HWC: np.ndarray) -> np.ndarray:
    """MediaPipe's points [K, 2] in pixels."""
    height, width = frame_HWC.shape[:2]
    return np.array([(point.x * width, point.y * height) for point in found.landmark])


def eye_distance(points_K2: np.ndarray) -> float:
    """Pixels between the outer corners of the eyes, from all points of a face."""
    left, right = points_K2[list(EYE_CORNERS)]
    return float(np.linalg.norm(left - right))
