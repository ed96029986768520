"""What a listener hears reaches the lips, whatever the channels do to each other."""

import numpy as np
import pytest
from made import speech_like

from livetalk_core.media.audio import LiveResampler, to_mono

RATE = 48000


def rms(samples):
    return float(np.sqrt(np.square(samples, dtype=np.float64).mean()))


def voice(seconds=3.0, seed=0):
    return speech_like(seconds, RATE, seed)


def test_ordinary_stereo_is_the_mean_of_its_channels():
    both = np.stack([voice(seed=1), voice(seed=2)])
    assert np.array_equal(to_mono(both, RATE, RATE), both.mean(axis=0, dtype=np.float32))
    panned = np.stack([voice(), 0 * voice()])
    assert np.array_equal(to_mono(panned, RATE, RATE), panned[0] / 2)


@pytest.mark.parametrize("gain", [-1.0, -0.9, -1.1])
def test_a_voice_in_opposite_phase_is_heard_from_its_first_sample(gain):
    """A miswired cable: the mean of the channels is silence, which nobody who listens to them hears."""
    both = np.stack([voice(), gain * voice()])
    assert rms(both.mean(axis=0)) < 0.06 * rms(voice()), "control: the mean has next to nothing"
    assert np.abs(to_mono(both, RATE, RATE) - voice()).max() < 1e-6


def test_opposite_phase_that_begins_later_is_heard_within_half_a_second():
    both = np.concatenate([np.stack([voice(), voice()]), np.stack([voice(seed=1), -voice(seed=1)]), np.stack([voice(), voice()])], axis=1)
    mono, third = to_mono(both, RATE, RATE), 3 * RATE
    assert np.array_equal(mono[:third], both[0, :third])
    assert abs(rms(mono[third + RATE : 2 * third]) / rms(both[0, third + RATE : 2 * third]) - 1) < 0.01
    assert rms(mono[2 * third + RATE :] - both[0, 2 * third + RATE :]) < 1e-4
    assert np.abs(np.diff(mono)).max() < 1.1 * np.abs(np.diff(both[0])).max() + 0.01, "no click where it changes"


def test_opposite_phase_in_the_front_of_a_surround_file_is_heard():
    six = np.zeros((6, 2 * RATE), np.float32)
    six[0], six[1] = voice(2.0), -voice(2.0)
    assert rms(to_mono(six, RATE, RATE)) > 0.3 * rms(voice(2.0))


def test_the_center_of_six_channels_counts_more_and_the_low_one_not_at_all():
    levels = np.zeros((6, 4800), np.float32)
    levels[2] = 0.5
    assert abs(to_mono(levels, RATE, RATE).mean() - 0.5 * np.sqrt(0.5) / (1 + np.sqrt(2))) < 1e-5
    low = np.zeros((6, 4800), np.float32)
    low[3] = 0.5
    assert not to_mono(low, RATE, RATE).any()


def test_channels_whose_places_are_not_known_count_alike():
    levels = np.arange(1, 6)[:, None] / 10 * np.ones((5, 4800), np.float32)
    assert np.abs(to_mono(levels, RATE, RATE) - 0.3).max() < 1e-6


@pytest.mark.parametrize("channels", [2, 6])
def test_growing_sound_in_opposite_phase_equals_the_whole_at_once(channels):
    random = np.random.default_rng(3)
    whole = random.standard_normal((channels, 2 * RATE)).astype(np.float32)
    whole[1, RATE:] = -whole[0, RATE:]
    live, pieces, at = LiveResampler(RATE), [], 0
    while at < whole.shape[1]:
        size = int(random.integers(1, 9000))
        pieces.append(live.push(whole[:, at : at + size]))
        at += size
    pieces.append(live.flush())
    assert np.array_equal(np.concatenate(pieces), to_mono(whole, RATE))


def test_a_file_that_turns_from_stereo_to_mono_goes_on():
    live = LiveResampler(RATE, RATE)
    pieces = [live.push(np.stack([voice(1.0), voice(1.0)]), "stereo"), live.push(voice(1.0, 5)[None], "mono"), live.flush()]
    assert np.array_equal(np.concatenate(pieces), np.concatenate([voice(1.0), voice(1.0, 5)]))
