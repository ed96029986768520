"""Training of the enlarger: halved films, the small frames that a model makes of them, crops of both, and a loss that falls."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from livetalk_core.models.enlarger import Enlarger, EnlargerConfig, halve
from livetalk_core.models.patch_vae import PatchVAE
from livetalk_core.train import nano as small_model
from livetalk_core.train.config import Enlarging, Optim
from livetalk_core.train.draws import Draws
from livetalk_core.train.enlarging import EnlargedFilm, EnlargedFilmSet, EnlargeStage, halve_films, signed, write_small_frames
from livetalk_core.train.films import FilmSet
from livetalk_core.train.learner import make_optimizers
from livetalk_core.train.presets import enlarger_nano, nano
from livetalk_core.train.run import Job, fresh_enlarger, train
from livetalk_core.train.shards import open_shards
from livetalk_core.train.small_net import SmallVelocityNet
from livetalk_core.types import StreamSettings

CPU = torch.device("cpu")


def write_film(path, size=64, frames=33, first=0):
    """A picture with detail that slides to the right by a pixel a frame, and its small frames from frame `first` on."""
    picture = (torch.rand(size, size + frames, 3, generator=torch.Generator().manual_seed(3)) * 255).to(torch.uint8)
    whole = torch.stack([picture[:, frames - i : frames - i + size] for i in range(frames)])
    mouth = torch.zeros(size, size, dtype=torch.uint8)
    mouth[40:50, 20:40] = 1
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = torch.zeros((frames + 16) * 640, dtype=torch.int16)
    save_file({"frames": whole, "reference": whole[0].clone(), "mouth": mouth, "sound": sound, "lids": torch.zeros(frames)}, path)
    return whole


@pytest.fixture
def pair(tmp_path):
    """A film, and as small frames its own ones halved, from frame 5 on."""
    whole = write_film(tmp_path / "large" / "a.safetensors")
    low = halve(whole[5:].permute(0, 3, 1, 2).float()).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    (tmp_path / "small").mkdir()
    save_file({"first_frame": torch.tensor(5), "frames": low}, tmp_path / "small" / "a.safetensors")
    return EnlargedFilm(tmp_path / "large" / "a.safetensors", tmp_path / "small" / "a.safetensors")


def test_films_are_halved_once_and_keep_the_rest(tmp_path):
    whole = write_film(tmp_path / "large" / "a.safetensors", size=32, frames=3)
    assert halve_films(FilmSet(tmp_path / "large"), tmp_path / "half") == 1
    half = load_file(tmp_path / "half" / "a.safetensors")
    assert torch.equal(half["frames"], halve(whole.permute(0, 3, 1, 2).float()).round().to(torch.uint8).permute(0, 2, 3, 1))
    assert half["mouth"].shape == (16, 16) and half["reference"].shape == (16, 16, 3) and len(half["sound"]) == 19 * 640
    before = (tmp_path / "half" / "a.safetensors").stat().st_mtime_ns
    halve_films(FilmSet(tmp_path / "large"), tmp_path / "half")
    assert (tmp_path / "half" / "a.safetensors").stat().st_mtime_ns == before


def test_a_crop_shows_the_same_place_small_and_large(pair):
    for seed in range(4):
        cut = pair.cut(Draws.of(seed), frames=3, size=16)
        assert cut.small_TCHW.shape == (3, 3, 16, 16) and cut.large_TCHW.shape == (3, 3, 32, 32)
        assert cut.picture_CHW.shape == (3, 32, 32) and cut.mouth_HW.shape == (32, 32)
        assert (halve(cut.large_TCHW) - cut.small_TCHW).abs().max() < 0.006, "rounded to bytes"
    small, large, picture = pair.whole()
    assert len(small) == len(large) == 28 and (halve(large) - small).abs().max() < 0.006 and picture.shape == (3, 64, 64)
    with pytest.raises(ValueError, match="size=64 must be at most 32: the small frames of a.safetensors have no more pixels"):
        pair.cut(Draws.of(0), frames=1, size=64)


def test_half_of_the_crops_hold_the_mouth(pair):
    held = [bool(pair.cut(Draws.of(seed), frames=1, size=8).mouth_HW.any()) for seed in range(60)]
    assert 30 < sum(held) < 60


def test_films_without_small_frames_are_left_out(pair, tmp_path):
    write_film(tmp_path / "large" / "b.safetensors")
    films = EnlargedFilmSet(tmp_path / "large", tmp_path / "small")
    assert len(films) == 1 and films[0].path.name == "a.safetensors" and films.buckets == ["all"]
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match="none has no small frames of a film in .*large; livetalk train nano makes them"):
        EnlargedFilmSet(tmp_path / "large", tmp_path / "none")


def test_it_learns_where_the_picture_has_moved_to(pair):
    """A frame's detail is in the picture, a few pixels aside: the loss falls below what the small frames alone allow."""
    torch.manual_seed(0)
    net = Enlarger(EnlargerConfig(width=32, blocks=1, fine_width=16, fine_blocks=1))
    learner = type("L", (), {"net": net})()
    stage = EnlargeStage(Enlarging(optim=Optim(lr=1e-3), frames=4, size=16), learner)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)

    def loss(seed):
        return stage.loss([(pair, Draws.of(seed, i)) for i in range(4)])

    with torch.no_grad():
        before = sum(loss(1000 + i) for i in range(4)) / 4
    for step in range(60):
        optimizer.zero_grad()
        loss(step).backward()
        optimizer.step()
    with torch.no_grad():
        after = sum(loss(1000 + i) for i in range(4)) / 4
    assert after < 0.85 * before


def test_small_frames_are_what_the_vae_and_the_dit_make(tmp_path):
    write_film(tmp_path / "half" / "talker-train-00000.safetensors", size=128)
    torch.manual_seed(0)
    vae = PatchVAE(nano().vae).eval().requires_grad_(False)
    save_file(vae.state_dict(), tmp_path / "vae.safetensors")
    small_model.encode_films(FilmSet(tmp_path / "half"), tmp_path / "vae.safetensors", tmp_path / "data")
    data, asked = open_shards(tmp_path / "data", nano().plan), []
    net = SmallVelocityNet(nano().dit).eval()
    net.register_forward_hook(lambda *given: asked.append(1))
    found = {}
    for seed in range(8):
        asked.clear()
        assert write_small_frames(net, vae, data, tmp_path / str(seed), StreamSettings(steps=2, shift=3.0, last_noise=0.0), seed) == 1
        tensors = load_file(tmp_path / str(seed) / "talker-train-00000.safetensors")
        assert tensors["frames"].shape == (33, 128, 128, 3) and tensors["frames"].dtype == torch.uint8
        found.setdefault(bool(asked), []).append(tensors["frames"])
    assert set(found) == {True, False}, "some have the DiT's errors, some not"
    rebuilt = torch.cat(list(vae.decode(data[0].latents_KCTHW[0], (3,))), dim=1)
    assert all((signed(frames).transpose(0, 1) - rebuilt).abs().max() < 0.01 for frames in found[False])
    assert not any(torch.equal(frames, found[False][0]) for frames in found[True])


def test_the_same_seed_begins_with_the_same_weights():
    first, again, other = fresh_enlarger(0), fresh_enlarger(0), fresh_enlarger(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["frame.weight"], other["frame.weight"])
    assert torch.rand(1) != torch.rand(1), "the caller's generator goes on"


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="size=30 must be a multiple of 4"):
        Enlarging(optim=Optim(lr=1e-3), size=30)
    with pytest.raises(ValueError, match="frames=0 must be 1 or more"):
        Enlarging(optim=Optim(lr=1e-3), frames=0)


def test_muon_updates_its_blocks():
    adam, muon = make_optimizers(Enlarger(EnlargerConfig(width=16, blocks=1, fine_width=8, fine_blocks=1)), Optim(lr=1e-3, muon=2.0))
    assert len(muon.param_groups[0]["params"]) == 4


def test_films_without_their_small_frames_are_not_enough(tmp_path):
    with pytest.raises(ValueError, match="enlarger_nano needs films and their small frames .*name them with --data and --small"):
        train(Job(recipe=enlarger_nano(), out=tmp_path / "out", data=tmp_path, device="cpu"))
