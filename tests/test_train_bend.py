"""Bent motion frames: how far they go, that they are stored, and that training sees them as often as asked."""

from dataclasses import replace

import pytest
import torch
from toys import CPU, SMALL_DIT, toy_sample, toy_sft

from livetalk_core.presets import nano
from livetalk_core.train.bend import PARTS, SHIFT, ZOOM, bend_frames
from livetalk_core.train.draws import Draws
from livetalk_core.train.export import write_tensors
from livetalk_core.train.films import FilmSet
from livetalk_core.train.nano import encode_films, make_first_vae
from livetalk_core.train.sft import noise_sample
from livetalk_core.train.shards import open_shards
from livetalk_core.train.synthetic import draw_film

NULL = torch.zeros(2, SMALL_DIT.text_dim)
SIDE = 64


def places() -> torch.Tensor:
    """A picture whose first channel is x and whose second is y, from -1 to 1, in three frames."""
    line = torch.linspace(-1, 1, SIDE)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y, torch.zeros_like(x)])[:, None].expand(3, 3, SIDE, SIDE)


def test_frames_bend_alike_smoothly_and_no_farther_than_said():
    far, moved = 2 * (SHIFT + PARTS) + ZOOM, []
    for i in range(40):
        bent = bend_frames(places(), Draws.of("bend", i))
        assert torch.equal(bent[:, 0], bent[:, 2]), "all frames alike"
        assert torch.equal(bent, bend_frames(places(), Draws.of("bend", i))), "the same draws bend alike"
        away = (bent - places())[:2, 0]
        assert away.abs().max() < 1.3 * far + 2 / SIDE  # bicubic may go a little beyond its nodes
        assert away[:, 6:-6, 6:-6].diff(dim=1).abs().max() < 1 / SIDE, "neighbors stay neighbors, but where the edge repeats"
        moved.append(away)
    moved = torch.stack(moved)
    assert moved.abs().mean() > 0.1 * far and moved.mean().abs() < 0.1 * far, "to all sides"
    assert moved.flatten(2).std(2).mean() > 0.05 * far, "and not as a whole only"


def test_half_precision_bends_as_far():
    wide = torch.linspace(-1, 1, 720).expand(3, 1, 16, 720)
    half, whole = (bend_frames(wide.to(dtype), Draws.of("wide")).float() for dtype in (torch.bfloat16, torch.float32))
    assert (half - whole).abs().max() < 2 / 256, "bfloat16 pixels are that coarse, the places are not"


def test_training_sees_bent_motion_as_often_as_asked_and_wants_the_truth():
    sample, config = toy_sample(chunks=2), toy_sft(bent_motion=0.5, motion_latents=(2,))
    sample = replace(sample, bent_KCTHW=sample.latents_KCTHW[:, :, :2] + 1)
    bent = 0
    for i in range(200):
        row, plain = (noise_sample(sample, Draws.of("often", i), c, NULL) for c in (config, replace(config, bent_motion=0.0)))
        motion = row.x_CTHW[:, :2]
        assert torch.equal(plain.x_CTHW[:, :2], sample.latents_KCTHW[row.window.index][:, :2])
        bent += torch.equal(motion, sample.bent_KCTHW[row.window.index])
        assert torch.equal(row.x_CTHW[:, 2:], plain.x_CTHW[:, 2:]) and torch.equal(row.target_CTHW, plain.target_CTHW)
    assert 70 < bent < 130


def test_clips_without_bent_motion_are_refused_where_it_is_wanted():
    with pytest.raises(
        ValueError, match=r"bent_motion=1\.0 needs clips that were prepared with --bend, and toy-0 was not; prepare a new folder, or set 0"
    ):
        noise_sample(toy_sample(), Draws.of("none"), toy_sft(bent_motion=1.0), NULL)
    with pytest.raises(ValueError, match="bent_motion=2 must be 0 to 1"):
        toy_sft(bent_motion=2)


def test_films_are_encoded_with_bent_motion_on_demand(tmp_path):
    write_tensors(draw_film(0, 33, SIDE), tmp_path / "films" / "talker.safetensors")
    films = FilmSet(tmp_path / "films")
    vae = make_first_vae(films, tmp_path / "vae.safetensors")
    for bend in (False, True):
        encode_films(films, vae, tmp_path / str(bend), bend)
    plain, sample = (open_shards(tmp_path / str(bend), nano().plan)[0].to(CPU) for bend in (False, True))
    assert plain.bent_KCTHW is None and torch.equal(plain.latents_KCTHW, sample.latents_KCTHW)
    true = sample.latents_KCTHW[:, :, :2]
    assert sample.bent_KCTHW.shape == true.shape
    error = (sample.bent_KCTHW - true).square().mean()
    assert 0 < error < true.var(), "bent, and still the same picture"
