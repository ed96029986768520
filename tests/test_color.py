import pytest
import torch

from livetalk_core.stream.color import lab_space, lab_stats, lab_to_rgb, match_color, rgb_to_lab


def video(seed=0, frames=3):
    return torch.rand(3, frames, 8, 12, generator=torch.Generator().manual_seed(seed)) * 1.2 - 0.6


@pytest.mark.parametrize(
    "rgb, lab",
    [((1, 1, 1), (100, 0, 0)), ((0, 0, 0), (0, 0, 0)), ((1, 0, 0), (53.24, 80.09, 67.20)), ((0, 0, 1), (32.30, 79.19, -107.86))],
)
def test_known_colors_have_their_known_lab_values(rgb, lab):
    found = rgb_to_lab(torch.tensor(rgb, dtype=torch.float64).view(3, 1, 1, 1)).flatten()
    assert found.tolist() == pytest.approx(lab, abs=0.05)


def test_lab_and_back_is_the_same_color():
    rgb = (video() + 1) / 2
    assert torch.allclose(lab_to_rgb(rgb_to_lab(rgb)), rgb, atol=1e-5)


def test_full_strength_gives_every_frame_the_targets_statistics():
    target = lab_stats(0.6 * video(1, frames=1) + 0.1)
    own = lab_stats(match_color(0.4 * video(), target, 1.0))
    assert torch.allclose(own.mean, target.mean.expand_as(own.mean), atol=0.2)
    assert torch.allclose(own.std, target.std.expand_as(own.std), atol=0.2)
    assert not torch.allclose(lab_stats(0.4 * video()).std, target.std.expand_as(own.std), atol=1.0), "control: they differed before"


def test_no_strength_changes_nothing_and_half_lies_between():
    clip, target = video(), lab_stats(video(1, frames=1))
    assert torch.equal(match_color(clip, target, 0.0), clip)
    full, half = match_color(clip, target, 1.0), match_color(clip, target, 0.5)
    assert torch.allclose(half, (clip + full) / 2, atol=1e-5)


def test_what_is_constant_is_made_once_for_a_device_and_precision():
    assert lab_space(torch.float32, torch.device("cpu")) is lab_space(torch.float32, torch.device("cpu"))
    assert lab_space(torch.float64, torch.device("cpu")).to_xyz.dtype == torch.float64


def test_frames_are_matched_each_on_its_own():
    clip, target = video(), lab_stats(video(1, frames=1))
    alone = torch.cat([match_color(frame, target, 1.0) for frame in clip.split(1, dim=1)], dim=1)
    assert torch.allclose(match_color(clip, target, 1.0), alone, atol=1e-6)


def test_a_frame_of_one_color_becomes_the_targets_mean_without_blowing_up():
    target = lab_stats(video(1, frames=1))
    assert match_color(torch.zeros(3, 1, 8, 12), target, 1.0).isfinite().all()
