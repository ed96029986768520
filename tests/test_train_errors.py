"""What a DiT gets wrong, and a decoder that learns from it."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from toys import CPU, SMALL_VAE, toy_film, toy_net, toy_plan, toy_preset, toy_run, toy_sample, write_toy_films, write_toy_shards

from livetalk_core.stream.flow import flow_times, pin_motion
from livetalk_core.train.config import Optim, Tokenizer
from livetalk_core.train.draws import Draws
from livetalk_core.train.errors import find_error, write_errors
from livetalk_core.train.export import write_tensors
from livetalk_core.train.films import Film, FilmSet
from livetalk_core.train.net import velocity
from livetalk_core.train.run import Job, train
from livetalk_core.train.shards import open_shards
from livetalk_core.train.tokenizer import Autoencoder, TokenizerStage, reconstruction_loss, signed
from livetalk_core.types import StreamSettings

VAE = replace(SMALL_VAE, z_dim=3)
TWO_STEPS = StreamSettings(steps=2, shift=3.0, last_noise=1.0)


@pytest.fixture
def data(tmp_path):
    return open_shards(write_toy_shards(tmp_path / "shards", count=3), lambda width, height: toy_plan(width))


def write_film_and_error(folder, frames: int = 37, seed: int = 0):
    """A film whose pixels tell frame, row and column, and an error whose values do, of its frames 28 to 36."""
    places = torch.stack(torch.meshgrid(torch.arange(frames), torch.arange(48), torch.arange(48), indexing="ij"), dim=-1)
    write_tensors(toy_film(seed, frames) | {"frames": places.to(torch.uint8)}, folder / "films" / f"toy-{seed}.safetensors")
    error = torch.stack(torch.meshgrid(torch.arange(3.0), torch.arange(6.0), torch.arange(6.0), indexing="ij"))
    write_tensors({"first_frame": torch.tensor(28), "error": error.bfloat16()}, folder / "errors" / f"toy-{seed}.safetensors")
    return Film(folder / "films" / f"toy-{seed}.safetensors", folder / "errors" / f"toy-{seed}.safetensors")


def test_an_error_is_what_the_samplers_last_steps_make_less_the_truth():
    """Against the sampler written out, entered at its second step."""
    net, sample, times = toy_net(), toy_sample(chunks=2), flow_times(4, 3.0)
    schedule = StreamSettings(steps=4, shift=3.0, last_noise=0.5)
    entered = set()
    for i in range(12):
        draws = Draws.of("error", i)
        chunk, error_CTHW = find_error(net, sample, schedule, draws)
        true_CTHW = sample.latents_KCTHW[chunk]
        count = 1 + draws.choice("motion", 2)
        x = true_CTHW
        with torch.no_grad():
            for step, amount in ((1, 1.0), (2, 1.0), (3, 0.5)):
                noise = amount * draws.noise(f"noise {step - 1}", x)
                x = pin_motion((1 - times[step]) * x + times[step] * noise, true_CTHW[:, :count])
                x = x - times[step] * velocity(net, x, times[step], sample.reference, sample.window(chunk))
        assert torch.allclose(error_CTHW[:, count:], (x - true_CTHW)[:, count:], atol=1e-5)
        assert torch.equal(error_CTHW[:, :count], torch.zeros_like(error_CTHW[:, :count])), "motion latents are given"
        entered.add((chunk, count))
    assert entered == {(chunk, count) for chunk in (0, 1) for count in (1, 2)}


def test_errors_are_written_once_for_each_sample(data, tmp_path):
    folder = tmp_path / "errors"
    assert write_errors(toy_net(), data, folder, TWO_STEPS, 3) == 3
    written = {path.name: (path.stat().st_mtime_ns, load_file(path)) for path in sorted(folder.iterdir())}
    assert list(written) == ["toy-0.safetensors", "toy-1.safetensors", "toy-2.safetensors"]
    for _, tensors in written.values():
        assert tensors["error"].shape == toy_plan().latent_shape and int(tensors["first_frame"]) in (0, 28)
    (folder / "toy-1.safetensors").unlink()
    assert write_errors(toy_net(), data, folder, TWO_STEPS, 3) == 3
    for name, (made_at, tensors) in written.items():
        assert ((folder / name).stat().st_mtime_ns == made_at) == (name != "toy-1.safetensors")
        assert torch.equal(load_file(folder / name)["error"], tensors["error"]), "the same again"
    assert write_errors(toy_net(), data, tmp_path / "few", TWO_STEPS, 1) == 1
    assert [path.name for path in (tmp_path / "few").iterdir()] == ["toy-0.safetensors"]


def test_a_cut_of_an_error_lies_where_its_pixels_lie(tmp_path):
    film = write_film_and_error(tmp_path)
    for i in range(8):
        clip = film.cut_error(Draws.of("cut", i), 16)
        first, top, left = clip.frames_CTHW[:, 0, 0, 0].tolist()
        assert clip.frames_CTHW.shape == (3, 9, 16, 16) and first == 28 and top % 8 == left % 8 == 0
        assert torch.equal(clip.frames_CTHW.permute(1, 2, 3, 0), film.read("frames")[28:37, top : top + 16, left : left + 16])
        assert clip.error_CTHW.shape == (3, 3, 2, 2) and clip.error_CTHW[:, 0, 0, 0].tolist() == [0, top / 8, left / 8]
        assert torch.equal(clip.mouth_HW, film.read("mouth").bool()[top : top + 16, left : left + 16])


def test_the_share_of_errors_is_the_recipes_and_they_take_the_noises_place(tmp_path):
    film = write_film_and_error(tmp_path)
    config = Tokenizer(optim=Optim(lr=1e-3), frames=9, size=16, errors=0.7)
    torch.manual_seed(0)
    net = Autoencoder(VAE)
    stage = TokenizerStage(config, type("L", (), {"net": net})())
    cuts = [stage.cut(film, Draws.of("share", i)) for i in range(200)]
    assert 0.6 < sum(cut.error_CTHW is not None for cut in cuts) / 200 < 0.8
    number = next(i for i, cut in enumerate(cuts) if cut.error_CTHW is not None)
    clip = cuts[number]
    again = net(signed([clip]), clip.error_CTHW[None])
    expected = reconstruction_loss(again, signed([clip]), 1 + 2.0 * clip.mouth_HW.float(), config.edge_weight)
    assert torch.allclose(stage.loss([(film, Draws.of("share", number))]), expected)


def test_errors_that_do_not_fit_are_refused(tmp_path):
    film = write_film_and_error(tmp_path)
    stage = TokenizerStage(Tokenizer(optim=Optim(lr=1e-3), frames=5, size=16, errors=1.0), type("L", (), {"net": None})())
    with pytest.raises(ValueError, match="frames=5 must be 9, because the DiT's errors are of chunks of 9 frames"):
        stage.cut(film, Draws.of("any"))
    with pytest.raises(ValueError, match="errors=1.5 must be 0 to 1"):
        Tokenizer(optim=Optim(lr=1e-3), errors=1.5)
    films = write_toy_films(tmp_path / "more", 2)
    assert [path.name for path in FilmSet(films, tmp_path / "errors").paths] == ["toy-0.safetensors"], "the other has no errors"
    with pytest.raises(FileNotFoundError, match="has no error file for a film in .*, such as toy-0.safetensors; livetalk train nano makes"):
        FilmSet(films, tmp_path / "none")
    recipe = replace(toy_run(replace(stage.config, frames=9), 1), model=replace(toy_preset(), vae=VAE))
    with pytest.raises(ValueError, match="toy learns from a DiT's errors; name their folder with --errors"):
        train(Job(recipe=recipe, out=tmp_path / "run", data=films, device="cpu"))


def test_a_run_learns_to_undo_an_error_that_is_always_the_same(tmp_path):
    """The decoder of latents that are off by a constant comes closer to the picture than it was."""
    for i in range(2):
        write_tensors(toy_film(i, 9, 32), tmp_path / "films" / f"toy-{i}.safetensors")
        error = torch.full((3, 3, 4, 4), 0.5)
        write_tensors({"first_frame": torch.tensor(0), "error": error.bfloat16()}, tmp_path / "errors" / f"toy-{i}.safetensors")
    stage = Tokenizer(optim=Optim(lr=1e-2), frames=9, size=32, errors=1.0)

    def run(steps: int):
        recipe = replace(toy_run(stage, steps, batch=2), model=replace(toy_preset(), vae=VAE))
        job = Job(recipe=recipe, out=tmp_path / f"run{steps}", data=tmp_path / "films", errors=tmp_path / "errors", device="cpu")
        return loss_of(load_file(train(job)))

    def loss_of(state):
        net = Autoencoder(VAE)
        net.vae.load_state_dict({name: tensor.float() for name, tensor in state.items()})
        films = FilmSet(tmp_path / "films", tmp_path / "errors")
        with torch.no_grad():
            return float(TokenizerStage(stage, type("L", (), {"net": net})()).loss([(films[i].to(CPU), Draws.of(i)) for i in range(2)]))

    assert run(25) < 0.7 * run(1)
