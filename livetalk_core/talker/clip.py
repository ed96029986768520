"""The synthetic talker: clips of a drawn person who says real words, with the true mouth of every frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from livetalk_core.talker.espeak import Speech, Utterance, speak
from livetalk_core.talker.face import draw
from livetalk_core.talker.identity import Identity, Pose
from livetalk_core.talker.motion import Motion
from livetalk_core.talker.sentences import HELD_OUT_VOICES, SENTENCES, TRAIN_VOICES
from livetalk_core.talker.viseme import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME, MouthTrack, to_16k, track_mouth

SPLITS = ("train", "heldout")
TRAIN_IDENTITIES = range(0, 1_000_000)
HELD_OUT_IDENTITIES = range(1_000_000, 1_000_256)
LEVEL = 0.09
"""Root mean square of a clip's speech where it is loudest."""
WHOLE = 0.3
"""Share of whole sentences in training."""
LEAST_WORDS = 20
"""A language with fewer words, or none that are spaced, keeps its sentences."""
OUTSIDE_S = (0.4, 3.0)
"""The reference picture is drawn from a moment this long before the clip."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One talking clip: T frames at 25 fps, 640 samples of sound to each."""

    identity: Identity
    voice: str
    frames_THWC: np.ndarray
    """uint8 [T, size, size, 3]."""
    samples_N: np.ndarray
    """float32 [640 T] in [-1, 1], 16 kHz."""
    truth: MouthTrack
    """The mouth that was drawn, frame by frame."""
    poses: tuple[Pose, ...]
    reference_HWC: np.ndarray
    """uint8 [size, size, 3]: the same person at another moment, any mouth."""


@dataclass(frozen=True, kw_only=True)
class Script:
    """A clip before it is drawn: sound, truth and movement."""

    identity: Identity
    voice: str
    samples_N: np.ndarray
    truth: MouthTrack
    poses: tuple[Pose, ...]
    reference_pose: Pose
    reference_frame: int
    """Which frame of `truth` lends its mouth to the reference."""


def make_clip(seed: int, seconds: float, size: int, split: str = "train") -> Clip:
    """The clip of a seed; same seed, same clip. `heldout` has people, voices and sentences that `train` never has.

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
    """All of a clip but its pixels."""
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
        reference_pose=motion.pose(-float(rng.uniform(*OUTSIDE_S))),
        reference_frame=int(rng.integers(frames)),
    )


def talk(rng: np.random.Generator, frames: int, split: str) -> tuple[str, np.ndarray, MouthTrack]:
    """(voice, samples [640 frames], true mouth) of one voice saying sentences with pauses, cut at a random frame."""
    voices = TRAIN_VOICES if split == "train" else HELD_OUT_VOICES
    language, voice = voices[int(rng.integers(len(voices)))]
    manner = {
        "voice": voice,
        "words_per_minute": int(rng.integers(130, 191)),
        "pitch": int(rng.integers(32, 70)),
        "pitch_range": int(rng.integers(35, 75)),
    }
    start = int(rng.integers(0, 40))
    need = (start + frames) * SAMPLES_PER_FRAME / SAMPLE_RATE
    count = 1 + int(need / 2)
    texts = write_texts(rng, language, split, count)
    speech = join(speak([Utterance(text=text, **manner) for text in texts]), rng.uniform(0.0, 0.5, count), need)
    sound = to_16k(speech.samples_N, speech.rate)[start * SAMPLES_PER_FRAME : (start + frames) * SAMPLES_PER_FRAME]
    return voice, level(sound), track_mouth(speech).cut(start, start + frames)


def write_texts(rng: np.random.Generator, language: str, split: str, count: int) -> list[str]:
    """Sentences in any order. In training most of them are words of the language in any order: more sounds meet than in a few sentences."""
    known = SENTENCES[language][:-1] if split == "train" else SENTENCES[language][-1:]
    texts = [known[i] for i in rng.permutation(np.resize(np.arange(len(known)), count))]
    words = [word.strip(",.?!:;¿¡，。") for text in known for word in text.split()]
    if split == "heldout" or len(words) < LEAST_WORDS:
        return texts
    mixed = [f"{' '.join(rng.choice(words, rng.integers(6, 14)))}." for _ in texts]
    return [text if whole else mix for text, mix, whole in zip(texts, mixed, rng.random(count) < WHOLE, strict=True)]


def join(speeches: list[Speech], pauses_s: np.ndarray, seconds: float) -> Speech:
    """One speech of several with pauses between; silence fills it up to at least `seconds`."""
    pieces, phones, length = [], [], 0
    rate = speeches[0].rate
    for speech, pause in zip(speeches, pauses_s, strict=True):
        offset = length / rate
        phones += [type(phone)(ipa=phone.ipa, start=phone.start + offset, end=phone.end + offset) for phone in speech.phones]
        pieces += [speech.samples_N, np.zeros(round(pause * rate), np.float32)]
        length += len(speech.samples_N) + len(pieces[-1])
    missing = max(0, int(np.ceil((seconds + 0.1) * rate)) - length)
    return Speech(samples_N=np.concatenate([*pieces, np.zeros(missing, np.float32)]), rate=rate, phones=tuple(phones))


def level(samples_N: np.ndarray) -> np.ndarray:
    """Speech brought to LEVEL where it is loudest (95th percentile of 40 ms), never clipped."""
    loud = np.sqrt((samples_N.reshape(-1, SAMPLES_PER_FRAME) ** 2).mean(1))
    gain = LEVEL / max(float(np.percentile(loud, 95)), 1e-4)
    return (samples_N * min(gain, 0.99 / max(float(np.abs(samples_N).max()), 1e-4))).astype(np.float32)
