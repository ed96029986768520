"""Sound to windows: the step with the frames, the tail, and the sameness of live and whole input."""

from fractions import Fraction

import pytest
import torch

from livetalk_core.plan import StreamPlan
from livetalk_core.stream.window import LiveWindows, WholeWindows

PLAN = StreamPlan(width=48, height=32)


def mark(samples_N):
    """A stand-in for the audio encoder: each frame's feature is the mean of that frame's own samples."""
    return samples_N.reshape(-1, PLAN.samples_per_frame).mean(1)[:, None, None]


def numbered(frames: float) -> torch.Tensor:
    """Sound whose every sample holds its own frame's number plus one."""
    return torch.arange(round(frames * 640)).div(640, rounding_mode="floor") + 1.0


def run(samples, pushes=(10**9,), num_frames=None, plan=PLAN):
    windows, found, start = LiveWindows(plan, mark), [], 0
    for size in pushes:
        found += windows.push(samples[start : start + size])
        start += size
    return found + list(windows.finish(num_frames))


@pytest.mark.parametrize("frames", [0.01, 1, 27, 28, 28.4, 28.6, 61, 84, 100.5])
def test_every_frame_hears_its_own_sound_to_the_last(frames):
    windows = run(numbered(frames))
    total = PLAN.frames_in(Fraction(round(frames * 640), 16000))
    assert sum(w.num_valid for w in windows) == total
    heard = torch.cat([w.features_PTWSD[0, 5:, 2, 0, 0][: w.num_valid] for w in windows])
    whole = min(int(frames), total)
    assert torch.equal(heard[:whole], torch.arange(1.0, whole + 1))


def test_a_window_begins_with_the_frames_already_shown():
    first, second = run(numbered(56))
    assert torch.equal(first.features_PTWSD[0, :5, 2, 0, 0], torch.zeros(5))
    assert torch.equal(second.features_PTWSD[0, :6, 2, 0, 0], torch.tensor([24.0, 25, 26, 27, 28, 29]))


def test_a_frame_hears_two_neighbours_each_side_and_the_last_ones_repeat():
    (window,) = run(numbered(28))
    assert window.features_PTWSD[0, 10, :, 0, 0].tolist() == [4, 5, 6, 7, 8]
    assert window.features_PTWSD[0, 31, :, 0, 0].tolist() == [25, 26, 27, 28, 28]
    assert window.features_PTWSD[0, 32, :, 0, 0].tolist() == [26, 27, 28, 28, 28]


@pytest.mark.parametrize("pushes", [(1,) * 30 + (10**9,), (17919, 1, 10**9), (17920, 10**9), (640,) * 90 + (10**9,)])
def test_windows_are_the_same_however_the_sound_is_cut(pushes):
    samples = numbered(70.3)
    for a, b in zip(run(samples), run(samples, pushes), strict=True):
        assert torch.equal(a.features_PTWSD, b.features_PTWSD) and torch.equal(a.samples, b.samples)
        assert (a.index, a.num_valid) == (b.index, b.num_valid)


def test_a_window_comes_as_soon_as_its_sound_is_in_and_not_before():
    windows = LiveWindows(PLAN, mark)
    assert list(windows.push(torch.zeros(17919))) == []
    assert [w.index for w in windows.push(torch.zeros(1))] == [0]
    assert [w.index for w in windows.push(torch.zeros(3 * 17920))] == [1, 2, 3]


def test_finish_takes_the_number_of_frames_from_who_knows_it_better():
    assert sum(w.num_valid for w in run(numbered(40.5), num_frames=41)) == 41
    assert sum(w.num_valid for w in run(numbered(40.5))) == 41, "half frames round up"
    assert sum(w.num_valid for w in run(numbered(28), num_frames=29)) == 29


def test_no_sound_at_all_still_gives_one_frame():
    (window,) = run(torch.zeros(0))
    assert window.num_valid == 1 and not window.samples.any()


def test_the_encoder_sees_eight_seconds_and_no_more():
    seen = []
    windows = LiveWindows(PLAN, lambda samples_N: seen.append(samples_N.clone()) or mark(samples_N))
    list(windows.push(numbered(28 * 9)))
    assert {len(samples) for samples in seen} == {128000}
    assert seen[0][: 128000 - 17920].abs().max() == 0
    assert torch.equal(seen[8], numbered(28 * 9)[-128000:])


def whole(samples, pushes=(10**9,), num_frames=None):
    windows, start = WholeWindows(PLAN, mark), 0
    for size in pushes:
        assert list(windows.push(samples[start : start + size])) == []
        start += size
    return list(windows.finish(num_frames))


@pytest.mark.parametrize("frames, pushes", [(70.3, (10**9,)), (70.3, (5, 40000, 10**9)), (28, (10**9,)), (0.01, (10**9,))])
def test_whole_input_gives_the_same_windows_where_the_features_are_alike(frames, pushes):
    samples = numbered(frames)
    for a, b in zip(run(samples), whole(samples, pushes), strict=True):
        assert torch.equal(a.features_PTWSD[0, :, 2], b.features_PTWSD[0, :, 2])
        assert torch.equal(a.samples, b.samples) and a.num_valid == b.num_valid


def test_whole_input_lets_a_frame_hear_the_future_across_a_chunk():
    assert whole(numbered(56))[0].features_PTWSD[0, 32, :, 0, 0].tolist() == [26, 27, 28, 29, 30]
    assert run(numbered(56))[0].features_PTWSD[0, 32, :, 0, 0].tolist() == [26, 27, 28, 28, 28], "control: live input cannot"


def test_an_hour_of_sound_gives_every_frame_in_constant_memory():
    windows = LiveWindows(PLAN, lambda samples_N: samples_N[::640, None, None])
    block, frames, held = torch.zeros(16000), 0, 0
    for _ in range(61 * 60):
        for window in windows.push(block):
            frames += window.num_valid
        held = max(held, windows.waiting_PN.shape[1] + windows.context_PN.shape[1])
    frames += sum(window.num_valid for window in windows.finish())
    assert frames == 91_500 and held <= 128_000 + 16_000 + 17_920


def test_two_speakers_are_encoded_apart_and_mixed_for_the_ear():
    windows = LiveWindows(PLAN, mark, people=2)
    (window,) = windows.push(torch.stack([torch.full((17920,), 0.25), torch.full((17920,), 0.9)]))
    assert window.features_PTWSD.shape[0] == 2
    assert window.features_PTWSD[1, 10, 2, 0, 0] == pytest.approx(0.9)
    assert window.samples.max() == 1.0, "the sum is held within full scale"


@pytest.mark.parametrize(
    "samples, message",
    [
        (torch.tensor([0.0, float("nan")]), "NaN or infinity"),
        (torch.zeros(2, 10), "must be [1, N]"),
        (torch.zeros(10, dtype=torch.int16), "must be float"),
    ],
)
def test_sound_that_cannot_be_meant_is_refused(samples, message):
    with pytest.raises(ValueError) as error:
        list(LiveWindows(PLAN, mark).push(samples))
    assert message in str(error.value)


def test_other_rates_and_counts_keep_the_step():
    plan = StreamPlan(width=48, height=32, fps=20, sample_rate=8000, chunk_frames=21, motion_frames=1, audio_window=3)
    windows = LiveWindows(plan, lambda s: s.reshape(-1, 400).mean(1)[:, None, None])
    samples = torch.arange(400 * 50).div(400, rounding_mode="floor") + 1.0
    found = list(windows.push(samples)) + list(windows.finish())
    heard = torch.cat([w.features_PTWSD[0, 1:, 1, 0, 0][: w.num_valid] for w in found])
    assert torch.equal(heard, torch.arange(1.0, 51))
