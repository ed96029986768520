"""What the audio encoder hears: speech as published, room noise not lifted to speech, whatever came before it."""

import numpy as np
import pytest
import torch
from made import speech_like

from livetalk_core.cli.options import ASSETS
from livetalk_core.engine.engine import Engine
from livetalk_core.media.audio import read_audio
from livetalk_core.models.audio import loudness_gain, normalize_loudness
from livetalk_core.plan import StreamPlan
from livetalk_core.stream.loudness import Leveler
from livetalk_core.stream.window import LiveWindows, WholeWindows
from livetalk_core.types import StreamSettings

RATE, PLAN = 16000, StreamPlan(width=48, height=32)


def decibels(level: float) -> float:
    return 10 ** (level / 20)


def pink(seconds: float, level: float, seed: int = 0) -> np.ndarray:
    """Noise of a room: as much power in each octave, at `level` dB RMS."""
    count = round(seconds * RATE)
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(count)) / np.sqrt(np.arange(count // 2 + 1) + 1)
    noise = np.fft.irfft(spectrum, count)
    return (noise * decibels(level) / np.sqrt(np.square(noise).mean())).astype(np.float32)


@pytest.fixture(scope="module")
def voice() -> np.ndarray:
    """Ten seconds of the sample's speech at -23 LUFS."""
    return normalize_loudness(torch.from_numpy(np.concatenate(list(read_audio(ASSETS / "speech.flac")))[: 10 * RATE])).numpy()


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE), np.float32)


def windows_of(*sounds: np.ndarray) -> list[torch.Tensor]:
    """The windows that a live stream's encoder would get, loudness aside."""
    seen = []
    windows = LiveWindows(PLAN, lambda samples_N: seen.append(samples_N.clone()) or torch.zeros(len(samples_N) // 640, 1, 1))
    list(windows.push(torch.from_numpy(np.concatenate(sounds))))
    return seen


def heard(*sounds: np.ndarray) -> list[torch.Tensor]:
    """The windows as the encoder hears them."""
    leveler = Leveler(loudness_gain)
    return [leveler.level(window_N) for window_N in windows_of(*sounds)]


def last_second_db(window_N: torch.Tensor) -> float:
    return 10 * np.log10(float(window_N[-RATE:].square().mean()) + 1e-12)


@pytest.mark.parametrize("level", [0, -12, -22, -40])
@pytest.mark.parametrize("before", [0.0, 18 * 1.12])
def test_speech_is_heard_as_published_at_any_level_from_its_first_second_on(voice, level, before):
    sounds = silence(before), voice * decibels(level)
    for ours, window_N in zip(heard(*sounds), windows_of(*sounds), strict=True):
        assert torch.equal(ours, normalize_loudness(window_N))


def test_speech_that_begins_softly_is_heard_as_published(voice):
    rise = decibels(1) ** (-45 + 45 * np.minimum(np.arange(len(voice)) / RATE / 6, 1)).astype(np.float32)
    for ours, window_N in zip(heard(voice * rise), windows_of(voice * rise), strict=True):
        assert torch.equal(ours, normalize_loudness(window_N))


@pytest.mark.parametrize("level", [-70, -60, -50, -45, -40])
def test_noise_after_speech_stays_under_what_moves_a_mouth(voice, level):
    sounds = voice[: 2 * RATE], pink(12, level)
    windows = heard(*sounds)
    assert max(last_second_db(window_N) for window_N in windows[3:]) < -49
    if level > -70:
        assert last_second_db(normalize_loudness(windows_of(*sounds)[-1])) > -30, "control: the published loudness lifts it to speech"


@pytest.mark.parametrize("level", [-70, -60, -50, -40])
def test_noise_before_anyone_speaks_is_not_lifted(level):
    assert max(last_second_db(window_N) for window_N in heard(pink(20, level))[1:]) < -49


def test_a_few_syllables_are_awaited_before_sound_is_lifted(voice):
    """The first 0.2 s of soft speech could be a door: they keep their level, and are lifted once more of them is in."""
    sounds = silence(1.12 * 18 - 0.2), voice * decibels(-22)
    (early, later), published = heard(*sounds)[17:19], windows_of(*sounds)[17:19]
    assert torch.equal(early, published[0]) and torch.equal(later, normalize_loudness(published[1]))


def test_noise_behind_soft_speech_is_lifted_with_it_at_most(voice):
    """Speech of -45 LUFS needs 22 dB; what follows may have no more, and stays noise."""
    sounds = voice[: 3 * RATE] * decibels(-22), pink(12, -62)
    windows, leveler = windows_of(*sounds), Leveler(loudness_gain)
    heard_by_then = [leveler.level(window_N) for window_N in windows]
    assert 20 < 20 * np.log10(leveler.usual) < 27
    assert last_second_db(heard_by_then[-1]) < -49 < -26 < last_second_db(normalize_loudness(windows[-1]))


def test_a_slam_teaches_nothing(voice):
    slam = pink(12, -60)
    slam[4 * RATE : 4 * RATE + 800] += 0.5
    windows = heard(slam, voice * decibels(-12), pink(10, -60))
    assert last_second_db(windows[9]) < -49 and last_second_db(windows[-1]) < -45
    assert torch.equal(windows[18], normalize_loudness(windows_of(slam, voice * decibels(-12))[18])), "speech after it is as published"


def test_typing_far_under_the_speech_is_no_speech(voice):
    typing = pink(12, -75)
    for at in range(0, len(typing) - 400, 3200):
        typing[at : at + 320] += pink(0.02, -50)
    assert last_second_db(heard(voice, typing)[-1]) < -50


def test_a_held_tone_near_speech_is_left_alone(voice):
    tone = (0.06 * np.sin(2 * np.pi * 220 * np.arange(4 * RATE) / RATE)).astype(np.float32)
    windows, published = heard(voice[: 2 * RATE], tone), windows_of(voice[: 2 * RATE], tone)
    assert torch.equal(windows[3], normalize_loudness(published[3]))


def test_speakers_have_a_loudness_each_and_a_whole_recording_has_one(voice):
    levels = []
    encode = lambda samples_N: levels.append(last_second_db(samples_N)) or torch.zeros(len(samples_N) // 640, 1, 1)  # noqa: E731
    both = torch.from_numpy(np.stack([voice * decibels(-10), pink(10, -50)]))
    for kind in (LiveWindows, WholeWindows):
        levels.clear()
        windows = kind(PLAN, encode, 2, [Leveler(loudness_gain), Leveler(loudness_gain)])
        list(windows.push(both)) + list(windows.finish())
        assert levels[-2] > -35 and levels[-1] < -70


def test_an_engine_levels_its_streams_however_the_sound_is_cut(engine: Engine, voice, monkeypatch):
    """Through `open`, as the pool's workers have it too."""
    seen: list[torch.Tensor] = []
    encode = engine.encode_audio
    monkeypatch.setattr(engine, "encode_audio", lambda samples_N, loudness: seen.append(samples_N.clone()) or encode(samples_N, loudness))
    reference = engine.reference(torch.zeros(3, 32, 48))
    sound = torch.from_numpy(np.concatenate([voice[: 2 * RATE], pink(10, -60)]))
    monkeypatch.setattr("livetalk_core.stream.session.Session.step", lambda self, window: iter(()), raising=True)
    for cuts in (len(sound), 7001):
        seen.clear()
        windows = engine.open(reference, StreamSettings(steps=1)).windows
        for block in sound.split(cuts):
            list(windows.push(block))
        expected = heard(sound.numpy())
        assert len(seen) == len(expected) and all(torch.equal(a, b) for a, b in zip(seen, expected, strict=True))


def test_sound_made_for_tests_counts_as_speech():
    (first, *_) = heard(speech_like(3.0) * decibels(-30))
    assert torch.equal(first, normalize_loudness(windows_of(speech_like(3.0) * decibels(-30))[0]))
