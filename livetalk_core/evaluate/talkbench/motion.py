"""Motion of head and hands: how far they leave their mean place within 5 s, in distances of the eyes. 0 is still; more is not better.

The definition is ours, after the variance of hand keypoints of CyberHost (Lin et al. 2024): the root of the mean square distance of
keypoints from their own mean over the window. Windows make short and long videos comparable: slow drift of the whole picture counts little.

Axes: T frames, K points. Points are (x, y) in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from livetalk_core.evaluate.talkbench.landmarks import eye_distance, need_mediapipe, pixels_of
from livetalk_core.evaluate.talkbench.measure import Measured, NotMeasured, Shown, in_batches
from livetalk_core.evaluate.talkbench.sync import frames_of

WINDOW_S = 5.0
HEAD = (10, 168, 1, 33, 133, 362, 263)
"""MediaPipe's numbers of points that speech and blinks do not move: the forehead, the nose's bridge and tip, the corners of the eyes."""
HANDS = ("Left", "Right")


@dataclass(frozen=True, kw_only=True)
class Pose:
    """What is seen in a frame. A part that is not seen is left out."""

    head_K2: np.ndarray | None = None
    eyes: float = 0.0
    """Pixels between the outer corners of the eyes."""
    hands_K2: dict[str, np.ndarray] = field(default_factory=dict)
    """The points of each hand, by MediaPipe's name of its side."""


Read = Callable[[np.ndarray], Pose]
"""A uint8 RGB frame -> what is seen in it."""


@dataclass(kw_only=True)
class Spread:
    """Square distances of a part's points from their mean, summed over windows."""

    total: float = 0.0
    frames: int = 0
    series: list[float] = field(default_factory=list)

    def add(self, square: float, frames: int) -> None:
        """Square distances of a window's frames, summed, in square distances of the eyes."""
        self.total, self.frames = self.total + square, self.frames + frames

    @property
    def root(self) -> float:
        return math.sqrt(self.total / self.frames)


class Motion:
    """Numbers `head_motion`, `hand_motion` (left out if no hand is seen) and `hands_seen`, the part of the frames that show a hand.

    `open_reader` opens a reader for one video, which may follow face and hands from frame to frame.
    """

    name = "motion"

    def __init__(self, open_reader: Callable[[], AbstractContextManager[Read]], version: str) -> None:
        self.open_reader, self.version = open_reader, f"{version}, windows of {WINDOW_S:g} s"

    def measure(self, shown: Shown) -> Measured:
        head, hands, eyes = Spread(), Spread(), 0.0
        frames = with_hand = 0
        with self.open_reader() as read:
            for window in in_batches(map(read, frames_of(shown.video)), round(25 * WINDOW_S)):
                frames += len(window)
                with_hand += sum(bool(pose.hands_K2) for pose in window)
                eyes = eyes_of(window) or eyes
                if eyes:
                    add_window(head, hands, window, eyes)
        check(frames, head)
        return Measured(
            numbers=numbers_of(head, hands, with_hand / frames),
            series={"head_motion": head.series},
            window_s=WINDOW_S,
            notes=tuple(notes_of(frames, head, with_hand)),
        )


def add_window(head: Spread, hands: Spread, window: list[Pose], eyes: float) -> None:
    """Add one window; only a whole one has its place in the series."""
    seen = [pose.head_K2 for pose in window if pose.head_K2 is not None]
    square = spread_of(seen) / eyes**2
    head.add(square, len(seen))
    if seen and len(window) == round(25 * WINDOW_S):
        head.series.append(math.sqrt(square / len(seen)))
    for side in HANDS:
        seen = [pose.hands_K2[side] for pose in window if side in pose.hands_K2]
        hands.add(spread_of(seen) / eyes**2, len(seen))


def spread_of(points: list[np.ndarray]) -> float:
    """Square distance of the points [K, 2] from their mean over the frames; mean over the points, sum over the frames."""
    if not points:
        return 0.0
    points_TK2 = np.stack(points).astype(np.float64)
    return float(np.square(points_TK2 - points_TK2.mean(0)).sum(2).mean(1).sum())


def eyes_of(window: list[Pose]) -> float:
    """Mean distance of the eyes; 0 without a face."""
    found = [pose.eyes for pose in window if pose.head_K2 is not None]
    return sum(found) / len(found) if found else 0.0


def check(frames: int, head: Spread) -> None:
    """NotMeasured for what holds no motion of a head."""
    if frames < 2:
        raise NotMeasured(f"{frames} frame holds no motion; 2 or more are needed")
    if not head.frames:
        raise NotMeasured(f"no face was found in {frames} frames, and motion is measured in distances of the eyes")
    if head.frames == 1:
        raise NotMeasured(f"a face was found in 1 of {frames} frames; 2 or more are needed")


def numbers_of(head: Spread, hands: Spread, hands_seen: float) -> dict[str, float]:
    found = {"head_motion": head.root, "hands_seen": hands_seen}
    return found | ({"hand_motion": hands.root} if hands.frames > 1 else {})


def notes_of(frames: int, head: Spread, with_hand: int) -> Iterator[str]:
    if head.frames < frames:
        yield f"no face in {frames - head.frames} of {frames} frames"
    if not with_hand:
        yield "no hand was seen"


def mediapipe_motion() -> Motion:
    """Motion by MediaPipe's face mesh and hands, whose weights are in its package. NotMeasured without the package."""
    mediapipe = need_mediapipe()
    solutions = mediapipe.solutions

    @contextmanager
    def open_reader() -> Iterator[Read]:
        with solutions.face_mesh.FaceMesh(max_num_faces=1) as mesh, solutions.hands.Hands(max_num_hands=2) as hands:
            yield lambda frame_HWC: read_pose(mesh, hands, frame_HWC)

    return Motion(open_reader, f"mediapipe {mediapipe.__version__}")


def read_pose(mesh: Any, hands: Any, frame_HWC: np.ndarray) -> Pose:
    """What MediaPipe sees in a frame."""
    faces, found = mesh.process(frame_HWC).multi_face_landmarks, hands.process(frame_HWC)
    sides = [each.classification[0] for each in found.multi_handedness or ()]
    points = [pixels_of(each, frame_HWC) for each in found.multi_hand_landmarks or ()]
    hands_K2 = by_side([(side.score, side.label, each) for side, each in zip(sides, points, strict=True)])
    if not faces:
        return Pose(hands_K2=hands_K2)
    points = pixels_of(faces[0], frame_HWC)
    return Pose(head_K2=points[list(HEAD)], eyes=eye_distance(points), hands_K2=hands_K2)


def by_side(found: list[tuple[float, str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Up to two hands by side, from how sure MediaPipe is of each one's side. Two of one side are two hands all the same."""
    hands: dict[str, np.ndarray] = {}
    for _, side, points_K2 in sorted(found, key=lambda hand: hand[0], reverse=True):
        hands[side if side not in hands else next(other for other in HANDS if other != side)] = points_K2
    return hands
