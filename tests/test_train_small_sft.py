"""Stage 1 of the small model: squares of clips, and guidance that is learned."""

from dataclasses import replace

import pytest
import torch
from test_train_sft import KEEP_ALL, NULL
from toys import CPU, SMALL_DIT, pairs, sharded_net, sharded_small_net, toy_net, toy_sample, toy_small_sft, toy_state

from livetalk_core.engine.denoiser import PLAIN, DiTDenoiser
from livetalk_core.models.small_dit import T_FLOOR, SmallDiTConfig, build_dit
from livetalk_core.parallel.train import training_world
from livetalk_core.train.config import Optim
from livetalk_core.train.draws import Draws
from livetalk_core.train.learner import Learner
from livetalk_core.train.net import NetDenoiser, net_state, velocity
from livetalk_core.train.sft import noise_sample
from livetalk_core.train.small_net import make_net
from livetalk_core.train.small_sft import SmallAdaptStage, cut_squares, loss_weight, small_sft_loss


@pytest.fixture(scope="module")
def world():
    with training_world(CPU):
        yield


@pytest.mark.parametrize("t", [1.0, 0.625, T_FLOOR, 0.04])
def test_a_network_that_answers_the_change_is_the_same_in_training_and_serving(t):
    """Its x0 is reference and answer from the floor of the flow times on; below, so much of the way to it."""
    config, sample = SmallDiTConfig(**vars(SMALL_DIT), predicts="change"), toy_sample()
    dit, net, x, window = build_dit(config), make_net(config), torch.randn(sample.plan.latent_shape), sample.window(0)
    dit.load_state_dict(toy_state())
    net.load_state_dict(net_state(toy_state()))
    with torch.no_grad():
        theirs, ours = (denoise(x, t, sample.reference, window) for denoise in (DiTDenoiser(dit, cuts=PLAIN), NetDenoiser(net)))
        answer = velocity(toy_net(), x, t, sample.reference, window)
    assert torch.allclose(ours, theirs, atol=1e-5)
    share = min(1, t / T_FLOOR)
    assert torch.allclose(theirs, share * (sample.reference.cond_CTHW[4:] + answer) + (1 - share) * x, atol=1e-5)
    assert not torch.allclose(theirs, x - t * answer, atol=1e-2), "the control: the same weights, answering the velocity"


def heard_or_not(heard, unheard):
    """A network that answers one thing to sound, another to silence."""
    return lambda x, t, condition, text, image, features: torch.stack([heard if clip.any() else unheard for clip in features])


def test_where_guided_training_rests_the_answer_is_what_guidance_makes_of_the_data():
    sample, draws, config = toy_sample(), Draws.of("g"), toy_small_sft(audio_guidance=1.5, **KEEP_ALL | {"drop_audio": 1e-9})
    wanted = noise_sample(sample, draws, config, NULL).target_CTHW
    unheard = torch.randn_like(wanted)
    guided = unheard + 1.5 * (wanted - unheard)
    losses = [float(small_sft_loss(heard_or_not(v, unheard), [(sample, draws)], config, NULL)) for v in (guided, wanted)]
    assert losses[0] < 1e-10 and losses[1] > 0.1


def test_guided_training_leaves_samples_without_sound_as_they_were():
    config = toy_small_sft(audio_guidance=3.0, **KEEP_ALL | {"drop_audio": 1.0})
    batch = pairs([toy_sample(0), toy_sample(1)])
    with torch.no_grad():
        guided, plain = (small_sft_loss(toy_net(), batch, c, NULL) for c in (config, replace(config, audio_guidance=1.0)))
    assert torch.equal(guided, plain)


def test_guidance_counts_from_open_eyes():
    """What it guides away from is told neither sound nor lids; the rest of the condition is the same."""
    sample, told = toy_sample(), []
    blinking = replace(sample, lids_T=torch.ones(sample.plan.chunk_frames))

    def net(x, t, condition, text, image, features):
        told.append((condition, bool(features.any())))
        return torch.zeros_like(x)

    small_sft_loss(net, [(blinking, Draws.of("g"))], toy_small_sft(audio_guidance=2.0, **KEEP_ALL | {"drop_audio": 1e-9}), NULL)
    (shown, heard), (untold, unheard) = told
    assert heard and not unheard
    assert (shown[:, :4, 1:] == 1).all() and torch.equal(untold[0], sample.reference.cond_CTHW)


def test_no_gradient_goes_through_what_guides():
    sample, draws, config = toy_sample(), Draws.of("g"), toy_small_sft(audio_guidance=2.0, **KEEP_ALL | {"drop_audio": 1e-9})
    row = noise_sample(sample, draws, config, NULL)
    heard, unheard = (torch.randn_like(row.x_CTHW).requires_grad_() for _ in range(2))
    small_sft_loss(heard_or_not(heard, unheard), [(sample, draws)], config, NULL).backward()
    error = (heard - row.target_CTHW - 0.5 * (heard - unheard)).detach()
    count = row.x_CTHW.shape[0] * row.weight_THW.sum()
    assert unheard.grad is None and torch.allclose(heard.grad, 2 * error * row.weight_THW / count, atol=1e-7)


def test_guidance_is_learned_from_the_step_asked_for(world):
    """A second pass, without sound, from step 1 on."""
    config = toy_small_sft(audio_guidance=2.0, guided_from=1, **KEEP_ALL | {"drop_audio": 1e-9})
    stage = SmallAdaptStage(config, Learner(sharded_net(), Optim(lr=1e-9)), NULL)
    heard = []
    stage.learner.net.register_forward_pre_hook(lambda net, inputs: heard.append(bool(inputs[5].any())))
    stage.step([pairs([toy_sample()])], Draws.of("all"), 0)
    assert heard == [True]
    stage.step([pairs([toy_sample()])], Draws.of("all"), 1)
    assert heard == [True, True, False]


@pytest.mark.parametrize(
    "changes, message", [({"audio_guidance": 0.5}, "must be 1"), ({"audio_guidance": 1.5, **KEEP_ALL}, "drop_audio=0.1")]
)
def test_guidance_that_cannot_be_learned_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        toy_small_sft(**changes)


def test_squares_are_whole_tokens_of_everything_that_has_a_place():
    sample = toy_sample()
    height, width = sample.latents_KCTHW.shape[-2:]
    numbers = torch.arange(height * width, dtype=torch.float32).view(height, width)
    whole = torch.nn.functional.pad(numbers[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    sample = replace(
        sample,
        latents_KCTHW=numbers.expand(sample.latents_KCTHW.shape),
        bent_KCTHW=numbers.expand(sample.latents_KCTHW[:, :, :2].shape),
        reference=replace(sample.reference, cond_CTHW=numbers.expand(sample.reference.cond_CTHW.shape)),
    )
    places = set()
    for i in range(20):
        pieces = cut_squares(sample, Draws.of("square", i), toy_small_sft(square=1, squares=2))
        assert len({piece.draws.where for piece in pieces}) == 2, "each has its own chance"
        for piece, _, around_CHW in pieces:
            square = piece.latents_KCTHW[0, 0, 0]
            assert square.shape == piece.mouth_HW.shape == (2, 2) and torch.equal(square, piece.reference.cond_CTHW[0, 0])
            assert torch.equal(square, piece.bent_KCTHW[0, 0, 1])
            top, left = divmod(int(square[0, 0]), width)
            assert top % 2 == left % 2 == 0 and torch.equal(square, numbers[top : top + 2, left : left + 2])
            assert torch.equal(around_CHW[0], whole[top : top + 4, left : left + 4]), "one more on each side, where there is one"
            places.add((top, left))
    assert len(places) == height * width // 4, "all places are drawn"


def test_every_other_square_is_at_the_mouth():
    sample = toy_sample()
    mouth_HW = torch.zeros_like(sample.mouth_HW)
    mouth_HW[-1, -1] = 1
    found = [
        bool(piece.mouth_HW.any())
        for i in range(200)
        for piece, _, _ in cut_squares(replace(sample, mouth_HW=mouth_HW), Draws.of("at the mouth", i), toy_small_sft(square=1))
    ]
    tokens = mouth_HW.numel() // 4
    assert abs(sum(found) / 200 - (0.5 + 0.5 / tokens)) < 0.1


def test_whole_pictures_come_after_the_squares_and_too_large_squares_are_refused(world):
    assert toy_small_sft(square=1, whole_from=3).at(2).square == 1 and toy_small_sft(square=1, whole_from=3).at(3).square == 0
    sample, draws = toy_sample(), Draws.of("whole")
    assert cut_squares(sample, draws, toy_small_sft()) == [(sample, draws, None)]
    with pytest.raises(ValueError, match=r"square=99 must be at most \d+: \S+ has \d+x\d+ tokens"):
        cut_squares(sample, draws, toy_small_sft(square=99))
    stage = SmallAdaptStage(toy_small_sft(square=1, squares=3, whole_from=1), Learner(sharded_small_net(), Optim(lr=1e-3)), NULL)
    results = [stage.step([pairs([toy_sample(0), toy_sample(1)])], draws, number)["loss"] for number in range(2)]
    assert all(loss.isfinite() for loss in results)


def test_samples_of_little_noise_count_by_the_square_of_their_time():
    share = []
    for n in range(20):
        draws = Draws.of("weight", n)
        configs = [toy_small_sft(full_weight_from=at, **KEEP_ALL) for at in (0.0, 0.8)]
        plain, weighed = (noise_sample(toy_sample(), draws, config, NULL) for config in configs)
        weight = loss_weight(weighed.t, configs[1])
        assert loss_weight(plain.t, configs[0]) == 1 and weight == pytest.approx(min(1, weighed.t / 0.8) ** 2)
        with torch.no_grad():
            full, less = (float(small_sft_loss(toy_net(), [(toy_sample(), draws)], config, NULL)) for config in configs)
        assert less == pytest.approx(weight * full, rel=1e-5)
        share.append(weight)
    assert min(share) < 0.5 and max(share) == 1
