"""Stage 1: what the network sees, what it is asked, and that it can learn it."""

import pytest
import torch
from toys import CPU, SMALL_DIT, pairs, sharded_net, toy_net, toy_sample, toy_sft, toy_state

from livetalk_core.engine.denoiser import PLAIN, DiTDenoiser
from livetalk_core.models.dit import AudioDiT
from livetalk_core.parallel.train import training_world
from livetalk_core.train.config import SFT, Optim
from livetalk_core.train.draws import Draws, shifted
from livetalk_core.train.learner import Learner, make_optimizers
from livetalk_core.train.net import NetDenoiser
from livetalk_core.train.sft import AdaptStage, drop_conditions, noise_sample, sft_loss

NULL = torch.zeros(2, SMALL_DIT.text_dim)
KEEP_ALL = {"drop_text_and_audio": 0.0, "drop_text": 0.0, "drop_audio": 0.0}


@pytest.fixture(scope="module")
def world():
    with training_world(CPU):
        yield


def test_the_training_network_is_the_serving_one():
    """Keys made late, inside the blocks, against keys made once for a stream."""
    dit = AudioDiT(SMALL_DIT)
    dit.load_state_dict(toy_state())
    sample = toy_sample(chunks=2)
    x = torch.randn(sample.plan.latent_shape)
    with torch.no_grad():
        for index, t in ((0, 1.0), (1, 0.625)):
            window = sample.window(index)
            theirs = DiTDenoiser(dit, cuts=PLAIN)(x, t, sample.reference, window)
            ours = NetDenoiser(toy_net())(x, t, sample.reference, window)
            assert torch.equal(ours, theirs)
        assert not torch.allclose(ours, DiTDenoiser(dit, cuts=PLAIN)(x, t, sample.reference, sample.window(0)), atol=1e-4)


def test_equation_1_the_input_is_motion_and_noised_latents_then_mask_then_reference():
    """Channel by channel, as the patch embedding gets it."""
    net, sample, draws = toy_net(), toy_sample(), Draws.of("eq1")
    config = toy_sft(motion_latents=(2,), **KEEP_ALL)
    seen = []
    net.dit.patch_embedding.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    sft_loss(net, [(sample, draws)], config, NULL)
    latents, condition = seen[0][0].split((16, 20))
    t = shifted(draws.number("time"), config.shift)
    x0, noise = sample.latents_KCTHW[0], draws.noise("noise", sample.latents_KCTHW[0])
    assert torch.equal(latents[:, :2], x0[:, :2]), "motion latents are clean"
    assert torch.equal(latents[:, 2:], ((1 - t) * x0 + t * noise)[:, 2:])
    assert torch.equal(condition[4:, :], sample.reference.cond_CTHW[4:])
    assert (condition[:4, 0] == 1).all() and (condition[:4, 1:] == 0).all()


def test_the_loss_is_the_mean_square_of_the_velocity_error_over_the_new_latents():
    sample, draws, config = toy_sample(), Draws.of("loss"), toy_sft(mouth_weight=3.0, **KEEP_ALL)
    row = noise_sample(sample, draws, config, NULL)
    count = int((row.weight_THW == 0).flatten(1).all(1).sum())
    assert count in (1, 2)
    answer = torch.randn_like(row.x_CTHW)
    loss = sft_loss(lambda *inputs: answer[None], [(sample, draws)], config, NULL)
    noise = draws.noise("noise", row.x_CTHW)
    total = weights = 0.0
    for frame in range(count, 9):
        for y in range(4):
            for x in range(4):
                w = 4.0 if sample.mouth_HW[y, x] else 1.0
                error = answer[:, frame, y, x] - (noise - sample.latents_KCTHW[0])[:, frame, y, x]
                total, weights = total + w * float(error.square().mean()), weights + w
    assert float(loss) == pytest.approx(total / weights, rel=1e-5)


def test_the_answer_for_the_motion_latents_does_not_count():
    sample, draws, config = toy_sample(), Draws.of("m"), toy_sft(motion_latents=(2,), **KEEP_ALL)
    answer = torch.randn(1, *sample.plan.latent_shape, requires_grad=True)
    sft_loss(lambda *inputs: answer, [(sample, draws)], config, NULL).backward()
    assert (answer.grad[0, :, :2] == 0).all() and (answer.grad[0, :, 2:] != 0).all()


def test_both_numbers_of_motion_latents_and_all_windows_are_drawn():
    sample, config = toy_sample(chunks=3), toy_sft()
    counts, windows = set(), set()
    for i in range(60):
        row = noise_sample(sample, Draws.of("draw", i), config, NULL)
        counts.add(int((row.weight_THW == 0).flatten(1).all(1).sum()))
        windows.add(row.window.index)
    assert counts == {1, 2} and windows == {0, 1, 2}


def test_motion_latents_are_noised_as_often_as_asked():
    sample, config = toy_sample(), toy_sft(noise_motion=0.5, motion_latents=(2,))
    rows = [noise_sample(sample, Draws.of("often", i), config, NULL) for i in range(200)]
    clean = sum(torch.equal(row.x_CTHW[:, :2], sample.latents_KCTHW[0][:, :2]) for row in rows)
    assert 70 < clean < 130


def test_conditions_are_dropped_in_the_shares_asked_for():
    sample, config = toy_sample(), toy_sft(drop_text_and_audio=0.1, drop_text=0.2, drop_audio=0.3)
    for u, text_gone, sound_gone in ((0.05, True, True), (0.15, True, False), (0.45, False, True), (0.7, False, False)):
        reference, window = drop_conditions(sample.reference, sample.window(0), u, config, NULL)
        assert (reference.text_LD is NULL) == text_gone
        assert bool((window.features_PTWSD == 0).all()) == sound_gone


def test_dropouts_beyond_certainty_are_refused():
    with pytest.raises(ValueError, match="dropouts sum to 1.2"):
        SFT(optim=Optim(lr=1e-3), drop_text=1.15)


def test_prompts_of_different_lengths_share_a_batch():
    """Each as if it were alone."""
    samples = [toy_sample(0, rows=2), toy_sample(1, rows=5)]
    net, config = toy_net(), toy_sft(**KEEP_ALL)
    with torch.no_grad():
        together = sft_loss(net, pairs(samples), config, NULL)
        alone = [sft_loss(net, [pair], config, NULL) for pair in pairs(samples)]
    assert float(together) == pytest.approx(float(sum(alone)) / 2, rel=1e-5)


def test_a_batch_overfits(world):
    learner = Learner(sharded_net(), Optim(lr=3e-3))
    stage = AdaptStage(toy_sft(**KEEP_ALL), learner, NULL)
    batch = pairs([toy_sample(0), toy_sample(1)])
    first, *_, last = (float(stage.step([batch], Draws.of("all"), n)["loss"]) for n in range(120))
    assert last < 0.3 * first


def test_accumulated_passes_give_the_gradient_of_one_large_batch(world):
    batch = pairs([toy_sample(i) for i in range(4)])
    nets = []
    for passes in ([batch], [batch[:2], batch[2:]]):
        learner = Learner(sharded_net(), Optim(lr=1e-3))
        AdaptStage(toy_sft(), learner, NULL).step(passes, Draws.of("all"), 0)
        nets.append([p.grad.full_tensor() for p in learner.net.parameters()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*nets, strict=True))


def test_checkpointed_activations_change_no_gradient(world):
    grads = []
    for checkpointed in (False, True):
        net = sharded_net(checkpoint_activations=checkpointed)
        sft_loss(net, pairs([toy_sample()]), toy_sft(), NULL).backward()
        grads.append([p.grad.full_tensor() for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_half_precision_keeps_float32_weights_and_gradients(world):
    net = sharded_net(compute=torch.bfloat16)
    sft_loss(net, pairs([toy_sample()]), toy_sft(), NULL).backward()
    assert {p.dtype for p in net.parameters()} == {p.grad.dtype for p in net.parameters()} == {torch.float32}


def test_the_average_follows_its_definition_and_can_be_put_in_and_taken_out(world):
    learner = Learner(sharded_net(), Optim(lr=1e-2), ema_decay=0.5, ema_start=1)
    stage, kept = AdaptStage(toy_sft(), learner, NULL), []
    name, weight = next((n, p) for n, p in learner.net.named_parameters() if n.endswith("ffn.0.weight"))
    for n in range(3):
        stage.step([pairs([toy_sample()], n)], Draws.of(n), n)
        kept.append(weight.full_tensor().detach().clone())
    expected = 0.5 * (0.5 * kept[0] + 0.5 * kept[1]) + 0.5 * kept[2]
    assert torch.allclose(learner.ema.shadow[name].full_tensor(), expected, atol=1e-6)
    learner.ema.swap()
    assert torch.allclose(weight.full_tensor(), expected, atol=1e-6)
    learner.ema.swap()
    assert torch.equal(weight.full_tensor(), kept[2])


def test_the_warm_up_rises_in_a_line_to_the_rate(world):
    learner = Learner(sharded_net(), Optim(lr=1e-3, warmup=3))
    stage, rates = AdaptStage(toy_sft(), learner, NULL), []
    for n in range(5):
        stage.step([pairs([toy_sample()], n)], Draws.of(n), n)
        rates.append(learner.optimizers[0].param_groups[0]["lr"])
    assert rates == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3])


def test_muon_has_the_matrices_of_the_blocks_and_adamw_all_else(world):
    net = sharded_net()
    adamw, muon = make_optimizers(net, Optim(lr=1e-3, muon=0.5))
    names = {id(p): name for name, p in net.named_parameters()}
    with_muon, with_adamw = ([names[id(p)] for group in optimizer.param_groups for p in group["params"]] for optimizer in (muon, adamw))
    assert sorted(with_muon + with_adamw) == sorted(names.values())
    assert with_muon and all(".blocks." in name and name.endswith("weight") for name in with_muon)
    assert {"dit.head.head.weight", "dit.text_embedding.0.weight", "dit.blocks.0.modulation"} <= set(with_adamw)
    assert len(make_optimizers(net, Optim(lr=1e-3))) == 1


def test_a_frozen_part_stays_as_it_is_and_the_rest_learns(world):
    learner = Learner(sharded_net(), Optim(lr=1e-2, muon=1.0, frozen=("audio_proj",)), ema_decay=0.5)
    before = {name: p.full_tensor().clone() for name, p in learner.net.named_parameters()}
    for n in range(2):
        AdaptStage(toy_sft(), learner, NULL).step([pairs([toy_sample()], n)], Draws.of(n), n)
    stayed = {name for name, p in learner.net.named_parameters() if torch.equal(p.full_tensor(), before[name])}
    assert stayed == {name for name in before if ".audio_proj." in name}


def test_muon_moves_a_matrix_as_far_in_all_directions_at_its_share_of_the_rate(world):
    learner, free = Learner(sharded_net(), Optim(lr=1e-3, muon=0.5, weight_decay=0.0, clip=1e9)), "dit.blocks.0.ffn.0.weight"
    weight = dict(learner.net.named_parameters())[free]
    before = weight.full_tensor().clone()
    AdaptStage(toy_sft(), learner, NULL).step([pairs([toy_sample()], 0)], Draws.of(0), 0)
    moved = (weight.full_tensor() - before) / (0.5 * 1e-3 * 0.2 * max(before.shape) ** 0.5)
    stretch = torch.linalg.svdvals(moved)
    assert 0.6 < stretch.median() < 1.3 and stretch.max() < 1.3


def test_the_rate_falls_in_a_line_from_one_update_to_another():
    optim = Optim(lr=1e-3, warmup=1, fall=(4, 7))
    assert [optim.rate(n) for n in range(1, 10)] == pytest.approx([5e-4, 1e-3, 1e-3, 1e-3, 7.5e-4, 5e-4, 2.5e-4, 0, 0])
    assert Optim(lr=1e-3).rate(10**6) == 1e-3
