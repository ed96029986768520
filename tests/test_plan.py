import math
from dataclasses import replace
from fractions import Fraction

import pytest

from livetalk_core.models.vae import VAEConfig
from livetalk_core.plan import StreamPlan
from livetalk_core.presets import livetalk_14b, nano, tiny
from livetalk_core.sizes import BUCKETS, choose_size, parse_size


def plan(**changes):
    return StreamPlan(**{"width": 720, "height": 416, **changes})


def test_the_published_plan_has_the_published_counts():
    p = plan()
    assert (p.new_frames, p.new_samples, p.samples_per_frame) == (28, 17920, 640)
    assert (p.latent_frames, p.motion_latents, p.latent_shape) == (9, 2, (16, 9, 52, 90))
    assert p.tokens == 10530 and plan(width=448, height=768).tokens == 12096
    assert p.context_samples == 128000


@pytest.mark.parametrize(
    "change, message",
    [
        ({"chunk_frames": 32}, "chunk_frames=32 must be 4k + 1; nearest: 29 or 33"),
        ({"motion_frames": 4}, "motion_frames=4 must be 4k + 1; nearest: 1 or 5"),
        ({"motion_frames": 0}, "motion_frames=0 must be 4k + 1; nearest: 1"),
        ({"width": 725}, "width=725 must be a multiple of 16; nearest: 720 or 736"),
        ({"height": 0}, "height=0 must be a multiple of 16; nearest: 16"),
        ({"height": -5}, "height=-5 must be a multiple of 16; nearest: 16"),
        ({"motion_frames": 33}, "must be less than chunk_frames=33"),
        ({"fps": 30}, "fps=30 must divide sample_rate=16000"),
        ({"audio_context_s": 1}, "audio_context_s=1 must hold a chunk of 33 frames; use 2 or more"),
    ],
)
def test_bad_numbers_are_refused_with_the_nearest_good_ones(change, message):
    with pytest.raises(ValueError) as error:
        plan(**change)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("samples", [1, 46, 320, 321, 960, 1600, 16000, 17919, 17920, 17921, 58_560_000])
def test_n_seconds_of_sound_give_25_n_frames_to_the_nearest_and_at_least_one(samples):
    seconds = Fraction(samples, 16000)
    assert plan().frames_in(seconds) == max(1, int(25 * seconds + Fraction(1, 2)))


@pytest.mark.parametrize(("seconds", "frames"), [(0.02, 1), (0.5, 13), (0.499, 12), (1.5, 38), (2.5, 63), (Fraction(1, 50), 1), (3, 75)])
def test_half_a_frame_of_sound_is_a_frame(seconds, frames):
    """Python's round would give 12 for half a second and 62 for 2.5."""
    assert plan().frames_in(seconds) == frames


def test_a_frame_count_is_exact_where_floating_point_is_not():
    """881 samples over a whole number of frames at 44.1 kHz are under half a frame, whatever 16 kHz makes of it."""
    seconds = Fraction(1764 * 3 + 881, 44100)
    assert plan().frames_in(seconds) == 3
    assert plan().frames_in(seconds + Fraction(2, 44100)) == 4


def test_chunks_cover_all_frames():
    p = plan()
    assert [p.chunks_in(n) for n in (1, 28, 29, 56, 57)] == [1, 1, 2, 2, 3]


@pytest.mark.parametrize("bucket", BUCKETS)
def test_every_bucket_size_makes_a_plan_and_one_bucket_keeps_one_area(bucket):
    areas = [plan(width=width, height=height).width * height for width, height in BUCKETS[bucket]]
    assert max(areas) < 1.35 * min(areas)


@pytest.mark.parametrize(
    "picture, bucket, size",
    [
        ((1024, 1024), "627", (640, 640)),
        ((1920, 1080), "416", (720, 416)),
        ((1080, 1920), "416", (416, 720)),
        ((768, 512), "627", (768, 512)),
        ((9000, 100), "627", (1216, 320)),
        ((1024, 1024), "128", (128, 128)),
    ],
)
def test_a_picture_gets_the_bucket_size_nearest_to_its_shape(picture, bucket, size):
    assert choose_size(*picture, bucket) == size
    best = min(BUCKETS[bucket], key=lambda s: abs(math.log(s[0] * picture[1] / (s[1] * picture[0]))))
    assert size == best


def test_sizes_are_read_as_width_x_height():
    assert parse_size("720x416") == (720, 416)
    for bad in ("720", "720x", "axb", "720x416x3", "-16x32"):
        with pytest.raises(ValueError, match="must be WIDTHxHEIGHT"):
            parse_size(bad)


def test_an_unknown_bucket_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="must be one of 64, 128, 256, 416, 627, 960"):
        choose_size(10, 10, "720p")


def test_every_models_plan_has_its_own_strides():
    patch, wan = nano().plan(64, 48), livetalk_14b().plan(64, 48)
    assert patch.latent_shape == (64, 9, 6, 8) and wan.latent_shape == (16, 9, 6, 8)
    coarse = replace(tiny(), vae=VAEConfig(dim_mult=(1, 2, 4), temporal_downsample=(False, True)))
    assert (coarse.plan(64, 48).temporal_stride, coarse.plan(64, 48).spatial_stride) == (2, 4)
