import pytest
import torch

from livetalk_core.stream.flow import denoise_steps, flow_times, pin_motion, seeded_noise

CPU = torch.device("cpu")


def test_four_and_two_steps_give_the_published_times_and_three_are_the_first_of_four():
    assert flow_times(4, 5.0) == pytest.approx([1, 0.9375, 0.833333, 0.625, 0], abs=1e-6)
    assert flow_times(3, 5.0) == pytest.approx([1, 0.9375, 0.833333, 0], abs=1e-6)
    assert flow_times(2, 5.0) == pytest.approx([1, 0.833333, 0], abs=1e-6)


@pytest.mark.parametrize("steps", [1, 5, 8, 32])
def test_other_step_counts_run_evenly_from_1000_to_1_and_end_at_zero(steps):
    times = flow_times(steps, 1.0)
    assert times == pytest.approx([*([1.0] if steps == 1 else [(1000 - i * 999 / (steps - 1)) / 1000 for i in range(steps)]), 0.0])
    assert len(flow_times(steps, 5.0)) == steps + 1


def test_no_steps_is_refused():
    with pytest.raises(ValueError, match="steps=0 must be 1 or more"):
        flow_times(0, 5.0)


def roll_out(denoiser, times, seed=0, motion=None):
    motion = torch.full((2, 1, 3, 3), 7.0) if motion is None else motion
    noise = seeded_noise((2, 4, 3, 3), seed, CPU)
    return list(denoise_steps(denoiser, motion, times, noise, None, None))


def test_a_perfect_denoiser_is_followed_exactly_and_motion_stays():
    truth = torch.rand(2, 4, 3, 3)
    *_, last = roll_out(lambda x, t, reference, window, motion: truth, flow_times(4, 5.0))
    assert torch.equal(last[:, 1:], truth[:, 1:])
    assert (last[:, :1] == 7).all()


def test_the_denoiser_sees_clean_motion_latents_at_every_step():
    seen = []
    roll_out(lambda x, t, reference, window, motion: seen.append(x[:, :1].clone()) or x * 0, flow_times(4, 5.0))
    assert len(seen) == 4 and all((x == 7).all() for x in seen)


def test_each_step_noises_afresh_to_the_next_time():
    """Against the loop written out: x = (1 - t') x0 + t' noise, with one draw after each step, the last included."""
    times, motion = flow_times(4, 5.0), torch.zeros(2, 1, 3, 3)
    xs = []
    roll_out(lambda x, t, reference, window, motion: xs.append(x) or 0.5 * x, times, seed=3, motion=motion)
    draw = seeded_noise((2, 4, 3, 3), 3, CPU)
    x = draw(torch.float32)
    for i in range(4):
        x[:, :1] = 0
        assert torch.allclose(xs[i], x)
        x = (1 - times[i + 1]) * 0.5 * x + times[i + 1] * draw(torch.float32)


@pytest.mark.parametrize(("steps", "without"), [(4, [2]), (2, [0]), (1, [])])
def test_the_noise_before_the_last_step_may_be_left_out(steps, without):
    """The same draws, one of them not added: what follows the start must not shift."""
    times, motion, seen = flow_times(steps, 5.0), torch.zeros(2, 1, 3, 3), []
    noise = seeded_noise((2, 4, 3, 3), 3, CPU)
    list(denoise_steps(lambda x, t, r, w, m: seen.append(x) or 0.5 * x, motion, times, noise, None, None, last_noise=0.0))
    draw = seeded_noise((2, 4, 3, 3), 3, CPU)
    start, *fresh = (draw(torch.float32) for _ in range(steps + 1))
    x = start
    for i in range(steps):
        x[:, :1] = 0
        assert torch.allclose(seen[i], x)
        x = (1 - times[i + 1]) * 0.5 * x + (0 if i in without else times[i + 1] * fresh[i])


def test_noise_is_the_same_for_the_same_seed_only():
    a, b, c = (seeded_noise((4,), seed, CPU)(torch.float32) for seed in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_noise_takes_the_type_asked_for():
    assert seeded_noise((4,), 0, CPU)(torch.bfloat16).dtype == torch.bfloat16


def test_gradients_reach_the_step_that_is_taken_and_not_the_pinned_latents():
    weight = torch.tensor(0.5, requires_grad=True)
    x0 = next(
        denoise_steps(lambda x, t, r, w, m: weight * x, torch.ones(2, 1, 3, 3), [1.0, 0.0], seeded_noise((2, 4, 3, 3), 0, CPU), None, None)
    )
    x0[:, :1].sum().backward(retain_graph=True)
    assert weight.grad == 0
    x0[:, 1:].sum().backward()
    assert weight.grad != 0


def test_pinning_replaces_only_the_first_latents():
    x = torch.zeros(2, 4, 3, 3)
    pinned = pin_motion(x, torch.ones(2, 2, 3, 3))
    assert pinned[:, :2].eq(1).all() and pinned[:, 2:].eq(0).all() and x.eq(0).all()
