"""The small model's encoders without weights, against slow plain ones."""

import cmath
import math

import pytest
import torch
from torch import Tensor

from livetalk_core.models.weightless import (
    FLOOR,
    LOG_MEAN,
    LOG_STD,
    MelConfig,
    MelEncoder,
    NoText,
    NoTextConfig,
    ThumbnailConfig,
    ThumbnailEncoder,
    mel_filters,
    no_tokens,
)

CONFIG = MelConfig()
HEAR = MelEncoder(CONFIG)
REACH = 120
"""Samples on each side of a video frame that its spectra also cover: (window - hop) / 2."""


def sound(samples: int, seed: int = 0) -> Tensor:
    return torch.rand(samples, generator=torch.Generator().manual_seed(seed)) * 0.4 - 0.2


def tone(hertz: float, frames: int = 6) -> Tensor:
    return 0.3 * torch.sin(2 * math.pi * hertz * torch.arange(640 * frames) / 16000)


def corners_hz() -> list[float]:
    """Of the triangles: bin b rises from the b-th to the next and falls to the one after."""
    low, high = (2595 * math.log10(1 + hertz / 700) for hertz in (60, 8000))
    return [700 * (10 ** ((low + (high - low) * i / 41) / 2595) - 1) for i in range(42)]


def slow_spectrum(samples: list[float], middle: float) -> list[float]:
    """Log-mel energies of the 400 samples around a place, by the definition of the DFT."""
    start = round(middle) - 200
    hann = [0.5 - 0.5 * math.cos(2 * math.pi * n / 400) for n in range(400)]
    piece = [w * (samples[start + n] if 0 <= start + n < len(samples) else 0.0) for n, w in enumerate(hann)]
    power = [abs(sum(x * cmath.exp(-2j * math.pi * k * n / 512) for n, x in enumerate(piece))) ** 2 for k in range(257)]
    corners = corners_hz()
    energies = []
    for left, peak, right in zip(corners, corners[1:], corners[2:], strict=False):
        weights = [max(0.0, min((31.25 * k - left) / (peak - left), (right - 31.25 * k) / (right - peak))) for k in range(257)]
        energies.append(sum(w * p for w, p in zip(weights, power, strict=True)))
    return [(math.log10(energy + FLOOR) - LOG_MEAN) / LOG_STD for energy in energies]


@pytest.mark.parametrize("frame, column", [(0, 0), (1, 2), (2, 3)])
def test_a_spectrum_is_that_of_a_slow_transform(frame, column):
    samples = sound(3 * 640)
    expected = torch.tensor(slow_spectrum(samples.tolist(), 640 * frame + 160 * column + 80))
    features = HEAR(samples)
    assert torch.allclose(features[frame, column], expected, atol=1e-3)
    assert not torch.allclose(features[frame, (column + 1) % 4], expected, atol=0.1), "the control"


@pytest.mark.parametrize("samples, frames", [(640, 1), (1279, 1), (1280, 2), (16000, 25)])
def test_every_whole_video_frame_has_its_spectra(samples, frames):
    assert HEAR(sound(samples)).shape == (frames, CONFIG.layers, CONFIG.width) == (frames, 4, 40)


def test_a_video_frame_depends_on_its_own_samples_and_the_windows_overlap():
    frames, heard = HEAR(sound(5 * 640)), []
    for at in range(5 * 640):
        if at % 640 in (0, REACH - 1, REACH, 320, 640 - REACH - 1, 640 - REACH, 639):
            changed = sound(5 * 640)
            changed[at] += 0.5
            seen = (HEAR(changed) != frames).flatten(1).any(1).nonzero().flatten().tolist()
            assert set(seen) <= {i for i in range(5) if 640 * i - REACH <= at < 640 * (i + 1) + REACH}, at
            assert at // 640 in seen
            heard += [(at, i) for i in seen if i != at // 640]
    assert (639, 1) in heard and (640, 0) in heard, "the windows do reach over"


def test_silence_gives_the_lowest_value_and_samples_after_the_last_whole_frame_do_not_count():
    assert torch.allclose(HEAR(torch.zeros(640)), torch.full((1, 4, 40), (math.log10(FLOOR) - LOG_MEAN) / LOG_STD))
    longer = torch.cat([sound(1280), sound(639, seed=1)])
    assert torch.equal(HEAR(longer), HEAR(sound(1280)))


@pytest.mark.parametrize("hertz", [200, 1000, 3500])
def test_a_tone_is_largest_in_its_own_bin(hertz):
    corners = corners_hz()
    nearest = min(range(40), key=lambda i: abs(corners[i + 1] - hertz))
    spectra = HEAR(tone(hertz))[1:-1].flatten(0, 1)
    assert (spectra.argmax(1) == nearest).all()
    far = [i for i in range(40) if abs(i - nearest) > 5]
    assert (spectra[:, nearest, None] - spectra[:, far]).min() > 1, "20 dB and more over the bins far off"


def test_every_bin_covers_some_frequency_and_none_below_60_hz():
    filters = mel_filters(CONFIG)
    assert filters.shape == (257, 40) and (filters.max(0).values > 0.3).all() and filters.max() <= 1
    assert (filters[:2] == 0).all() and (filters[-1] == 0).all()


@pytest.mark.parametrize("samples", [0, 639])
def test_too_short_a_sound_is_refused_with_both_numbers(samples):
    with pytest.raises(ValueError, match=f"^{samples} samples are too few for the audio encoder: it needs 640 or more; pad with silence$"):
        HEAR(sound(samples))


def test_a_thumbnail_token_holds_its_pixels_and_its_place():
    config = ThumbnailConfig()
    picture = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    tokens = ThumbnailEncoder(config)(picture)
    assert tokens.shape == (config.tokens, config.width) == (64, 50)
    for row, column in ((0, 0), (2, 5), (7, 3)):
        token = tokens[8 * row + column]
        square = picture[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        assert torch.allclose(token[:48].view(3, 4, 4), square, atol=1e-6)
        assert torch.allclose(token[48:], torch.tensor([2 * row / 7 - 1, 2 * column / 7 - 1]))
    assert len({tuple(place) for place in tokens[:, 48:].tolist()}) == 64


def test_a_larger_picture_is_averaged_to_the_thumbnail():
    """Each half black and white in stripes, one brighter: a thumbnail that only skipped pixels would show stripes."""
    picture = torch.zeros(3, 128, 96)
    picture[:, ::2] = 1
    picture[:, :, 48:] += 0.5
    colors = ThumbnailEncoder(ThumbnailConfig())(picture)[:, :48]
    inner = colors.view(8, 8, -1)[1:-1, [1, 6]]
    assert torch.allclose(inner[:, 0], torch.tensor(0.5), atol=0.02) and torch.allclose(inner[:, 1], torch.tensor(1.0), atol=0.02)


def test_a_half_precision_picture_is_converted_to_float32():
    picture = torch.rand(3, 48, 64).bfloat16()
    assert ThumbnailEncoder(ThumbnailConfig())(picture).dtype == torch.float32


def test_every_prompt_is_the_same_row_of_zeros():
    text = NoText(NoTextConfig(width=8))
    rows = [text(*no_tokens(prompt)) for prompt in ("A person is talking.", "")]
    assert all(torch.equal(row, torch.zeros(1, 8)) for row in rows)


def test_no_encoder_has_weights():
    assert not any(module.state_dict() for module in (HEAR, ThumbnailEncoder(ThumbnailConfig()), NoText(NoTextConfig())))
