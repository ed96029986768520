"""The evidence: variants of Stage 2 trained and measured once each, and curves read from what runs wrote."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toys import toy_job, toy_run, toy_sft

from livetalk_core.cli import main as cli
from livetalk_core.evaluate import curves, report, study
from livetalk_core.train.checkpoint import PREFIX
from livetalk_core.train.presets import dmd_nano
from livetalk_core.train.run import DIT_FILE, train

COUNT = sum(map(len, study.TABLES.values()))


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A study whose training writes an empty file and whose measure is its seed; the jobs that were run."""
    jobs = []

    def fake_train(job):
        jobs.append(job)
        job.out.mkdir(parents=True)
        for name in (DIT_FILE, "config.json"):
            (job.out / name).write_text("{}")
        return job.out / DIT_FILE

    def fake_measure(folder, measurement):
        seed = 5 if folder.name == "stage-1" else int(folder.parent.name.rpartition("-")[2])
        return {name: float(seed) for name in study.COLUMNS if name != "minutes"}

    monkeypatch.setattr(study, "train", fake_train)
    monkeypatch.setattr(study, "measure_model", fake_measure)
    for name in (DIT_FILE, "config.json", "vae.safetensors"):
        (tmp_path / name).write_text("{}")
    return jobs


def toy_study(folder: Path, seeds: int = 2) -> study.Study:
    files = {"dit": folder / DIT_FILE, "vae": folder / "vae.safetensors"}
    return study.Study(out=folder / "study", recipe=dmd_nano(), data=folder, seeds=seeds, **files)


def test_every_variant_is_trained_once_a_seed_with_its_changes_alone(tmp_path, runs):
    found = study.run_study(toy_study(tmp_path), None, tell=len)
    assert len(runs) == 2 * COUNT and set(map(len, found.values())) == {1, 2}
    stages = {job.out.name: (job.recipe.stage, job.recipe.run.seed) for job in runs}
    assert len(stages) == len(runs)
    stage, seed = stages["random-up-to-5-1"]
    assert (stage.strategy, stage.chunks, seed) == ("random", 5, 1)
    assert stage.motion_source == dmd_nano().stage.motion_source
    assert stages["predicted-noised-in-the-loss-0"][0].motion_loss and not stages["predicted-noised-0"][0].motion_loss


def test_a_study_goes_on_where_it_was_stopped(tmp_path, runs, monkeypatch):
    working = study.train
    monkeypatch.setattr(study, "train", lambda job: None if len(runs) == 3 else working(job))
    assert study.run_study(toy_study(tmp_path), None, tell=len) is None
    monkeypatch.setattr(study, "train", working)
    assert study.run_study(toy_study(tmp_path), None, tell=len) is not None
    assert len(runs) == 2 * COUNT
    study.run_study(toy_study(tmp_path, seeds=3), None, tell=len)
    assert len(runs) == 3 * COUNT


def test_minutes_are_told_only_of_what_was_trained_in_one_go(tmp_path, runs, monkeypatch):
    monkeypatch.setattr(study, "train", lambda job: job.out / DIT_FILE)
    monkeypatch.setattr(study, "put_together", lambda vae, dit, folder: folder)
    stopped = tmp_path / "row-1" / "checkpoints" / f"{PREFIX}1"
    stopped.mkdir(parents=True)
    (stopped / ".metadata").touch()
    whole, resumed = (study.run_variant(toy_study(tmp_path), None, tmp_path / f"row-{seed}", {}, seed) for seed in (0, 1))
    assert "minutes" in whole and "minutes" not in resumed


def test_the_tables_show_mean_and_deviation_over_the_seeds(tmp_path, runs):
    text = study.study_tables(study.run_study(toy_study(tmp_path), None, tell=len))
    line = next(line for line in text.splitlines() if line.startswith("| K = 1 |"))
    assert line.startswith("| K = 1 | 0.500 ± 0.707 |")
    assert text.count("| stage 1 | 5.000 |") == len(study.TABLES) and "2 seeds" in text
    alone = study.study_tables(study.run_study(toy_study(tmp_path, seeds=1), None, tell=len))
    assert "One seed each." in alone and "±" not in alone


def test_a_recipe_of_stage_1_and_a_page_without_marks_are_refused(tmp_path, capsys):
    files = ["--data", str(tmp_path), "--dit", "a", "--vae", "b", "--reader", "c"]
    assert cli.main(["study", str(tmp_path), *files, "--recipe", "sft_nano"]) == 2
    assert "must be a Stage 2 recipe: dmd_14b, dmd_nano" in capsys.readouterr().err
    assert cli.main(["study", str(tmp_path), *files, "--page", str(tmp_path / "none.md")]) == 2
    assert report.marks(report.STUDY)[0] in capsys.readouterr().err


def test_curves_are_what_a_run_told(tmp_path):
    pytest.importorskip("tensorboard")
    train(toy_job(tmp_path, toy_run(toy_sft(), steps=3), "run"))
    series = curves.read_run(tmp_path / "run")
    assert series["loss"][0].tolist() == [1, 2, 3] and np.isfinite(series["loss"][1]).all()
    with pytest.raises(FileNotFoundError, match="no curves in"):
        curves.read_run(tmp_path)


def test_the_curves_are_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    steps = np.arange(30)
    runs = {"vae": {"loss": (steps, np.exp(-steps / 9.0))}, "sft": {"loss": (steps, steps * 0.1), "grad_norm": (steps, steps % 3)}}
    curves.plot_curves(runs, tmp_path / "new" / "curves.png", smooth=5)
    picture = np.asarray(Image.open(tmp_path / "new" / "curves.png").convert("L"))
    assert picture.std() > 5 and picture[: len(picture) // 2, picture.shape[1] * 2 // 3 :].min() == 255, "no axis where nothing was told"


def test_a_running_mean_keeps_its_length_and_its_steps():
    steps, means = curves.running_mean(np.array([1, 2, 3, 4]), np.array([0.0, 2.0, 4.0, 6.0]), 2)
    assert steps.tolist() == [2, 3, 4] and means.tolist() == [1, 3, 5]
    assert curves.running_mean(np.array([1, 2]), np.array([0.0, 2.0]), 50)[1].tolist() == [1]


def test_numbers_are_written_beside_the_model(tmp_path, runs):
    study.run_study(toy_study(tmp_path, seeds=1), None, tell=len)
    numbers = json.loads((tmp_path / "study" / "k-3-0" / "numbers.json").read_text())
    assert set(numbers) == set(study.COLUMNS)
