"""The measures, by name: each is opened with its weights, or stands for what is missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from livetalk_core.evaluate.talkbench import weights
from livetalk_core.evaluate.talkbench.bench import UNAVAILABLE
from livetalk_core.evaluate.talkbench.clip_image import background_consistency
from livetalk_core.evaluate.talkbench.dino import subject_consistency
from livetalk_core.evaluate.talkbench.drift import PictureDrift
from livetalk_core.evaluate.talkbench.flicker import TemporalFlickering
from livetalk_core.evaluate.talkbench.identity import opencv_identity
from livetalk_core.evaluate.talkbench.landmarks import mediapipe_distance
from livetalk_core.evaluate.talkbench.measure import Measure, Measured, NotMeasured, Shown
from livetalk_core.evaluate.talkbench.motion import mediapipe_motion
from livetalk_core.evaluate.talkbench.quality import one_align
from livetalk_core.evaluate.talkbench.smoothness import motion_smoothness
from livetalk_core.evaluate.talkbench.speed import Speed
from livetalk_core.evaluate.talkbench.sync import sync_measure
from livetalk_core.evaluate.talkbench.tracks import LEAST_SIDE
from livetalk_core.evaluate.talkbench.weights import WeightFile


@dataclass(frozen=True, kw_only=True)
class Unavailable:
    """A measure whose weights or package are not there."""

    name: str
    reason: str

    @property
    def version(self) -> str:
        return UNAVAILABLE

    def measure(self, shown: Shown) -> Measured:
        raise NotMeasured(self.reason)


@dataclass(frozen=True, kw_only=True)
class Opening:
    """Settings that measures are opened with."""

    folder: Path | None
    """The metrics folder with the users' weight files."""
    device: torch.device
    least_side: float = LEAST_SIDE
    """Smallest face, in pixels, whose lips are measured."""


def open_speed(opening: Opening) -> Measure:
    return Speed()


def open_flickering(opening: Opening) -> Measure:
    return TemporalFlickering()


def open_subject(opening: Opening) -> Measure:
    return subject_consistency(need(weights.DINO, opening), opening.device)


def open_background(opening: Opening) -> Measure:
    return background_consistency(need(weights.CLIP, opening), opening.device)


def open_sync(opening: Opening) -> Measure:
    return sync_measure(need(weights.SYNCNET, opening), need(weights.S3FD, opening), opening.device, opening.least_side)


def open_smoothness(opening: Opening) -> Measure:
    return motion_smoothness(need(weights.AMT, opening), opening.device)


def open_quality(opening: Opening) -> Measure:
    return one_align(opening.device)


def open_identity(opening: Opening) -> Measure:
    return opencv_identity(need(weights.YUNET, opening), need(weights.SFACE, opening))


def open_lips(opening: Opening) -> Measure:
    return mediapipe_distance()


def open_motion(opening: Opening) -> Measure:
    return mediapipe_motion()


def open_drift(opening: Opening) -> Measure:
    return PictureDrift()


OPENERS: dict[str, Callable[[Opening], Measure]] = {
    "sync": open_sync,
    "quality": open_quality,
    "subject_consistency": open_subject,
    "background_consistency": open_background,
    "motion_smoothness": open_smoothness,
    "temporal_flickering": open_flickering,
    "speed": open_speed,
    "identity": open_identity,
    "lip_distance": open_lips,
    "motion": open_motion,
    "picture_drift": open_drift,
}


def chosen(names: list[str]) -> list[str]:
    """The names of measures; all if none are given. ValueError for an unknown one."""
    for name in names:
        if name not in OPENERS:
            raise ValueError(f"measure {name!r} is not one of {', '.join(OPENERS)}")
    return names or list(OPENERS)


def check_measures(names: list[str], opening: Opening) -> None:
    """Read the weights once on the CPU, so that a wrong file is a ValueError before hours of work. OneAlign is too large for that."""
    on_cpu = replace(opening, device=torch.device("cpu"))
    for name in chosen(names):
        if name != "quality":
            open_one(name, on_cpu)


def open_measures(names: list[str], opening: Opening) -> list[Measure]:
    """The measures of these names; all if none are named. ValueError for an unknown name or weights that do not fit."""
    return [open_one(name, opening) for name in chosen(names)]


def open_one(name: str, opening: Opening) -> Measure:
    try:
        return OPENERS[name](opening)
    except NotMeasured as reason:
        return Unavailable(name=name, reason=str(reason))


def need(file: WeightFile, opening: Opening) -> Path:
    """The file's path. NotMeasured, with where to get it, if it is not in the metrics folder."""
    path = file.find(opening.folder)
    if path is None:
        raise NotMeasured(file.missing)
    return path
