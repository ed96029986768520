"""Clips of photographs that say real words: a still picture moved by its face mesh, with the true mouth and lids of every frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from livetalk_core.talker.heads.movement import Moment, Movement, lids_after, stress_of
from livetalk_core.talker.identity import Mouth
from livetalk_core.talker.photo.change import recolored, reshaped, some_background
from livetalk_core.talker.photo.draw import Inside, Stage
from livetalk_core.talker.photo.expression import Look
from livetalk_core.talker.photo.fit import fit_path
from livetalk_core.talker.photo.fitted import Portrait, cut_square, fits_in, mirrored, read_portrait
from livetalk_core.talker.photo.mesh import EYE_CORNERS, MOUTH, UPPER_LIDS, other_side
from livetalk_core.talker.photo.warp import Turn
from livetalk_core.talker.talk import LEVEL, talk
from livetalk_core.talker.viseme import FPS, SAMPLES_PER_FRAME, MouthTrack

FINER = 2
OUTSIDE_S = (0.4, 3.0)
"""The reference picture is from a moment this long before the clip."""
BLINKING = 0.7
"""Share of clips with a blink at a random time."""
MARGIN = 0.10
"""Skin around mouth or eyes that belongs to their mask, face heights."""
EYES = tuple(point for upper, corners in zip(UPPER_LIDS, EYE_CORNERS, strict=True) for point in (*upper, *corners))
EYES_SHARE = 0.5
"""Of the clips with a blink, those whose mask is the eyes', so that training attends to it: a mask of both would have its middle on the
nose."""
TRIES = 12
TILT = 8.0
"""Standard deviation of the angle by which a picture is turned, degrees: official portraits are upright, other photographs are not."""
FACE_SHARE = (0.48, 0.76)
"""Of the picture's height, from chin to hairline: as close as `--crop face` cuts, since small mouths are too coarse at 128 pixels."""


@dataclass(frozen=True, kw_only=True)
class PhotoClip:
    """A talking clip: T frames at 25 fps with 640 samples of sound each."""

    voice: str
    frames_THWC: np.ndarray
    """uint8 [T, size, size, 3]."""
    samples_N: np.ndarray
    truth: MouthTrack
    lids_T: np.ndarray
    """0 open, 1 shut."""
    reference_HWC: np.ndarray
    """uint8: the picture itself, or the same person at another moment."""
    mask_HW: np.ndarray
    """bool: where the mouth is at any time, with the skin around it; in some clips where the eyes are."""


@dataclass(frozen=True, kw_only=True)
class Acting:
    """How a person moves in one clip: against the head's place at its start, and how lively."""

    movement: Movement
    calm: float
    smile: float

    def at(self, second: float, stress: float = 0.0, lids: float = 0.0) -> tuple[Turn, Look]:
        moment = self.movement.at(second, stress)
        return turned(moment, self.movement.at(0.0), self.calm), look_of(moment, lids, self.smile)


def make_photo_clip(seed: int, seconds: float, size: int, pictures: Sequence[Path], split: str = "train") -> PhotoClip:
    """The clip of a seed from one of these fitted pictures. ValueError where no picture has a face."""
    rng = np.random.default_rng([seed, ("train", "heldout").index(split), 5])
    portrait = choose_portrait(rng, pictures, size * FINER)
    frames = round(seconds * FPS)
    voice, samples_N, track = talk(rng, frames, split)
    track = spoken(track, float(rng.uniform(0.75, 1.15)))
    stress_T = stress_of(np.sqrt((samples_N.reshape(frames, SAMPLES_PER_FRAME) ** 2).mean(1)), LEVEL)
    movement, lids_T = Movement.sample(int(rng.integers(2**31)), seconds), random_lids(rng, frames)
    stage = Stage(portrait, Inside.sample(rng, skin_of(portrait)), some_background(rng, portrait))
    acting = Acting(movement=movement, calm=float(rng.uniform(0.3, 0.8)), smile=float(rng.uniform(-0.3, 0.6)))
    poses = [acting.at(frame / FPS, float(stress_T[frame]), float(lids_T[frame])) for frame in range(frames)]
    return PhotoClip(
        voice=voice,
        frames_THWC=np.stack([stage.draw(track.at(frame), look, turn, FINER) for frame, (turn, look) in enumerate(poses)]),
        samples_N=samples_N,
        truth=track,
        lids_T=lids_T,
        reference_HWC=reference_of(rng, stage, track, acting),
        mask_HW=moving_mask(stage, EYES if lids_T.max() > 0.5 and rng.random() < EYES_SHARE else MOUTH, track, poses, size),
    )


def skin_of(portrait: Portrait) -> np.ndarray:
    """[3] the mean color of the face."""
    x, y = portrait.points_N3[:468, :2].T.astype(int).clip(0, portrait.pixels_HWC.shape[0] - 1)
    return portrait.pixels_HWC[y, x].mean(0)


def choose_portrait(rng: np.random.Generator, pictures: Sequence[Path], side: int) -> Portrait:
    """A picture with a face, cut, tilted, mirrored, reshaped and recolored at random."""
    for _ in range(TRIES):
        path = pictures[int(rng.integers(len(pictures)))]
        whole = read_portrait(path, fit_path(path))
        share, aim = float(rng.uniform(*FACE_SHARE)), (float(rng.normal(0.5, 0.05)), float(rng.normal(0.48, 0.05)))
        if whole is None or not fits_in(whole, side, share, aim):
            continue
        if rng.random() < 0.5:
            whole = mirrored(whole, other_side(whole.points_N3))
        return recolored(rng, reshaped(rng, cut_square(whole, side, share, aim, float(rng.normal(0, TILT)))))
    raise ValueError(f"{TRIES} of {len(pictures)} pictures had no face or too little around it; fit others")


def spoken(track: MouthTrack, articulation: float) -> MouthTrack:
    """The track as this person articulates it: 0.7 mumbles, 1.2 overacts."""
    return replace(track, opening_T=np.clip(articulation * track.opening_T, 0, 1))


def random_lids(rng: np.random.Generator, frames: int) -> np.ndarray:
    """[T] a blink at a random time in most clips, and one every few seconds in long ones."""
    lids_T = np.zeros(frames, np.float32)
    start = float(rng.uniform(-0.25, frames / FPS))
    while start < frames / FPS:
        if rng.random() < BLINKING:
            lids_T = np.maximum(lids_T, [lids_after(frame / FPS - start) for frame in range(frames)])
        start += float(rng.uniform(1.5, 5.0))
    return lids_T.astype(np.float32)


def turned(moment: Moment, start: Moment, calm: float) -> Turn:
    """The head's movement against its place at the clip's start."""
    return Turn(
        yaw=calm * (moment.yaw - start.yaw),
        pitch=calm * (moment.pitch - start.pitch),
        roll=calm * (moment.roll - start.roll),
        x=0.4 * calm * (moment.x - start.x),
        y=-0.4 * calm * (moment.y - start.y),
        scale=1 + 0.12 * calm * (moment.z - start.z),
    )


def look_of(moment: Moment, lids: float, smile: float) -> Look:
    units = dict(moment.expression)
    return Look(blink=lids, brow=units["browInnerUp"] - 0.16 + units["browOuterUpLeft"], smile=smile)


def reference_of(rng: np.random.Generator, stage: Stage, track: MouthTrack, acting: Acting) -> np.ndarray:
    """The picture as it is, the person at another moment of the speech, or smiling with bared teeth, as many do in photographs."""
    kind = rng.random()
    if kind < 0.4:
        return stage.untouched(FINER)
    turn, look = acting.at(-float(rng.uniform(*OUTSIDE_S)))
    if kind < 0.7:
        return stage.draw(track.at(int(rng.integers(len(track)))), look, turn, FINER)
    smile = Mouth(opening=float(rng.uniform(0.15, 0.5)), width=float(rng.uniform(0.5, 1)), teeth=1.0)
    return stage.draw(smile, replace(look, smile=float(rng.uniform(0.6, 1.4))), turn, FINER)


def moving_mask(stage: Stage, part: tuple[int, ...], track: MouthTrack, poses: list[tuple[Turn, Look]], size: int) -> np.ndarray:
    """bool [size, size]: a box around these points of the mesh in every fourth frame."""
    mask_HW = np.zeros((size, size), bool)
    margin = MARGIN * stage.puppet.frame.height
    for frame in range(0, len(poses), 4):
        turn, look = poses[frame]
        posed_N2 = stage.puppet.posed(track.at(frame), look, turn)[list(part)]
        low, high = posed_N2.min(0) - margin, posed_N2.max(0) + margin
        (left, top), (right, bottom) = (np.round(edge / FINER).astype(int).clip(0, size) for edge in (low, high))
        mask_HW[top:bottom, left:right] = True
    return mask_HW
