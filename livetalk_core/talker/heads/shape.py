"""A person's face at rest: the shared mesh moved by age, sex, build, ancestry and features; and the face units that fit it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from livetalk_core.talker.heads.anatomy import CHIN, HAIRLINE, LIDS_LOWER, LIDS_UPPER, Anatomy
from livetalk_core.talker.heads.person import Person

AGES = (("baby", 1.0), ("child", 10.0), ("young", 25.0), ("old", 90.0))
LEVELS = ("min", "average", "max")
TEETH_SHOW = 0.025
"""The upper teeth reach this far below the lip at rest, decimeters."""
SHUT = 1.04
"""A little more than shut, so that no light comes through."""


@dataclass(frozen=True, kw_only=True)
class Face:
    """One person's points at rest and how each unit moves them."""

    points_N3: np.ndarray
    units_UN3: np.ndarray
    names: tuple[str, ...]
    """Of the units, without their folder: jawOpen, eyeBlinkLeft, ..."""
    height: float
    """From chin to hairline, decimeters."""

    def at(self, name: str) -> int:
        return self.names.index(name)


def shape_face(anatomy: Anatomy, person: Person) -> Face:
    """The person's face. KeyError for a feature that the mesh lacks."""
    points_N3 = anatomy.points_N3.copy()
    for name, amount in {**macro_weights(person), **dict(person.features)}.items():
        points_N3 += amount * anatomy.delta(name)
    points_N3 = brought_to_scale(anatomy, points_N3)
    points_N3[anatomy.points_of("upper_teeth"), 1] -= TEETH_SHOW
    names = tuple(name[5:] for name in anatomy.index if name.startswith("unit/"))
    units_UN3 = np.stack([anatomy.delta(f"unit/{name}") for name in names])
    for side in ("Left", "Right"):
        units_UN3[names.index(f"eyeBlink{side}")] *= blink_scale(anatomy, points_N3, units_UN3[names.index(f"eyeBlink{side}")], side)
    return Face(points_N3=points_N3, units_UN3=units_UN3, names=names, height=face_height(anatomy, points_N3))


def brought_to_scale(anatomy: Anatomy, points_N3: np.ndarray) -> np.ndarray:
    """Every face is as high as the shared mesh's, and its eyes are where that has them: a camera frames a child as it frames a man."""
    eyes = anatomy.points_of("left_eye", "right_eye")
    scale = face_height(anatomy, anatomy.points_N3) / face_height(anatomy, points_N3)
    return (points_N3 - points_N3[eyes].mean(0)) * scale + anatomy.points_N3[eyes].mean(0)


def face_height(anatomy: Anatomy, points_N3: np.ndarray) -> float:
    return float(np.linalg.norm(points_N3[anatomy.place[HAIRLINE]] - points_N3[anatomy.place[CHIN]]))


def macro_weights(person: Person) -> dict[str, float]:
    """MakeHuman's own mixture: the product of the shares of ancestry, sex, age, muscle and weight."""
    ancestry = {"african": person.african, "asian": person.asian, "caucasian": max(0.0, 1 - person.african - person.asian)}
    sex = {"male": person.masculine, "female": 1 - person.masculine}
    age = between(person.age, AGES)
    muscle = between(person.muscle, tuple((f"{level}muscle", k / 2) for k, level in enumerate(LEVELS)))
    weight = between(person.weight, tuple((f"{level}weight", k / 2) for k, level in enumerate(LEVELS)))
    mixed: dict[str, float] = {}
    for s, share in ((f"{s}-{a}", x * y) for s, x in sex.items() for a, y in age.items()):
        mixed |= {f"macro/{origin}-{s}": part * share for origin, part in ancestry.items()}
        mixed |= {f"macro/universal-{s}-{m}-{w}": share * x * y for m, x in muscle.items() for w, y in weight.items()}
    return {name: value for name, value in mixed.items() if value > 0}


def between(value: float, steps: tuple[tuple[str, float], ...]) -> dict[str, float]:
    """Shares of the two steps about a value."""
    places = [place for _, place in steps]
    return {name: float(np.interp(value, places, np.eye(len(steps))[k])) for k, (name, _) in enumerate(steps)}


def blink_scale(anatomy: Anatomy, points_N3: np.ndarray, unit_N3: np.ndarray, side: str) -> float:
    """How much of the unit shuts this person's lids."""
    upper = [anatomy.place[point] for point in LIDS_UPPER[side]]
    lower = [anatomy.place[point] for point in LIDS_LOWER[side]]
    gap = (points_N3[upper] - points_N3[lower])[:, 1].max()
    closed = (unit_N3[lower] - unit_N3[upper])[:, 1].min()
    return float(np.clip(SHUT * gap / max(closed, 1e-3), 0.5, 1.8))
