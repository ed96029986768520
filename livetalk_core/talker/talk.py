"""Makes the speech of a clip: voice, sentences and pauses, with the true mouth of every frame."""

from __future__ import annotations

import numpy as np

from livetalk_core.talker.espeak import Speech, Utterance, speak
from livetalk_core.talker.sentences import HELD_OUT_VOICES, SENTENCES, TRAIN_VOICES
from livetalk_core.talker.viseme import SAMPLE_RATE, SAMPLES_PER_FRAME, MouthTrack, to_16k, track_mouth

LEVEL = 0.09
"""RMS of a clip's speech where it is loudest."""
WHOLE_SENTENCES = 0.3
"""Share of unchanged sentences in training; the others are words in random order."""
LEAST_WORDS = 20
"""A language with fewer words, or without spaces between them, keeps its sentences."""


def talk(rng: np.random.Generator, frames: int, split: str) -> tuple[str, np.ndarray, MouthTrack]:
    """(voice, samples [640 frames], true mouth) of one voice that says sentences with pauses; it starts at a random frame."""
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
    return voice, normalize_level(sound), track_mouth(speech).cut(start, start + frames)


def write_texts(rng: np.random.Generator, language: str, split: str, count: int) -> list[str]:
    """Sentences in random order. In training most are words in random order instead, which gives more combinations of sounds."""
    known = SENTENCES[language][:-1] if split == "train" else SENTENCES[language][-1:]
    texts = [known[i] for i in rng.permutation(np.resize(np.arange(len(known)), count))]
    words = [word.strip(",.?!:;¿¡，。") for text in known for word in text.split()]
    if split == "heldout" or len(words) < LEAST_WORDS:
        return texts
    mixed = [f"{' '.join(rng.choice(words, rng.integers(6, 14)))}." for _ in texts]
    return [text if whole else mix for text, mix, whole in zip(texts, mixed, rng.random(count) < WHOLE_SENTENCES, strict=True)]


def join(speeches: list[Speech], pauses_s: np.ndarray, seconds: float) -> Speech:
    """Join speeches with pauses between them, and pad with silence to at least `seconds`."""
    pieces, phones, length = [], [], 0
    rate = speeches[0].rate
    for speech, pause in zip(speeches, pauses_s, strict=True):
        offset = length / rate
        phones += [type(phone)(ipa=phone.ipa, start=phone.start + offset, end=phone.end + offset) for phone in speech.phones]
        pieces += [speech.samples_N, np.zeros(round(pause * rate), np.float32)]
        length += len(speech.samples_N) + len(pieces[-1])
    missing = max(0, int(np.ceil((seconds + 0.1) * rate)) - length)
    return Speech(samples_N=np.concatenate([*pieces, np.zeros(missing, np.float32)]), rate=rate, phones=tuple(phones))


def normalize_level(samples_N: np.ndarray) -> np.ndarray:
    """Scale speech to LEVEL where it is loudest (95th percentile of 40 ms blocks), without clipping."""
    loud = np.sqrt((samples_N.reshape(-1, SAMPLES_PER_FRAME) ** 2).mean(1))
    gain = LEVEL / max(float(np.percentile(loud, 95)), 1e-4)
    return (samples_N * min(gain, 0.99 / max(float(np.abs(samples_N).max()), 1e-4))).astype(np.float32)
