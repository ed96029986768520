"""The measures against slow plain ones, and what each must not be fooled by."""

import numpy as np
import pytest
import torch

from livetalk_core.evaluate.measures import (
    background_mask,
    best_lag,
    color_shift,
    correlation,
    decibels,
    lag_curve,
    psnr,
    relative_change,
    seam_jump,
    sharpness,
    steps_between,
    window_means,
)


def noise(*shape, seed=0, top=256):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, top, shape, np.uint8))


def wave(length, seed=0):
    return torch.from_numpy(np.convolve(np.random.default_rng(seed).normal(size=length + 6), np.hanning(7), "valid")[:length])


def test_correlation_is_numpys():
    a, b = wave(80, 1), wave(80, 2)
    assert correlation(a, b) == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-9)
    assert correlation(a, 3 - 2 * a) == pytest.approx(-1)


def test_a_still_mouth_correlates_with_nothing():
    assert correlation(torch.full((40,), 0.3), wave(40)) == 0


@pytest.mark.parametrize("late", [-3, 0, 1, 4])
def test_the_lag_of_a_track_that_comes_late_is_how_late_it_is(late):
    truth = wave(90)
    curve = lag_curve(torch.roll(truth, late), truth)
    assert best_lag(curve) == late
    assert curve[5 + late] == pytest.approx(1)
    assert len(curve) == 11


def test_a_lag_is_not_searched_in_tracks_that_are_too_short_or_unlike():
    with pytest.raises(ValueError, match="11 and 11 frames .* 12 frames or more"):
        lag_curve(wave(11), wave(11))
    with pytest.raises(ValueError, match="equally long"):
        lag_curve(wave(40), wave(41))


def test_psnr_is_that_of_the_mean_square_error_in_the_mask():
    a, b, mask = noise(3, 6, 5, 3, seed=1), noise(3, 6, 5, 3, seed=2), torch.zeros(6, 5, dtype=torch.bool)
    mask[2:4, 1:3] = True
    slow = [
        (float(a[t, y, x, c]) - float(b[t, y, x, c])) ** 2
        for t in range(3)
        for y in range(6)
        for x in range(5)
        for c in range(3)
        if mask[y, x]
    ]
    assert psnr(a, b, mask) == pytest.approx(10 * np.log10(255**2 / np.mean(slow)), abs=1e-4)
    assert psnr(a, b) != pytest.approx(psnr(a, b, mask), abs=0.01)


def test_equal_pictures_have_a_finite_psnr():
    assert psnr(noise(2, 4, 4, 3), noise(2, 4, 4, 3)) == decibels(0.0) == pytest.approx(108.13, abs=0.01)


def test_the_background_is_what_never_leaves_the_reference():
    reference = noise(8, 8, 3, top=200)
    frames = reference.repeat(5, 1, 1, 1)
    frames[3, 2, 2, 1] += 3
    frames[:, 4, 4, 0] += 2
    frames[:, 6, 6] += 40
    expected = torch.ones(8, 8, dtype=torch.bool)
    expected[2, 2] = expected[6, 6] = False
    assert torch.equal(background_mask(frames, reference), expected)


def test_bright_and_dark_pixels_are_far_apart_and_do_not_wrap():
    assert not background_mask(noise(1, 2, 2, 3, top=1) + 255, noise(2, 2, 3, top=1)).any()


def test_sharpness_is_that_of_a_laplacian_pixel_by_pixel():
    frames, mask = noise(2, 7, 6, 3), torch.rand(7, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    for where in (None, mask):
        got = sharpness(frames, where)
        for t in range(2):
            gray = frames[t].double().numpy() @ (0.299, 0.587, 0.114)
            values = [
                gray[y - 1, x] + gray[y + 1, x] + gray[y, x - 1] + gray[y, x + 1] - 4 * gray[y, x]
                for y in range(1, 6)
                for x in range(1, 5)
                if where is None or where[y, x]
            ]
            assert got.variance_T[t] == pytest.approx(np.var(values), rel=1e-4)
            assert got.magnitude_T[t] == pytest.approx(np.abs(values).mean(), rel=1e-4)


def test_a_softer_picture_is_less_sharp_and_a_brighter_one_is_not_sharper():
    frames = noise(1, 16, 16, 3, top=200)
    soft = ((frames.float() + frames.roll(1, 1).float()) / 2).to(torch.uint8)
    assert sharpness(soft).variance_T < 0.7 * sharpness(frames).variance_T
    assert sharpness(frames + 50).variance_T.item() == pytest.approx(sharpness(frames).variance_T.item(), rel=1e-4)


def test_the_color_shift_is_the_mean_over_channels_whatever_their_signs():
    reference = noise(6, 6, 3, top=100) + 50
    frames = reference.repeat(2, 1, 1, 1)
    frames[1, :, :, 0] += 6
    frames[1, :, :, 2] -= 3
    assert color_shift(frames, reference).tolist() == pytest.approx([0, 3], abs=1e-3)


def test_windows_leave_out_what_is_over_and_ends_are_compared():
    track = torch.tensor([1.0, 3, 5, 7, 9])
    assert window_means(track, 2).tolist() == [2, 6]
    assert relative_change(track, 2) == pytest.approx(8 / 2 - 1)


def test_a_jump_at_the_seams_shows_and_one_elsewhere_does_not():
    steady = (torch.arange(24)[:, None, None, None] * 2).expand(-1, 2, 2, 3).to(torch.uint8)
    assert steps_between(steady).tolist() == [2.0] * 23
    assert seam_jump(steps_between(steady), 8) == pytest.approx(1)
    assert seam_jump(steps_between(steady[:8]), 8) == 1
    broken = steady.clone()
    broken[8:] += 10
    assert seam_jump(steps_between(broken), 8) == pytest.approx((12 + 2) / 2 / 2)
    assert seam_jump(steps_between(broken), 7) < 1
