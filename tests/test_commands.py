"""doctor and bench: what they look at, what they print, when they fail."""

import json
import shutil

import pytest

from livetalk_core.bench.measurement import STAGES, measure_stream
from livetalk_core.checks.doctor import examine, examine_package
from livetalk_core.cli.main import main


def findings(capsys, *arguments):
    status = main(["doctor", "--json", *map(str, arguments)])
    return status, {finding["what"]: finding for finding in json.loads(capsys.readouterr().out)}


def test_doctor_finds_a_whole_model_good(capsys, published):
    status, found = findings(capsys, "--model", published)
    assert status == 0
    assert all(found[part]["good"] for part in ("python", "torch", "av", "dit", "vae", "text", "image", "audio", "tokenizer"))
    assert "diffusion_pytorch_model-00001-of-00002.safetensors" in found["dit"]["found"]


def test_doctor_names_a_missing_part_and_the_way_out_and_fails(capsys, published, tmp_path):
    folder = shutil.copytree(published, tmp_path / "model")
    (folder / "Wan2.1_VAE.pth").unlink()
    status, found = findings(capsys, "--model", folder)
    assert status == 1
    assert not found["vae"]["good"] and "Soul-AILab/SoulX-FlashTalk-14B" in found["vae"]["way_out"]
    assert found["dit"]["good"]


def test_doctor_says_when_the_folder_or_a_shard_is_not_there(capsys, published, tmp_path):
    status, found = findings(capsys, "--model", tmp_path / "nothing")
    assert status == 1 and "does not exist" in found["model folder"]["found"]
    folder = shutil.copytree(published, tmp_path / "model")
    next(folder.glob("*00002-of*")).unlink()
    status, found = findings(capsys, "--model", folder)
    assert status == 1 and "00002-of-00002.safetensors is missing" in found["model folder"]["found"]


def test_doctor_tells_random_weights_and_unshipped_ones_apart(capsys):
    for model, where in (("tiny", "random weights"), ("nano", "in this package")):
        status, found = findings(capsys, "--model", model)
        assert status == 0 and where in found[model]["found"]
    assert findings(capsys)[1]["nano"]["good"], "what is taken when no model is named"
    status, found = findings(capsys, "--model", "livetalk_14b")
    assert status == 1 and "--model" in found["livetalk_14b"]["way_out"]


def test_doctor_lists_what_is_optional_without_failing():
    optional = {finding.what: finding for finding in examine() if not finding.needed}
    assert {"flash_attn", "flash_attn_interface", "xfuser"} <= set(optional)
    assert all(finding.way_out for finding in optional.values() if not finding.good)


def test_a_package_that_is_not_installed_is_told_with_the_command():
    finding = examine_package("no-such-package-at-all")
    assert not finding.good and finding.way_out == "pip install no-such-package-at-all"


def test_the_table_shows_every_finding(capsys):
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("ok   torch") for line in lines) and any("xfuser" in line for line in lines)


def test_bench_times_every_stage_and_adds_up(engine):
    report = measure_stream(engine, "48x32", chunks=2)
    assert set(report["stage_s"]) == set(STAGES) and all(seconds > 0 for seconds in report["stage_s"].values())
    assert sum(report["stage_s"].values()) <= 1.5 * report["chunk_s"]["max"]
    assert report["fps"] == pytest.approx(28 / report["chunk_s"]["median"])
    assert report["real_time_factor"] == pytest.approx(25 / report["fps"])
    assert report["chunk_s"]["median"] <= report["chunk_s"]["p95"] <= report["chunk_s"]["max"]
    assert report["first_frame_s"] > 0 and report["first_frame_warm_s"] > 0 and report["peak_memory_mb"] > 50
