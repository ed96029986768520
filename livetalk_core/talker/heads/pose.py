"""A face, its units and the head's movement become points in front of the camera, and the truth is measured on them.

Axes: T frames, N points, U units.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from livetalk_core.talker.heads.anatomy import LIDS_LOWER, LIDS_UPPER, LIP_LEFT, LIP_LOWER, LIP_RIGHT, LIP_UPPER, Anatomy
from livetalk_core.talker.heads.movement import Moment
from livetalk_core.talker.heads.shape import Face
from livetalk_core.talker.heads.speaking import BOTH, FULL_GAP
from livetalk_core.talker.viseme import MouthTrack

PIVOT = np.array([0.0, 6.55, 0.25], np.float32)
"""What the head turns about: the top of the neck."""
LID_DOWN, LID_UP = 3.2, 3.2
"""Units of the lids for each radian of gaze down or up."""


@dataclass(frozen=True, kw_only=True)
class Measures:
    """What the lips and lids really do, as shares of the face's height; all arrays [T] float32."""

    gap_T: np.ndarray
    """Between the lips, in the middle."""
    width_T: np.ndarray
    """Between the corners of the mouth."""
    forward_T: np.ndarray
    """How far the lips are pushed forward against rest."""
    lids_T: np.ndarray
    """Between the lids, mean of both eyes."""
    rest_width: float
    """Between the corners of the mouth at rest."""

    def cut(self, start: int, stop: int) -> Measures:
        return replace(self, **{name: values[start:stop] for name, values in vars(self).items() if name.endswith("_T")})


def gaze_units(face: Face, moments: list[Moment]) -> np.ndarray:
    """[T, U]: blinks, lids that follow the gaze, expression."""
    units_TU = np.zeros((len(moments), len(face.names)), np.float32)
    for row, moment in zip(units_TU, moments, strict=True):
        for name, amount in moment.expression:
            row[face.at(name)] += amount
        for side in BOTH:
            row[face.at(f"eyeLookDown{side}")] += LID_DOWN * max(0.0, -moment.gaze_y)
            row[face.at(f"eyeLookUp{side}")] += LID_UP * max(0.0, moment.gaze_y)
            for unit in ("eyeWide", "eyeSquint", "eyeLookDown", "eyeLookUp"):
                row[face.at(f"{unit}{side}")] *= 1 - moment.blink
            row[face.at(f"eyeBlink{side}")] = moment.blink
    return units_TU


def seal(anatomy: Anatomy, face: Face, units_TU: np.ndarray, track: MouthTrack, articulation: float) -> np.ndarray:
    """The units with the gap between the lips brought to what the truth asks for, by the unit that closes the mouth and the jaw."""
    wanted_T = FULL_GAP * face.height * articulation * track.opening_T * (1 - track.closure_T)
    middle = lip_gap(anatomy, face.points_N3[None])[0]
    per_U = lip_gap(anatomy, face.units_UN3)
    sealed_TU = units_TU.copy()
    for name, most in (("mouthClose", 0.9), ("jawOpen", 1.0), ("mouthClose", 0.9)):
        unit = face.at(name)
        missing_T = wanted_T - (middle + sealed_TU @ per_U)
        sealed_TU[:, unit] = np.clip(sealed_TU[:, unit] + missing_T / per_U[unit], 0, most)
    return sealed_TU


def lip_gap(anatomy: Anatomy, points_TN3: np.ndarray) -> np.ndarray:
    """[T] height between the lips in the middle."""
    return points_TN3[:, anatomy.place[LIP_UPPER], 1] - points_TN3[:, anatomy.place[LIP_LOWER], 1]


def bend(face: Face, units_TU: np.ndarray) -> np.ndarray:
    """[T, N, 3]: the face in its own frame, unmoved by the head."""
    units, points = face.units_UN3, face.points_N3
    return (points.reshape(1, -1) + units_TU @ units.reshape(len(units), -1)).reshape(len(units_TU), *points.shape)


def roll_eyes(anatomy: Anatomy, face: Face, points_TN3: np.ndarray, moments: list[Moment]) -> None:
    """Turns each eyeball about its middle, in place; what units did to it is undone."""
    for name in ("left_eye", "right_eye"):
        ball = anatomy.points_of(name)
        rest_N3 = face.points_N3[ball]
        center = rest_N3.mean(0)
        for points_N3, moment in zip(points_TN3, moments, strict=True):
            points_N3[ball] = (rest_N3 - center) @ rotation(moment.gaze_x, -moment.gaze_y, 0.0).T + center


def raise_tongue(anatomy: Anatomy, points_TN3: np.ndarray, tongue_T: np.ndarray) -> None:
    """Lifts the tongue's tip toward the teeth, in place."""
    part = anatomy.points_of("tongue")
    depth_N = anatomy.points_N3[part, 2]
    front_N = np.clip((depth_N - 0.9) / (depth_N.max() - 0.9), 0, 1) ** 1.5
    points_TN3[:, part, 1] += 0.10 * tongue_T[:, None] * front_N


def turn_points(points_N3: Tensor, turn_N: Tensor, moment: Moment) -> Tensor:
    """[N, 3] with the head turned and shifted; the shoulders stay (turn 0), the neck goes along in between."""
    whole, half = (torch.as_tensor(rotation(part * moment.yaw, part * moment.pitch, part * moment.roll)) for part in (1.0, 0.5))
    share_N1 = turn_N[:, None]
    from_N3 = points_N3 - torch.as_tensor(PIVOT)
    half_N3, whole_N3 = from_N3 @ half.T, from_N3 @ whole.T
    low_N1, high_N1 = (2 * share_N1).clamp(0, 1), (2 * share_N1 - 1).clamp(0, 1)
    mixed_N3 = from_N3 + (half_N3 - from_N3) * low_N1 + (whole_N3 - half_N3) * high_N1
    return mixed_N3 + torch.as_tensor(PIVOT) + torch.tensor((moment.x, moment.y, moment.z)) * (0.35 + 0.65 * share_N1)


def rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """[3, 3] float32: to the picture's right, down, clockwise."""
    cy, sy, cp, sp, cr, sr = (f(a) for a in (yaw, pitch, -roll) for f in (np.cos, np.sin))
    turn_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    turn_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    turn_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return (turn_z @ turn_y @ turn_x).astype(np.float32)


def measure(anatomy: Anatomy, face: Face, points_TN3: np.ndarray) -> Measures:
    """Reads lips and lids from the bent face (before the head's turn, which moves all of them alike)."""
    place, height = anatomy.place, face.height
    corners_T3 = points_TN3[:, place[LIP_LEFT]] - points_TN3[:, place[LIP_RIGHT]]
    lips_T = points_TN3[:, [place[LIP_UPPER], place[LIP_LOWER]], 2].mean(1)
    rest = face.points_N3[[place[LIP_UPPER], place[LIP_LOWER]], 2].mean()
    upper, lower = ([place[p] for side in BOTH for p in lids[side]] for lids in (LIDS_UPPER, LIDS_LOWER))
    lids_T = (points_TN3[:, upper, 1] - points_TN3[:, lower, 1]).clip(0).mean(1)
    return Measures(
        gap_T=(lip_gap(anatomy, points_TN3).clip(0) / height).astype(np.float32),
        width_T=(np.linalg.norm(corners_T3, axis=1) / height).astype(np.float32),
        forward_T=((lips_T - rest) / height).astype(np.float32),
        lids_T=(lids_T / height).astype(np.float32),
        rest_width=float(np.linalg.norm(face.points_N3[place[LIP_LEFT]] - face.points_N3[place[LIP_RIGHT]]) / height),
    )
