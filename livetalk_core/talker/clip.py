"""Makes clips of a drawn person who says real words, with the true mouth of every frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from livetalk_core.talker.face import draw
from livetalk_core.talker.identity import Identity, Pose
from livetalk_core.talker.motion import Motion
from livetalk_core.talker.talk import LEVEL, talk
from livetalk_core.talker.viseme import FPS, SAMPLES_PER_FRAME, MouthTrack

SPLITS = ("train", "heldout")
TRAIN_IDENTITIES = range(0, 1_000_000)
HELD_OUT_IDENTITIES = range(1_000_000, 1_000_256)
REFERENCE_BEFORE_S = (0.4, 3.0)
"""The reference picture shows a moment this many seconds before the clip."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A talking clip: T frames at 25 fps with 640 samples of sound each."""

    identity: Identity
    voice: str
    frames_THWC: np.ndarray
    """uint8 [T, size, size, 3]."""
    samples_N: np.ndarray
    """float32 [640 T] in [-1, 1], 16 kHz."""
    truth: MouthTrack
    """The drawn mouth in each frame."""
    poses: tuple[Pose, ...]
    reference_HWC: np.ndarray
    """uint8 [size, size, 3]: the same person at another moment, with any mouth."""


@dataclass(frozen=True, kw_only=True)
class Script:
    """A clip before drawing: sound, true mouth and movement."""

    identity: Identity
    voice: str
    samples_N: np.ndarray
    truth: MouthTrack
    poses: tuple[Pose, ...]
    reference_pose: Pose
    reference_frame: int
    """The frame of `truth` whose mouth the reference picture has."""


def make_clip(seed: int, seconds: float, size: int, split: str = "train") -> Clip:
    """The clip of a seed; the same seed gives the same clip. Split `heldout` has people, voices and sentences that `train` never has.

    ValueError for an unknown split or a length outside 0.04 to 600 s; FileNotFoundError without espeak-ng.
    """
    script = write_script(seed, seconds, split)
    frames = [draw(script.identity, pose, script.truth.at(k), size) for k, pose in enumerate(script.poses)]
    return Clip(
        identity=script.identity,
        voice=script.voice,
        frames_THWC=np.stack(frames),
        samples_N=script.samples_N,
        truth=script.truth,
        poses=script.poses,
        reference_HWC=draw(script.identity, script.reference_pose, script.truth.at(script.reference_frame), size),
    )


def write_script(seed: int, seconds: float, split: str) -> Script:
    """Make everything in a clip except its pixels."""
    if split not in SPLITS:
        raise ValueError(f"split={split!r} must be {' or '.join(SPLITS)}")
    if not 1 / FPS <= seconds <= 600:
        raise ValueError(f"seconds={seconds} must be 0.04 (one frame) to 600; cut longer talks into clips")
    frames = round(seconds * FPS)
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    people = TRAIN_IDENTITIES if split == "train" else HELD_OUT_IDENTITIES
    identity = Identity.sample(int(people[rng.integers(len(people))]))
    voice, samples_N, track = talk(rng, frames, split)
    motion = Motion.sample(int(rng.integers(2**31)), frames / FPS)
    loud_T = np.sqrt((samples_N.reshape(frames, SAMPLES_PER_FRAME) ** 2).mean(1))
    stress_T = np.clip(np.convolve(loud_T, np.hanning(11) / 5, mode="same") / (2 * LEVEL), 0, 1)[:frames]
    return Script(
        identity=identity,
        voice=voice,
        samples_N=samples_N,
        truth=track,
        poses=tuple(motion.pose(k / FPS, float(stress_T[k])) for k in range(frames)),
        reference_pose=motion.pose(-float(rng.uniform(*REFERENCE_BEFORE_S))),
        reference_frame=int(rng.integers(frames)),
    )
