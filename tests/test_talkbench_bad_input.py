"""The benchmark and what is wrong with its input: one line each, and nothing else is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_talkbench import three, write_clip

from livetalk_core.cli.main import main
from livetalk_core.evaluate.talkbench.bench import measure_all
from livetalk_core.evaluate.talkbench.clips import find_clips, part_of
from livetalk_core.evaluate.talkbench.files import Checksums
from livetalk_core.evaluate.talkbench.speed import Speed


@pytest.mark.parametrize("rows, message", [
    ('{"a": 1}', "must hold a list of rows"),
    ("[1]", "must have names"),
    ('[{"picture": "no.png"}]', "there is no file"),
    ('[{"name": "x"}]', "names no file"),
    ("[{", "is not JSON"),
    ("[]", "holds no clips"),
])  # fmt: skip
def test_a_manifest_that_is_wrong_is_refused_in_one_line(rows, message, tmp_path):
    (tmp_path / "manifest.json").write_text(rows)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        find_clips(tmp_path)


def test_clips_that_lack_something_or_share_a_name_are_refused(tmp_path):
    write_clip(tmp_path / "x", "a")
    (tmp_path / "x" / "a.png").unlink()
    with pytest.raises(ValueError, match="a sound and no picture"):
        find_clips(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps(2 * [{"picture": "x/a.wav", "sound": "x/a.wav", "set": "s"}]))
    with pytest.raises(ValueError, match="two clips of set s are named a"):
        find_clips(tmp_path)
    with pytest.raises(ValueError, match="must be I/N"):
        part_of([], "4/4")


def test_two_pictures_of_one_clip_and_a_manifest_that_is_no_text_are_refused(tmp_path):
    write_clip(tmp_path / "x", "a")
    (tmp_path / "x" / "a.jpg").write_bytes((tmp_path / "x" / "a.png").read_bytes())
    with pytest.raises(ValueError, match=r"a\.jpg and a\.png are both the picture of clip a; keep one"):
        find_clips(tmp_path)
    for name in ("manifest.json", "manifest.csv"):
        (tmp_path / name).write_bytes(b"\xff\xfe\x00\x81")
        with pytest.raises(ValueError, match=f"{name}: is not text in UTF-8"):
            find_clips(tmp_path)
        (tmp_path / name).unlink()


def test_a_size_that_the_model_was_not_trained_for_is_made_only_if_one_insists(tmp_path, capsys):
    write_clip(tmp_path / "clips", "a", 0.6)
    arguments = ["talkbench", str(tmp_path / "clips"), "--out", str(tmp_path / "out"), "--model", "nano", "--size", "32x32",
                 "--steps", "1", "--measures", "speed"]  # fmt: skip
    assert main(arguments) == 1 and "insist with --any-size" in capsys.readouterr().err
    assert main([*arguments, "--any-size"]) == 0 and "not made" not in capsys.readouterr().err


def test_a_video_that_cannot_be_read_and_a_wrong_note_of_speed_stop_nothing(tmp_path, monkeypatch):
    clips, system = three(tmp_path)
    (tmp_path / "films" / "a.speed.json").write_text('{"fps": "fast"}')
    own, told = Checksums.of, []

    def of(self: Checksums, paths: list[Path]) -> str:
        if paths[0].name == "b.mkv":
            raise PermissionError(13, "Permission denied", "films/b.mkv")
        return own(self, paths)

    monkeypatch.setattr(Checksums, "of", of)
    results = measure_all(clips, [system], [Speed()], tmp_path / "out", told.append)
    assert results[0].not_measured.startswith('a.speed.json must look like {"fps": 25.0')
    assert results[1].not_measured == "films/b.mkv: Permission denied" and len(results) == 3
    assert "films, short/b: not measured: films/b.mkv: Permission denied" in told


def test_wrong_weights_are_said_before_anything_is_made(tmp_path, capsys):
    write_clip(tmp_path / "clips", "a")
    (tmp_path / "dino_vitbase16_pretrain.pth").write_bytes(b"no weights")
    arguments = ["talkbench", str(tmp_path / "clips"), "--out", str(tmp_path / "out"), "--model", "tiny", "--metrics-folder", str(tmp_path)]
    assert main(arguments) == 2
    assert "dino_vitbase16_pretrain.pth: cannot be read as weights" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words, message", [
    (["--baseline", "x"], "must be NAME=DIR"),
    (["--baseline", "x=/no/such"], "there is no folder /no/such"),
    (["--baseline", "x=."], "has a video of none of the 1 clips; it must be named like its clip"),
    (["--only-baselines"], "needs at least one --baseline"),
    (["--measures", "beauty"], "is not one of sync"),
    (["--metrics-folder", "/no/such"], "there is no such folder"),
    (["--metrics-device", "toaster"], "must be cpu, cuda"),
    (["--name", "a/b"], "cannot be a system's name"),
    (["--part", "x"], "must be I/N"),
])  # fmt: skip
def test_bad_arguments_are_one_line(words, message, tmp_path, capsys):
    write_clip(tmp_path / "clips", "a")
    assert main(["talkbench", str(tmp_path / "clips"), "--out", str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
