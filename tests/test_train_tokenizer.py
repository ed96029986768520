"""The small VAE's training: what it minimizes, how it begins, what it leaves behind."""

from dataclasses import replace

import pytest
import torch
from toys import CPU, toy_preset, toy_run

from livetalk_core.models import weights
from livetalk_core.models.vae import WAN_MEAN, WAN_STD, CausalVAE
from livetalk_core.parallel.train import shard, training_world
from livetalk_core.train.config import Optim, Tokenizer
from livetalk_core.train.draws import Draws
from livetalk_core.train.export import fold_statistics
from livetalk_core.train.learner import Learner
from livetalk_core.train.run import Job, no_units, train
from livetalk_core.train.tokenizer import (
    Autoencoder,
    PixelClip,
    TokenizerStage,
    autoencoder_state,
    fresh_vae_state,
    measure_latents,
    rebuild_loss,
)

CONFIG = toy_preset().vae


def toy_clip(seed: int, frames: int = 5, size: int = 32) -> PixelClip:
    """Smooth waves that move."""
    t, y, x = torch.meshgrid(torch.arange(frames), torch.arange(size), torch.arange(size), indexing="ij")
    waves = torch.stack([torch.sin(0.2 * x + 0.1 * (c + 1) * y + 0.4 * t + seed) for c in range(3)])
    mouth = torch.zeros(size, size, dtype=torch.bool)
    mouth[16:24, 8:24] = True
    return PixelClip(frames_CTHW=((waves + 1) * 127).to(torch.uint8), mouth_HW=mouth)


def test_the_loss_is_the_weighted_difference_of_pictures_and_of_their_steps():
    again, video, weight = torch.rand(1, 3, 2, 3, 3), torch.rand(1, 3, 2, 3, 3), 1 + torch.rand(1, 1, 1, 3, 3)
    error, w = (again - video)[0], weight[0, 0, 0]
    places = [(c, t, y, x) for c in range(3) for t in range(2) for y in range(3) for x in range(3)]
    plain = sum(w[y, x] * error[c, t, y, x].abs() for c, t, y, x in places) / len(places)
    right = [w[y, x] * (error[c, t, y, x] - error[c, t, y, x - 1]).abs() for c, t, y, x in places if x]
    down = [w[y, x] * (error[c, t, y, x] - error[c, t, y - 1, x]).abs() for c, t, y, x in places if y]
    later = [w[y, x] * (error[c, 1, y, x] - error[c, 0, y, x]).abs() for c, t, y, x in places if t]
    edges = sum(sum(steps) / len(steps) for steps in (right, down, later)) / 3
    assert float(rebuild_loss(again, video, weight, 0.7)) == pytest.approx(float(plain + 0.7 * edges), rel=1e-5)
    assert rebuild_loss(video, video, weight, 0.7) == 0


def test_first_weights_treat_each_frame_alone():
    """A latent frame of a clip is that of its last picture on its own; with usual random weights it is not."""
    video = torch.rand(3, 9, 32, 32) * 2 - 1
    for state, alone in ((fresh_vae_state(CONFIG, 0), True), (CausalVAE(CONFIG).state_dict(), False)):
        vae = CausalVAE(CONFIG)
        vae.load_state_dict(state)
        with torch.no_grad():
            whole = vae.encode(video)
            pictures = torch.cat([vae.encode(video[:, i : i + 1]) for i in (0, 4, 8)], dim=1)
        assert torch.allclose(whole, pictures, atol=1e-4) == alone


def test_the_autoencoder_is_the_serving_vae_there_and_back():
    net = Autoencoder(CONFIG)
    clip = toy_clip(0)
    video = clip.frames_CTHW.float() / 127.5 - 1
    with torch.no_grad():
        again, mean, _ = net(video[None], None)
        latents = net.vae.encode(video)
        (frames,) = net.vae.decode(latents)
    assert torch.allclose(again[0].clamp(-1, 1), frames, atol=1e-4)
    scale = torch.tensor(WAN_STD).view(-1, 1, 1, 1)
    assert torch.allclose(latents * scale + torch.tensor(WAN_MEAN).view(-1, 1, 1, 1), mean[0], atol=1e-4)


def test_a_few_clips_are_learned_by_heart():
    with training_world(CPU):
        net = shard(lambda: Autoencoder(CONFIG), autoencoder_state(fresh_vae_state(CONFIG, 0)), no_units, CPU)
        learner = Learner(net, Optim(lr=1e-2))
        stage = TokenizerStage(Tokenizer(optim=Optim(lr=1e-2), frames=5, size=32), learner, (16, 2, 4, 4))
        clips = [toy_clip(i) for i in range(2)]
        losses = [float(stage.step([[(clip, Draws.of(n, i)) for i, clip in enumerate(clips)]], Draws.of(n), n)["loss"]) for n in range(25)]
    assert losses[-1] < 0.75 * losses[0]


def test_folded_statistics_give_latents_of_the_published_mean_and_deviation_and_the_same_pictures():
    torch.manual_seed(1)
    net, clips = Autoencoder(CONFIG), [toy_clip(i) for i in range(8)]
    mean_C, std_C = measure_latents(net, clips)
    plain, folded = CausalVAE(CONFIG), CausalVAE(CONFIG)
    plain.load_state_dict(net.vae.state_dict())
    folded.load_state_dict(fold_statistics(net.vae.state_dict(), CONFIG, mean_C, std_C))
    videos = [clip.frames_CTHW.float() / 127.5 - 1 for clip in clips]
    with torch.no_grad():
        latents = torch.cat([folded.encode(video).flatten(1) for video in videos], dim=1)
        pictures = [next(vae.decode(vae.encode(videos[0]))) for vae in (plain, folded)]
        unfolded = torch.cat([plain.encode(video).flatten(1) for video in videos], dim=1)
    assert torch.allclose(latents.mean(1), torch.zeros(16), atol=1e-3) and torch.allclose(latents.std(1), torch.ones(16), atol=1e-3)
    assert not torch.allclose(unfolded.std(1), torch.ones(16), atol=0.1), "the control"
    assert torch.allclose(*pictures, atol=1e-3)


def test_a_run_on_the_talker_leaves_a_vae_that_serving_loads(tmp_path):
    stage = Tokenizer(optim=Optim(lr=1e-3), frames=5, size=32)
    recipe = replace(toy_run(stage, steps=2, batch=1, validate_every=2), name="toy_vae")
    path = train(Job(recipe=recipe, out=tmp_path, device="cpu"))
    vae = weights.load_vae(weights.read_tensors([path]), dtype=torch.float32)
    assert vae.config == CONFIG
    assert (tmp_path / "validation/step-00000002.mp4").is_file()
