"""Stage 2: the roll-out is serving's, eq. 2 and 3 hold, gradients go where they should and memory does not grow with K."""

import weakref
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from toys import CPU, SMALL_DIT, pairs, sharded_net, toy_dmd, toy_net, toy_preset, toy_sample, toy_state

from livetalk_core.engine.denoiser import PLAIN, DiTDenoiser
from livetalk_core.models.dit import AudioDiT
from livetalk_core.models.vae import CausalVAE
from livetalk_core.parallel.train import training_world
from livetalk_core.stream.color import lab_stats, match_color
from livetalk_core.stream.flow import flow_times, pin_motion, seeded_noise
from livetalk_core.stream.session import Session
from livetalk_core.train import dmd
from livetalk_core.train.config import DMD, Optim
from livetalk_core.train.dmd import Cut, DistillStage, dmd_loss, draw_cut, draw_time, guided_x0, roll_out, score_input
from livetalk_core.train.draws import Draws
from livetalk_core.train.learner import Learner
from livetalk_core.train.net import velocity
from livetalk_core.types import StreamSettings

NULL = torch.zeros(2, SMALL_DIT.text_dim)


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return CausalVAE(toy_preset().vae).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def world():
    with training_world(CPU):
        yield


def distill_stage(vae, **changes):
    config = toy_dmd(**changes)
    generator, critic = Learner(sharded_net(0), config.generator), Learner(sharded_net(1), config.critic)
    teacher = sharded_net(2).requires_grad_(False)
    return DistillStage(config, generator, critic, teacher, vae, NULL)


def test_the_roll_out_is_what_serving_makes(vae):
    """A Session with the serving denoiser, chunk by chunk, against the roll-out cut after its last step."""
    dit = AudioDiT(SMALL_DIT)
    dit.load_state_dict(toy_state())
    sample, draws, made = toy_sample(chunks=3), Draws.of("serving"), []
    noise = seeded_noise(sample.plan.latent_shape, draws.seed("roll-out"), CPU)
    session = Session(
        sample.plan,
        DiTDenoiser(dit, cuts=PLAIN),
        vae,
        sample.reference,
        StreamSettings(steps=4, shift=5.0, last_noise=1.0),
        noise,
        on_latents=made.append,
    )
    for index in range(3):
        list(session.step(sample.window(index)))
    for k in (1, 3):
        end = roll_out(toy_net(), vae, sample, Cut(chunks=k, step=3), toy_dmd(), draws, with_gradient=False)
        assert torch.equal(end.x0_CTHW, made[k - 1])
    assert not torch.equal(made[1], made[2])


def written_out(net, vae, sample, cut, draws, detach=True):
    """Eq. 3 in one piece: every step with a graph, cut by `detach` before the chosen one. (x0, motion)"""
    noise = seeded_noise(sample.plan.latent_shape, draws.seed("roll-out"), CPU)
    times, motion = flow_times(4, 5.0), sample.reference.first_CTHW
    target = lab_stats(sample.reference.pixels_CHW[:, None])
    for chunk in range(cut.chunks):
        window, x = sample.window(chunk), pin_motion(noise(torch.float32), motion)
        last = cut.step if chunk == cut.chunks - 1 else 3
        for i in range(last + 1):
            x = x.detach() if detach and chunk == cut.chunks - 1 and i == last else x
            x0 = x - times[i] * velocity(net, x, times[i], sample.reference, window)
            x = pin_motion((1 - times[i + 1]) * x0 + times[i + 1] * noise(torch.float32), motion)
        if chunk == cut.chunks - 1:
            return pin_motion(x0, motion), motion
        (frames,) = vae.decode(pin_motion(x0, motion))
        motion = vae.encode(match_color(frames, target, 1.0)[:, -5:])
        motion = motion.detach() if detach else motion


@pytest.mark.parametrize("cut", [Cut(chunks=1, step=0), Cut(chunks=1, step=2), Cut(chunks=2, step=3)])
def test_the_truncated_gradient_is_the_full_one_of_the_chosen_step(vae, cut):
    sample, draws = toy_sample(chunks=2), Draws.of("cut")
    weights = torch.randn(sample.plan.latent_shape)
    grads = []
    for x0_of_net in (
        lambda net: roll_out(net, vae, sample, cut, toy_dmd(), draws, with_gradient=True).x0_CTHW,
        lambda net: written_out(net, vae, sample, cut, draws)[0],
        lambda net: written_out(net, vae, sample, cut, draws, detach=False)[0],
    ):
        net = toy_net()
        (x0_of_net(net) * weights).sum().backward()
        grads.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
    assert torch.allclose(grads[0], grads[1], rtol=1e-3, atol=1e-4 * float(grads[1].abs().max()))
    if cut != Cut(chunks=1, step=0):
        assert not torch.allclose(grads[0], grads[2], rtol=1e-2, atol=1e-2 * float(grads[1].abs().max())), "the control"


def test_the_gradient_of_the_loss_is_equation_2():
    """(fake - real) / mean |x0 - real| / n, element by element, and nothing towards the scores."""
    x0, real, fake = (torch.randn(2, 3, 2, 2, requires_grad=True) for _ in range(3))
    dmd_loss(x0, real, fake).backward()
    scale = sum(abs(a - b) for a, b in zip(x0.flatten().tolist(), real.flatten().tolist(), strict=True)) / 24
    for got, f, r in zip(x0.grad.flatten().tolist(), fake.flatten().tolist(), real.flatten().tolist(), strict=True):
        assert got == pytest.approx((f - r) / scale / 24, rel=1e-5)
    assert real.grad is None or not real.grad.any()


def test_a_generator_that_is_where_the_teacher_wants_it_is_left_alone():
    same = torch.randn(2, 3, 2, 2)
    x0 = same.clone().requires_grad_()
    dmd_loss(x0, same, same + 0).backward()
    assert not x0.grad.any()


def test_gradients_reach_the_generator_in_its_turn_and_nothing_else(vae, world):
    stage = distill_stage(vae, chunks=2)
    sample, draws = toy_sample(chunks=2), Draws.of("reach")
    stage.generator_loss(sample, draws, Cut(chunks=2, step=1)).backward()
    assert all(p.grad is not None and p.grad.full_tensor().any() for p in named_used(stage.generator.net))
    assert all(p.grad is None for p in (*stage.critic.net.parameters(), *stage.teacher.parameters(), *vae.parameters()))


def test_gradients_reach_the_fake_score_in_its_turn_and_nothing_else(vae, world):
    stage = distill_stage(vae, chunks=2)
    stage.critic_loss(toy_sample(chunks=2), Draws.of("reach"), Cut(chunks=2, step=1)).backward()
    assert all(p.grad is not None and p.grad.full_tensor().any() for p in named_used(stage.critic.net))
    assert all(p.grad is None for p in (*stage.generator.net.parameters(), *stage.teacher.parameters(), *vae.parameters()))


def named_used(net) -> list[Tensor]:
    """All weights but key biases: a softmax does not see what is added to all of its scores."""
    return [p for name, p in net.named_parameters() if not name.endswith(("k.bias", "k_img.bias"))]


def test_detached_steps_are_run_without_a_graph(vae, monkeypatch):
    """Grad mode of every forward: on in one, the last."""
    net, modes = toy_net(), []
    forward = net.forward
    monkeypatch.setattr(net, "forward", lambda *inputs: modes.append(torch.is_grad_enabled()) or forward(*inputs))
    roll_out(net, vae, toy_sample(chunks=3), Cut(chunks=3, step=2), toy_dmd(), Draws.of(0), with_gradient=True)
    assert modes == [False] * 10 + [True]


class LiveBytes(TorchDispatchMode):
    """Bytes of all tensors alive that were made inside, and the most there were at once."""

    def __init__(self):
        super().__init__()
        self.alive, self.now, self.peak = {}, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self.note(tensor.untyped_storage())
        return out

    def note(self, storage):
        key = storage._cdata
        if key in self.alive:
            return
        self.alive[key] = weakref.finalize(storage, self.drop, key, storage.nbytes())
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)

    def drop(self, key, size):
        del self.alive[key]
        self.now -= size


def peak_of(vae, chunks: int) -> int:
    """Most bytes alive in a generator's forward and backward over so many chunks."""
    net, critic, teacher = toy_net(0), toy_net(1), toy_net(2)
    stage = DistillStage(toy_dmd(), *(Holder(n) for n in (net, critic)), teacher, vae, NULL)
    sample = toy_sample(chunks=5)
    with LiveBytes() as live:
        stage.generator_loss(sample, Draws.of("memory"), Cut(chunks=chunks, step=3)).backward()
    return live.peak


class Holder:
    def __init__(self, net):
        self.net = net


def test_the_peak_of_a_step_does_not_grow_with_the_number_of_chunks(vae, monkeypatch):
    assert peak_of(vae, 3) == peak_of(vae, 4) == peak_of(vae, 5)
    monkeypatch.setattr(dmd.Session, "step", Session.step.__wrapped__)
    assert peak_of(vae, 4) > 1.2 * peak_of(vae, 3), "the control: a graph through all chunks"


def test_what_is_saved_for_the_backward_pass_is_that_of_one_forward(vae):
    """Bytes of the activations kept, for any cut."""
    saved = {}
    for cut in (Cut(chunks=1, step=0), Cut(chunks=1, step=3), Cut(chunks=3, step=3)):
        kept: dict[int, int] = {}

        def keep(tensor, kept=kept):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            end = roll_out(toy_net(), vae, toy_sample(chunks=3), cut, toy_dmd(), Draws.of(0), with_gradient=True)
        saved[cut] = sum(kept.values())
        assert end.x0_CTHW.requires_grad
    assert max(saved.values()) <= 1.02 * min(saved.values()), saved


def test_the_switches_of_table_3_make_the_motion_latents_of_the_scores(vae):
    sample, draws = toy_sample(chunks=2), Draws.of("switch")
    end = roll_out(toy_net(), vae, sample, Cut(chunks=2, step=3), toy_dmd(), draws, with_gradient=False)
    noise, t = torch.randn(sample.plan.latent_shape), 0.4
    for source, motion in (("predicted", end.motion_CTHW), ("truth", sample.latents_KCTHW[1][:, :2])):
        for noised in (False, True):
            x_t = score_input(end, sample, t, noise, toy_dmd(motion_source=source, noise_motion=noised))
            expected = 0.6 * motion + 0.4 * noise[:, :2] if noised else motion
            assert torch.allclose(x_t[:, :2], expected)
            assert torch.allclose(x_t[:, 2:], (0.6 * end.x0_CTHW + 0.4 * noise)[:, 2:])


def test_the_loss_switch_lets_the_generators_own_motion_answer_count(vae, world, monkeypatch):
    seen = []
    monkeypatch.setattr(dmd, "dmd_loss", lambda x0, real, fake: seen.append(x0) or dmd_loss(x0, real, fake))
    for counted, frames in ((False, 8), (True, 9)):
        stage = distill_stage(vae, motion_loss=counted)
        stage.generator_loss(toy_sample(chunks=1), Draws.of("loss"), Cut(chunks=1, step=1)).backward()
        assert seen[-1].shape[1] == frames


def test_guidance_is_the_sum_of_its_three_answers(monkeypatch):
    sample, x_t = toy_sample(), torch.zeros(16, 9, 4, 4)

    def answer(net, x, t, reference, window):
        return torch.full_like(x, 100.0 * (reference.text_LD is not NULL) + 10.0 * bool(window.features_PTWSD.any()) + 1.0)

    monkeypatch.setattr(dmd, "x0_of", answer)
    config = toy_dmd(text_guidance=5.0, audio_guidance=4.0)
    x0 = guided_x0(None, x_t, 0.5, sample.reference, sample.window(0), NULL, config)
    assert (x0 == 1 + 4 * (11 - 1) + 5 * (111 - 11)).all()
    assert (guided_x0(None, x_t, 0.5, sample.reference, sample.window(0), NULL, toy_dmd()) == 111).all()


def test_every_cut_is_drawn_and_fixed_means_fixed():
    drawn = {(c.chunks, c.step) for c in (draw_cut(Draws.of(i), toy_dmd(chunks=3)) for i in range(300))}
    assert drawn == {(k, i) for k in (1, 2, 3) for i in range(4)}
    for k in (1, 3, 5):
        assert {draw_cut(Draws.of(i), toy_dmd(chunks=k, strategy="fixed")).chunks for i in range(20)} == {k}


def test_score_times_stay_away_from_both_ends_and_lean_to_noise():
    times = [draw_time(Draws.of(i), toy_dmd()) for i in range(2000)]
    assert min(times) >= 0.02 and max(times) == 0.98
    assert 0.7 < sum(times) / 2000 < 0.8, "the mean of 5 u / (1 + 4 u) is 0.747"


def test_the_fake_score_learns_at_every_step_and_the_generator_at_every_fifth(vae, world):
    stage = distill_stage(vae, chunks=1)
    turns = [stage.step([pairs([toy_sample()], n)], Draws.of(n), n) for n in range(6)]
    assert ["generator_loss" in results for results in turns] == [True, False, False, False, False, True]
    assert (stage.critic.updates, stage.generator.updates) == (6, 2)


def test_the_fake_score_learns_what_the_generator_makes(vae, world):
    """Its loss falls when the generator stands still: the same draws again and again."""
    stage = distill_stage(vae, chunks=1, critic=Optim(lr=3e-3, betas=(0.0, 0.999)))
    sample, draws, cut = toy_sample(), Draws.of("same"), Cut(chunks=1, step=1)
    first, *_, last = (float(stage.critic.update([lambda: stage.critic_loss(sample, draws, cut)])[0]) for _ in range(40))
    assert last < 0.5 * first


@pytest.mark.parametrize("change", [{"strategy": "sometimes"}, {"motion_source": "dream"}, {"ratio": 0}, {"t_min": 0.0}])
def test_settings_out_of_range_are_refused_with_their_value(change):
    ((name, value),) = change.items()
    with pytest.raises(ValueError, match=f"{name}={value!r}"):
        replace(DMD(generator=Optim(lr=1e-4), critic=Optim(lr=1e-4)), **change)
