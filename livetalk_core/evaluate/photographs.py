"""Makes videos of photographs that speak, to be read by an independent face mesh (see mesh.py).

`python -m livetalk_core.evaluate.photographs MODEL PICTURES OUT [SECONDS [SIZE [LANGUAGES]]]` makes a video of every picture in each of
three languages, or of those named (en,de,zh), and stores the true mouth beside it. What is there already is passed over.
"""

from __future__ import annotations

import sys
import wave
from contextlib import closing
from pathlib import Path

import numpy as np

from livetalk_core.engine.options import EngineOptions
from livetalk_core.generate import Job, check_inputs, generate
from livetalk_core.open import open_engine
from livetalk_core.talker.espeak import Utterance, speak
from livetalk_core.talker.photo.fit import pictures_of
from livetalk_core.talker.sentences import SENTENCES
from livetalk_core.talker.talk import normalize_level
from livetalk_core.talker.viseme import FPS, SAMPLES_PER_FRAME, to_16k, track_mouth
from livetalk_core.types import StreamSettings

VOICES = {"en": "en-us+Annie", "de": "de+f5", "zh": "cmn-latn-pinyin+m4"}
"""Voices that training never uses."""
SECONDS = 10.0


def main(model: str, pictures: Path, out: Path, seconds: float = SECONDS, size: str = "auto", languages: str = ",".join(VOICES)) -> None:
    wanted = languages.split(",")
    if unknown := set(wanted) - set(VOICES):
        raise ValueError(f"no voice speaks {', '.join(sorted(unknown))}; choose from {', '.join(VOICES)}")
    out.mkdir(parents=True, exist_ok=True)
    engine = open_engine(EngineOptions(model=model), lambda note: None)
    with closing(engine):
        for path in pictures_of(pictures):
            for language in wanted:
                video = out / f"{path.stem}-{language}.mp4"
                if not video.exists():
                    sound = store_speech(out, language, VOICES[language], seconds)
                    job = Job(picture=path, audio=(sound,), output=video, crop="face", size=size, settings=StreamSettings(seed=1))
                    generate(engine, check_inputs(job))


def store_speech(out: Path, language: str, voice: str, seconds: float) -> Path:
    """A WAV of held-out sentences, again and again if it is long; the true mouth lies beside it, under the language's name."""
    path = out / f"{language}.wav"
    if path.exists():
        return path
    text = " ".join(SENTENCES[language][-1:] + SENTENCES[language][:-1])
    speech = speak([Utterance(text=text, voice=voice)])[0]
    frames = round(seconds * FPS)
    once = min(frames, len(speech.samples_N) * FPS // speech.rate)
    samples_N = normalize_level(to_16k(speech.samples_N, speech.rate)[: once * SAMPLES_PER_FRAME])
    samples_N = np.resize(samples_N, frames * SAMPLES_PER_FRAME)
    track = track_mouth(speech).cut(0, once)
    np.savez(out / f"{language}.npz", **{name: np.resize(row_T, frames) for name, row_T in vars(track).items()})
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes((samples_N.clip(-1, 1) * 32767).astype("<i2").tobytes())
    return path


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), *map(float, sys.argv[4:5]), *sys.argv[5:7])
