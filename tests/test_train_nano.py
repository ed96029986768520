"""The small model from nothing, every stage in turn, a few steps each."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from livetalk_core.engine.load import load_engine
from livetalk_core.models import weights
from livetalk_core.train import nano
from livetalk_core.train.audio_pretraining import PretrainSettings
from livetalk_core.types import StreamSettings

FACE = Path(__file__).parent / "golden" / "face"
"""A rendered person with a fit, in place of many."""


@pytest.fixture(scope="module")
def short():
    """Two films of each kind, and a step of each stage."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nano, "FILMS", ((2, 3),))
        patch.setattr(nano, "PRETRAINING", PretrainSettings(scripts=2, steps=2))
        patch.setattr(nano, "HELD_OUT_SCRIPTS", 1)
        patch.setattr(nano, "PHOTO_FILMS", 2)
        patch.setattr(nano, "LARGE_FILMS", (1, 1))
        patch.setattr(nano, "draw_people", lambda folder, count: shutil.copytree(FACE, folder, dirs_exist_ok=True))
        patch.setattr(nano, "load_anatomy", lambda: None)
        for name in ("vae_nano", "sft_nano", "dmd_nano", "sft_photos", "enlarger_nano"):
            recipe = getattr(nano, name)()
            run = replace(recipe.run, steps=1, batch=2, compile=False, validate_every=0, ema_start=0)
            made = replace(recipe, run=run)
            patch.setattr(nano, name, lambda made=made: made)
        yield


@pytest.fixture(scope="module")
def made(short, tmp_path_factory):
    """What the command leaves."""
    out = tmp_path_factory.mktemp("made")
    assert nano.train_nano(out, "cpu") == out / "nano"
    return out


@pytest.mark.slow
def test_every_stage_runs_and_the_folder_it_ends_in_talks(made):
    folder = made / "nano"
    assert {path.name for path in folder.iterdir()} == {nano.VAE_FILE, nano.DIT_FILE, nano.ENLARGER_FILE, "config.json"}
    assert sum(path.stat().st_size for path in folder.iterdir()) < 33e6
    engine = load_engine(folder, "cpu")
    for size in (128, 256):
        stream = engine.open(engine.reference(torch.zeros(3, size, size)), StreamSettings(steps=1))
        assert torch.cat([chunk.frames_THWC for chunk in stream.push(torch.zeros(17920))]).shape == (28, size, size, 3)
    ears, trained = (weights.read_tensors([path]) for path in (made / "first" / nano.DIT_FILE, folder / nano.DIT_FILE))
    for name in ears:
        given = name.startswith(("audio_proj", "shifts"))
        assert torch.equal(ears[name].bfloat16(), trained[name]) or not given, "what hears, and what moves a picture, stays as it is"
    finished, started = (weights.read_tensors([path]) for path in (folder / nano.VAE_FILE, made / "first" / nano.VAE_FILE))
    assert all(torch.equal(finished[name], started[name].bfloat16()) for name in started if name.startswith("encoder")), "the latents stay"
    assert not torch.equal(finished["decoder.head.weight"], started["decoder.head.weight"])


@pytest.mark.slow
def test_the_command_given_again_finds_everything_done(made, tmp_path, monkeypatch):
    out = shutil.copytree(made, tmp_path / "out")
    before = {
        path: path.stat().st_mtime_ns
        for name in ("films", "photo_films", "first", "errors", "large_films", "halved_films", "small_frames")
        for path in (out / name).iterdir()
    }
    jobs, train = [], nano.train
    monkeypatch.setattr(nano, "train", lambda job: jobs.append(job) or train(job))
    folder = nano.train_nano(out, "cpu")
    assert [(job.recipe.name, job.dit, job.vae) for job in jobs] == [
        ("sft_nano", (out / "first" / nano.DIT_FILE,), out / "first" / nano.VAE_FILE),
        ("dmd_nano", (out / "sft" / nano.DIT_FILE,), out / "first" / nano.VAE_FILE),
        ("sft_photos", (out / "dmd" / nano.DIT_FILE,), out / "first" / nano.VAE_FILE),
        ("vae_nano", (), out / "first" / nano.VAE_FILE),
        ("enlarger_nano", (), None),
    ]
    assert before == {path: path.stat().st_mtime_ns for path in before}
    for name in (nano.VAE_FILE, nano.DIT_FILE, nano.ENLARGER_FILE):
        assert (folder / name).read_bytes() == (made / "nano" / name).read_bytes()


@pytest.mark.slow
def test_a_stage_that_a_signal_stopped_ends_the_command(made, tmp_path, monkeypatch):
    for name in ("films", "first"):
        shutil.copytree(made / name, tmp_path / name)
    seen = []
    monkeypatch.setattr(nano, "train", lambda job: seen.append(job.recipe.name))
    assert nano.train_nano(tmp_path, "cpu") is None
    assert seen == ["sft_nano"], "what comes after waits for the next run"


def test_a_model_folders_files_have_their_usual_names_whatever_they_were_called(tmp_path):
    for name in ("best.safetensors", "later.safetensors", "config.json"):
        (tmp_path / name).write_text(name)
    folder = nano.put_together(tmp_path / "best.safetensors", tmp_path / "later.safetensors", tmp_path / "made")
    assert (folder / nano.VAE_FILE).read_text() == "best.safetensors" and (folder / nano.DIT_FILE).read_text() == "later.safetensors"


def test_photographs_without_a_fit_are_told_before_hours_of_work(tmp_path, monkeypatch):
    monkeypatch.setattr(nano, "check_heads", lambda: None)
    out, own = tmp_path / "out", tmp_path / "own"
    for wrong in ("holds no pictures", "has pictures without a fit"):
        with pytest.raises(ValueError, match=f"own {wrong}; add pictures and run: python -m livetalk_core.talker.photo.fit .*own$"):
            nano.train_nano(out, "cpu", own)
        own.mkdir(exist_ok=True)
        shutil.copy(FACE / "head.jpg", own)
    assert not out.exists()


def test_films_are_copied_where_the_disk_has_no_links(tmp_path, monkeypatch):
    def no_links(*given):
        raise OSError("no links here")

    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.safetensors").write_bytes(b"film")
    monkeypatch.setattr(nano.os, "link", no_links)
    for _ in range(2):
        assert nano.link_films([tmp_path / "a"], tmp_path / "all") == 1
    assert [path.name for path in (tmp_path / "all").iterdir()] == ["one.safetensors"]
    assert (tmp_path / "all" / "one.safetensors").read_bytes() == b"film"


def test_photographs_are_for_the_whole_small_model(capsys):
    from livetalk_core.cli.main import main

    assert main(["train", "sft_nano", "out", "--photographs", "own"]) != 0
    assert "--photographs is for train nano, not for sft_nano" in capsys.readouterr().err


def test_photographs_join_the_rendered_people(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(nano, "draw_photo_films", lambda folder, pictures, count: seen.extend(pictures))
    people = shutil.copytree(FACE, tmp_path / "people")
    dict(nano.parts_of(tmp_path, "cpu", nano.fitted_pictures(FACE)))["photo films"]()
    assert seen == [people / "head.jpg", FACE / "head.jpg"]


def test_a_missing_package_is_told_before_hours_of_work(tmp_path, monkeypatch):
    monkeypatch.setattr(nano, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="train nano needs cv2 and scipy, not installed here; install the train extra"):
        nano.train_nano(tmp_path, "cpu")
    assert not any(tmp_path.iterdir())
