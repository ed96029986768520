"""Speech with the exact time of every phone, from espeak-ng."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

WORKER = Path(__file__).with_name("espeak_worker.py")


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """What to say and how: words_per_minute 80 to 450, pitch and its range 0 to 100."""

    text: str
    voice: str
    words_per_minute: int = 165
    pitch: int = 50
    pitch_range: int = 50


@dataclass(frozen=True, kw_only=True)
class Phone:
    """One speech sound from `start` to `end`, seconds; `ipa` is '' for a pause."""

    ipa: str
    start: float
    end: float


@dataclass(frozen=True, kw_only=True)
class Speech:
    """Mono float32 samples in [-1, 1] at `rate` Hz and the phones that cover them in order."""

    samples_N: np.ndarray
    rate: int
    phones: tuple[Phone, ...]


def speak(utterances: Sequence[Utterance]) -> list[Speech]:
    """Speak all utterances in one new process, so that the same list gives the same samples.

    FileNotFoundError when espeak-ng is not installed; ValueError for an unknown voice, or a text without sound in that voice.
    """
    requests = "".join(json.dumps(asdict(utterance)) + "\n" for utterance in utterances)
    done = subprocess.run([sys.executable, "-I", str(WORKER)], input=requests.encode(), stdout=subprocess.PIPE, check=True)
    answers = io.BytesIO(done.stdout)
    return [read_speech(answers) for _ in utterances]


def read_speech(answers: io.BytesIO) -> Speech:
    header = json.loads(answers.readline())
    if "missing" in header:
        raise FileNotFoundError(header["missing"])
    if "bad" in header:
        raise ValueError(header["bad"])
    samples = np.frombuffer(answers.read(header["bytes"]), "<i2").astype(np.float32) / 32768.0
    return Speech(samples_N=samples, rate=header["rate"], phones=to_phones(header["starts"], len(samples), header["rate"]))


def to_phones(starts: Sequence[tuple[str, int]], num_samples: int, rate: int) -> tuple[Phone, ...]:
    """Phones from their start samples. Language marks such as '(en)' are not sounds; empty intervals are dropped."""
    marks = [(ipa, at) for ipa, at in starts if not ipa.startswith("(")] + [("", num_samples)]
    return tuple(Phone(ipa=ipa, start=at / rate, end=after / rate) for (ipa, at), (_, after) in pairwise(marks) if after > at)
