"""The small VAE's training: how it begins, what it minimizes, what of it learns, what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from toys import CPU, SMALL_VAE, toy_film, toy_preset, toy_run, write_toy_films

from livetalk_core.models import weights
from livetalk_core.models.patch_vae import PatchVAE
from livetalk_core.parallel.train import shard, training_world
from livetalk_core.train.config import Optim, Recipe, Tokenizer
from livetalk_core.train.draws import Draws
from livetalk_core.train.films import Film, FilmSet, PixelClip
from livetalk_core.train.learner import Learner
from livetalk_core.train.run import Job, no_units, train
from livetalk_core.train.tokenizer import (
    EMPHASIS,
    LAPLACIAN,
    SMOOTHED,
    Autoencoder,
    TokenizerStage,
    autoencoder_state,
    first_vae_state,
    reconstruction_loss,
    sharpness_of,
    signed,
)

FIXED = ("encoder.", "decoder.picture.")
"""What stays as it was worked out."""


def toy_clips(count: int = 4) -> list[PixelClip]:
    return [whole_clip(toy_film(seed, frames=9, size=32)) for seed in range(count)]


def whole_clip(film: dict[str, Tensor]) -> PixelClip:
    return PixelClip(frames_CTHW=film["frames"].permute(3, 0, 1, 2), mouth_HW=film["mouth"].bool())


def first_vae(clips: list[PixelClip], **changes: int) -> PatchVAE:
    config = replace(SMALL_VAE, **changes)
    vae = PatchVAE(config)
    vae.load_state_dict(first_vae_state(config, clips, 0))
    return vae.requires_grad_(False)


def there_and_back(vae: PatchVAE, video_CTHW: Tensor) -> Tensor:
    return next(vae.decode(vae.encode(video_CTHW)))


def pattern_clip(seed: int, patterns: int = 2, mouth: bool = False) -> PixelClip:
    """Gray, and in each block so many fixed patterns of four frames, the n-th up to 4 + n times; the first frame is gray."""
    draw, fixed = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(0)
    shapes = torch.randint(-4, 5, (patterns, 3, 4, 8, 8), generator=fixed)
    times = torch.stack([torch.randint(-4 - n, 5 + n, (2, 4, 4), generator=draw) for n in range(patterns)])
    blocks = torch.einsum("ncfpq,nthw->ctfhpwq", shapes, times).reshape(3, 8, 32, 32)
    frames_CTHW = torch.cat([torch.zeros(3, 1, 32, 32), blocks], dim=1) + 128
    return PixelClip(frames_CTHW=frames_CTHW.to(torch.uint8), mouth_HW=torch.full((32, 32), mouth))


def test_the_loss_is_the_weighted_difference_of_pictures_and_of_their_sharpness():
    again, video, weight = torch.rand(1, 3, 2, 6, 7), torch.rand(1, 3, 2, 6, 7), 1 + torch.rand(1, 1, 1, 6, 7)
    places = [(c, t, y, x) for c in range(3) for t in range(2) for y in range(6) for x in range(7)]
    picture = sum(weight[0, 0, 0, y, x] * (again - video)[0, c, t, y, x].abs() for c, t, y, x in places) / len(places)
    detail = 0.0
    for kernel, slow in ((LAPLACIAN, laplacian), (SMOOTHED, smoothed)):
        sharp = [sharpness_of(clip, kernel)[0] for clip in (again, video)]
        for mine, clip in zip(sharp, (again, video), strict=True):
            for c, t, y, x in ((0, 0, 0, 0), (1, 1, 3, 2), (2, 0, 5, 6), (0, 1, 1, 6)):
                assert float(mine[c, t, y, x]) == pytest.approx(slow_sharpness(clip[0, c, t], y, x, slow), rel=1e-4)
        detail += sum(weight[0, 0, 0, y, x] * (sharp[0] - sharp[1])[c, t, y, x].abs() for c, t, y, x in places) / len(places)
    assert float(reconstruction_loss(again, video, weight, 0.7)) == pytest.approx(float(picture + 0.7 * detail), rel=1e-4)
    assert reconstruction_loss(video, video, weight, 0.7) == 0


def test_the_smoothed_scale_sees_edges_and_no_checkerboard():
    y, x = torch.meshgrid(torch.arange(12), torch.arange(12), indexing="ij")
    board, edge, flat = (picture.float().expand(1, 3, 1, 12, 12) for picture in ((y + x) % 2, x > 5, 0 * x))
    inside = (..., slice(4, -4), slice(4, -4))
    plain, smooth = ([sharpness_of(video, kernel)[inside] for video in (board, edge, flat)] for kernel in (LAPLACIAN, SMOOTHED))
    assert torch.allclose(smooth[0], smooth[2], atol=1e-6) and plain[0].mean() > 100 * plain[2].mean()
    assert 0.8 < smooth[1].mean() / plain[1].mean() < 1.25, "edges count alike at both"


def slow_sharpness(picture_HW: Tensor, y: int, x: int, filtered: Callable[[Callable[[int, int], float], int, int], float]) -> float:
    height, width = picture_HW.shape

    def at(y: int, x: int) -> float:
        return float(picture_HW[min(max(y, 0), height - 1), min(max(x, 0), width - 1)])

    around = [(i, j) for i in range(y - 2, y + 3) for j in range(x - 2, x + 3) if 0 <= i < height and 0 <= j < width]
    return (sum(filtered(at, i, j) ** 2 for i, j in around) / len(around) + 1e-4) ** 0.5


def laplacian(at: Callable[[int, int], float], y: int, x: int) -> float:
    return 4 * at(y, x) - at(y - 1, x) - at(y + 1, x) - at(y, x - 1) - at(y, x + 1)


def smoothed(at: Callable[[int, int], float], y: int, x: int) -> float:
    """16/6 of the Laplacian after smoothing: as strong on an edge as the plain one."""
    smooth = lambda y, x: sum((2 - abs(i)) * (2 - abs(j)) / 6 * at(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1))  # noqa: E731
    return laplacian(smooth, y, x)


def test_what_the_components_span_comes_back_exactly():
    clips = [pattern_clip(seed) for seed in range(6)]
    vae, (seen, other) = first_vae(clips, z_dim=2), (signed([pattern_clip(seed)])[0] for seed in (9, 2))
    assert torch.allclose(there_and_back(vae, seen)[:, 1:], seen[:, 1:], atol=1e-5), "clips it was not worked out from too"
    upside_down = other.flip(2)
    assert not torch.allclose(there_and_back(vae, upside_down)[:, 1:], upside_down[:, 1:], atol=0.01), "the control"


def test_components_that_the_clips_do_not_have_are_no_infinities():
    clips = [pattern_clip(seed) for seed in range(6)]
    vae, video = first_vae(clips, z_dim=6), signed(clips[:1])[0]
    assert all(tensor.isfinite().all() for tensor in vae.state_dict().values())
    assert torch.allclose(there_and_back(vae, video)[:, 1:], video[:, 1:], atol=1e-4)


def test_a_first_frame_is_coded_as_four_equal_ones_and_comes_back_as_their_mean():
    vae, frame = first_vae(toy_clips()), signed(toy_clips(1))[0, :, :1]
    still = frame.repeat(1, 5, 1, 1)
    z = vae.encode(still)
    assert torch.allclose(z[:, 0], z[:, 1], atol=1e-4)
    z[:, 1] = torch.randn_like(z[:, 1])
    z[:, 0] = z[:, 1]
    frames = torch.cat([vae.decoder.picture.first(z[None, :, :1]), vae.decoder.picture.rest(z[None, :, 1:])], dim=1)[0, :, 0]
    one, four = frames[:192].view(3, 64, 4, 4), frames[192:].view(3, 4, 64, 4, 4)
    assert torch.allclose(one, four.mean(1), atol=1e-5)


def test_latents_have_no_mean_and_powers_of_the_components_deviations():
    clips = toy_clips(6)
    vae = first_vae(clips)
    z_ZN = torch.cat([vae.encode(video)[:, 1:].flatten(1) for video in signed(clips)], dim=1)
    assert z_ZN.mean(1).abs().max() < 1e-3
    deviation_Z = z_ZN.std(1)
    assert float(deviation_Z.square().mean()) == pytest.approx(1, rel=1e-3)
    in_pictures_Z = deviation_Z * vae.decoder.picture.rest.weight[:, :, 0, 0, 0].norm(dim=0)
    assert torch.allclose(deviation_Z / deviation_Z[0], (in_pictures_Z / in_pictures_Z[0]) ** EMPHASIS, rtol=1e-3)
    assert in_pictures_Z[0] > 1.5 * in_pictures_Z[-1], "the clips can tell"


def test_the_first_weights_rebuild_better_than_the_mean_and_the_more_channels_the_better():
    clips = toy_clips()
    videos = signed(clips)
    errors = [float(sum((there_and_back(first_vae(clips, z_dim=z), v) - v).square().mean() for v in videos) / 4) for z in (1, 3, 6)]
    assert errors[2] < errors[1] < errors[0] < float((videos - videos.mean()).square().mean())
    assert errors[2] < 0.02


def test_the_mouths_components_come_before_others_of_the_same_size():
    """One channel for two patterns of the same strength, of which one is only where the mouth is."""
    half, shown = torch.zeros(3, 9, 32, 32), torch.Generator().manual_seed(0)
    strength = torch.randint(-20, 21, (2, 4, 2), generator=shown).repeat_interleave(4, 0).repeat_interleave(8, 1).repeat_interleave(8, 2)
    columns, rows = torch.arange(16) % 2 * 2 - 1, torch.arange(32)[:, None] % 2 * 2 - 1
    half[:, 1:, :, :16], half[:, 1:, :, 16:] = strength * columns, strength * rows
    frames_CTHW, mouth_HW = (half + 128).to(torch.uint8), torch.zeros(32, 32, dtype=torch.bool)
    for side in (slice(0, 16), slice(16, 32)):
        mask = mouth_HW.clone()
        mask[:, side] = True
        vae, video = first_vae([PixelClip(frames_CTHW=frames_CTHW, mouth_HW=mask)], z_dim=1), frames_CTHW / 127.5 - 1
        error_HW = (there_and_back(vae, video) - video).square().mean((0, 1))
        assert error_HW[mask].mean() < 0.01 * error_HW[~mask].mean()


def test_the_autoencoder_is_the_serving_vae_there_and_back():
    net, video = Autoencoder(SMALL_VAE), signed(toy_clips(1))
    with torch.no_grad():
        again, noisy = net(video, 0.0), net(video, torch.full((1, 6, 3, 4, 4), 0.5))
        z = net.vae.encode(video[0])
        assert torch.allclose(again[0].clamp(-1, 1), next(net.vae.decode(z)), atol=1e-5)
        assert torch.allclose(noisy[0].clamp(-1, 1), next(net.vae.decode(z + 0.5)), atol=1e-5)
    assert not torch.allclose(again, noisy, atol=1e-3)


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_a_few_clips_are_learned_by_heart_and_only_by_the_decoders_network(tmp_path, compute):
    films = FilmSet(write_toy_films(tmp_path, 2, frames=9, size=32))
    state = first_vae_state(replace(SMALL_VAE, z_dim=3), [whole_clip(toy_film(i, 9, 32)) for i in range(2)], 0)
    with training_world(CPU):
        net = shard(lambda: Autoencoder(replace(SMALL_VAE, z_dim=3)), autoencoder_state(state), no_units, CPU, compute=compute)
        stage = TokenizerStage(Tokenizer(optim=Optim(lr=1e-2), frames=9, size=32), Learner(net, Optim(lr=1e-2)))
        losses = [float(stage.step([pairs_of(films, n)], Draws.of(n), n)["loss"]) for n in range(30)]
        learned = {name.removeprefix("vae."): p.full_tensor() for name, p in net.named_parameters()}
    assert sum(losses[-3:]) < 0.6 * sum(losses[:3])
    for name, tensor in learned.items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, state[name]) == name.startswith(FIXED), name


def pairs_of(films: FilmSet, step: int) -> list[tuple[Film, Draws]]:
    return [(films[i], Draws.of("toy", step, i)) for i in range(len(films))]


def toy_recipe(steps: int, **changes: object) -> Recipe:
    stage = Tokenizer(optim=Optim(lr=1e-3), frames=5, size=32)
    return replace(toy_run(stage, steps, batch=2, **changes), model=replace(toy_preset(), vae=SMALL_VAE))


def test_a_run_leaves_a_vae_that_serving_loads_whose_linear_part_is_the_first_one(tmp_path):
    films = write_toy_films(tmp_path / "films")
    job = Job(recipe=toy_recipe(2, validate_every=2, ema_decay=0.9), out=tmp_path / "run", data=films, device="cpu")
    path = train(job)
    vae = weights.load_vae(weights.read_tensors([path]), dtype=torch.float32)
    assert vae.config == SMALL_VAE and (tmp_path / "run/validation/step-00000002.mp4").is_file()
    clips = [FilmSet(films)[i].cut(Draws.of(0, "first", i), 5, 48) for i in range(4)]
    first = first_vae_state(SMALL_VAE, clips, 0)
    for name, tensor in load_file(path).items():
        assert torch.equal(tensor, first[name].bfloat16()) or not name.startswith(FIXED), name
    assert not torch.equal(vae.decoder.head.weight, first["decoder.head.weight"])


def test_a_run_goes_on_bit_by_bit_and_a_vae_that_is_given_is_where_it_starts(tmp_path):
    films = write_toy_films(tmp_path / "films")

    def run(name: str, steps: int, vae: Path | None = None) -> dict[str, Tensor]:
        recipe = toy_recipe(steps, ema_decay=0.5, dtype="bfloat16")
        return load_file(train(Job(recipe=recipe, out=tmp_path / name, data=films, vae=vae, device="cpu")))

    straight = run("straight", 4)
    run("halves", 2)
    resumed = run("halves", 4)
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)
    torch.manual_seed(3)
    save_file(PatchVAE(SMALL_VAE).state_dict(), tmp_path / "other.safetensors")
    given = run("given", 1, tmp_path / "other.safetensors")
    assert torch.equal(given["encoder.code.rest.weight"], load_file(tmp_path / "other.safetensors")["encoder.code.rest.weight"].bfloat16())


def test_a_run_without_films_is_refused_with_the_way_to_draw_some(tmp_path):
    with pytest.raises(ValueError, match="toy needs films; draw some with livetalk train nano and name their folder with --data"):
        train(Job(recipe=toy_recipe(1), out=tmp_path, device="cpu"))
