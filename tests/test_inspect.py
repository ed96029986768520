"""Videos made by the main job say where they come from, and `livetalk inspect` reads it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made import speech_like, write_wav
from test_resume import job_of, kill_after, same_films

from livetalk_core.cli.main import main
from livetalk_core.generate import Report, check_inputs, generate
from livetalk_core.media.fragments import FragmentWriter
from livetalk_core.media.video import VideoWriter, read_frames
from livetalk_core.provenance.inspection import inspect_video
from livetalk_core.provenance.manifest import Origin, hash_of
from livetalk_core.provenance.marking import MarkOptions, open_marking
from livetalk_core.provenance.watermark import Watermark
from livetalk_core.types import StreamSettings

MARKED = MarkOptions(watermark=True)


def write_marked(path: Path, mark_id: int, claimed: int | None, size: int = 256) -> Path:
    """A second of noisy gray with a watermark, and credentials that claim an id."""
    origin = Origin(model="tiny", mark_id=claimed)
    frames = torch.randint(90, 120, (12, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with VideoWriter(path, width=size, height=size, seal=open_marking(MarkOptions()).seal(origin, path.name)) as writer:
        writer.write(Watermark(mark_id)(frames))
    return path


def test_a_generated_video_names_model_picture_and_sound(engine, tmp_path, portrait):
    job = job_of(tmp_path, portrait, "out.mp4", 1.0, settings=StreamSettings(steps=1))
    generate(engine, check_inputs(job))
    read = inspect_video(tmp_path / "out.mp4", frames=0).credentials
    assert read.state == "valid" and read.by_machine and "watermark" not in read.details and "prompt" not in read.details
    assert (read.details["model"], read.details["picture"]) == ("tiny", hash_of(portrait))
    assert read.details["sound"] == [hash_of(tmp_path / "speech.wav")] and read.details["hashes"] == "SHA-256 of files"


def test_frames_and_sound_are_the_same_with_and_without_credentials(engine, tmp_path, portrait):
    for name, credentials in (("with.mp4", True), ("without.mp4", False)):
        job = job_of(tmp_path, portrait, name, 1.5, settings=StreamSettings(steps=1), marks=MarkOptions(credentials=credentials))
        generate(engine, check_inputs(job))
    assert same_films(tmp_path / "with.mp4", tmp_path / "without.mp4")
    assert inspect_video(tmp_path / "without.mp4", frames=0).credentials.state == "none"


def test_a_stopped_run_is_signed_too(engine, tmp_path, portrait):
    def stop(chunk, total):
        if chunk.index == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(engine, check_inputs(job_of(tmp_path, portrait, "out.mp4", 3.0, settings=StreamSettings(steps=1))), stop)
    assert inspect_video(tmp_path / "out.mp4", frames=0).credentials.state == "valid"


@pytest.mark.slow
def test_a_resumed_run_keeps_its_watermark_and_equals_an_uninterrupted_one(engine, tmp_path, portrait, monkeypatch):
    ids = iter([77, 78])
    monkeypatch.setattr("livetalk_core.provenance.watermark.new_id", lambda: next(ids))
    kill_after(engine, job_of(tmp_path, portrait, "out.mp4", marks=MARKED), 100, monkeypatch)
    with pytest.raises(ValueError, match="cannot be resumed: watermark was on and is not set; "):
        generate(engine, check_inputs(job_of(tmp_path, portrait, "out.mp4", resume=True)))
    generate(engine, check_inputs(job_of(tmp_path, portrait, "out.mp4", marks=MARKED, resume=True)))
    monkeypatch.setattr("livetalk_core.provenance.watermark.new_id", lambda: 77)
    generate(engine, check_inputs(job_of(tmp_path, portrait, "whole.mp4", marks=MARKED)))
    generate(engine, check_inputs(job_of(tmp_path, portrait, "plain.mp4")))
    assert same_films(tmp_path / "out.mp4", tmp_path / "whole.mp4")
    assert not same_films(tmp_path / "out.mp4", tmp_path / "plain.mp4"), "control: the mark shows"
    assert inspect_video(tmp_path / "out.mp4", frames=0).credentials.details["watermark"]["id"] == "0000004d"


def test_the_mark_never_enters_the_frames_that_the_next_chunk_starts_from(engine, tmp_path, portrait):
    made = {}
    for name, marks in (("marked.mp4", MARKED), ("plain.mp4", MarkOptions())):
        chunks = made[name] = []
        job = job_of(tmp_path, portrait, name, 2.5, settings=StreamSettings(steps=1), marks=marks)
        generate(engine, check_inputs(job), lambda chunk, total, chunks=chunks: chunks.append(chunk.frames_THWC.clone()))
    assert all(torch.equal(a, b) for a, b in zip(made["marked.mp4"], made["plain.mp4"], strict=True))


def test_what_could_not_be_signed_is_kept_and_said(engine, tmp_path, portrait, monkeypatch):
    inputs = check_inputs(job_of(tmp_path, portrait, "out.mp4", 1.0, settings=StreamSettings(steps=1)))

    def fail(*how):
        raise ValueError("Content Credentials cannot be signed: no more ink")

    monkeypatch.setattr(inputs.marking.credentials, "sign", fail)
    notes = []
    generate(engine, inputs, report=Report(note=notes.append))
    assert len(notes) == 1 and "out.mp4 has no Content Credentials: " in notes[0] and "no more ink" in notes[0]
    assert inspect_video(tmp_path / "out.mp4", frames=0).credentials.state == "none"


def test_a_watermark_and_credentials_that_agree(tmp_path):
    found = inspect_video(write_marked(tmp_path / "a.mp4", 5, 5), 10)
    assert found.good and found.own and found.mark.readable and found.mark.mark_id == 5 and found.claimed_id == "00000005"


def test_a_watermark_that_contradicts_the_credentials_is_noticed(tmp_path, capsys):
    path = write_marked(tmp_path / "a.mp4", 5, 6)
    assert not inspect_video(path, 10).good
    assert main(["inspect", str(path)]) == 1
    assert "id 00000005, but the credentials say 00000006" in capsys.readouterr().out


def test_a_recording_of_a_live_stream_can_be_signed_and_marked(tmp_path):
    pieces, mark = [], Watermark(9)
    writer = FragmentWriter(pieces.append, width=256, height=256)
    frames = torch.randint(90, 120, (14, 256, 256, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for start in (0, 7):
        writer.write(mark(frames[start : start + 7]), np.zeros(7 * 640, np.float32))
    writer.close()
    (tmp_path / "live.mp4").write_bytes(b"".join(pieces))
    credentials = open_marking(MarkOptions()).credentials
    credentials.sign(tmp_path / "live.mp4", tmp_path / "signed.mp4", Origin(model="tiny", mark_id=9), "live.mp4")
    found = inspect_video(tmp_path / "signed.mp4", 10)
    assert found.good and found.credentials.state == "valid" and found.mark.mark_id == 9 and found.mark.readable
    assert sum(1 for _ in read_frames(tmp_path / "signed.mp4")) == 14


def test_credentials_cannot_write_to_the_terminal(tmp_path, capsys):
    path = tmp_path / "a.mp4"
    origin = Origin(model="\x1b[2Jcleared", prompt="one\ntwo")
    with VideoWriter(path, width=64, height=64, seal=open_marking(MarkOptions(sign_prompt=True)).seal(origin, "a.mp4")) as writer:
        writer.write(torch.zeros(2, 64, 64, 3, dtype=torch.uint8))
    assert main(["inspect", str(path), "--frames", "0"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and "?[2Jcleared" in out and "one two" in out


def test_the_command_line_tells_and_exits(tmp_path, portrait, capsys):
    write_wav(tmp_path / "a.wav", speech_like(1.0))
    how = ["--model", "tiny", "--steps", "1", "--size", "48x32"]
    out = tmp_path / "out.mp4"
    assert (
        main(["generate", str(portrait), str(tmp_path / "a.wav"), str(out), *how, "--watermark", "--sign-prompt", "--prompt", "Hello."])
        == 0
    )
    assert "Content Credentials, signed by this installation's own certificate" in capsys.readouterr().out
    assert main(["inspect", str(out), "--frames", "0"]) == 0
    told = capsys.readouterr().out
    assert (
        "credentials  valid: " in told and "(this installation)" in told and "a trained model made the video" in told and "Hello." in told
    )
    out.write_bytes(out.read_bytes()[:-1] + b"x")
    assert main(["inspect", str(out), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["credentials"]["state"] == "altered" and not told["good"]
    assert main(["generate", str(portrait), str(tmp_path / "a.wav"), str(tmp_path / "b.mp4"), *how, "--no-credentials"]) == 0
    assert "no Content Credentials: they are turned off" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "b.mp4")]) == 0
    assert "credentials  none: " in capsys.readouterr().out


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("missing.mp4", None, "there is no such video file"),
        ("sound.wav", b"RIFF" + bytes(40), "cannot be read as a video file"),
        ("text.mp4", b"not a video", "cannot be read as a video file"),
        ("empty.mp4", b"", "is empty (0 bytes)"),
    ],
)
def test_what_is_no_video_is_told_in_one_line(tmp_path, capsys, name, text, message):
    if text is not None:
        (tmp_path / name).write_bytes(text)
    assert main(["inspect", str(tmp_path / name)]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_a_wrong_number_of_frames_is_told(tmp_path, capsys):
    path = write_marked(tmp_path / "a.mp4", 5, 5)
    assert main(["inspect", str(path), "--frames", "-1"]) == 2
    assert "frames=-1 must be 0" in capsys.readouterr().err


def test_a_video_cut_anywhere_is_never_valid_and_never_fails(tmp_path):
    data = write_marked(tmp_path / "a.mp4", 5, 5, 128).read_bytes()
    for left in np.linspace(0.02, 0.99, 12):
        (tmp_path / "cut.mp4").write_bytes(data[: int(len(data) * left)])
        try:
            found = inspect_video(tmp_path / "cut.mp4", 3)
        except ValueError as error:
            assert "\n" not in str(error)
        else:
            assert found.credentials.state == "altered" and not found.good


def test_bad_certificates_end_a_run_before_it_begins(tmp_path, portrait, capsys):
    write_wav(tmp_path / "a.wav", speech_like(1.0))
    arguments = ["generate", str(portrait), str(tmp_path / "a.wav"), str(tmp_path / "out.mp4"), "--model", "tiny"]
    assert main([*arguments, "--sign-cert", str(tmp_path / "nowhere.pem"), "--sign-key", str(portrait)]) == 2
    err = capsys.readouterr().err
    assert "certificate" in err and "there is no such file" in err and err.count("\n") == 1 and not (tmp_path / "out.mp4").exists()


def test_notes_of_a_job_say_how_it_is_marked(tmp_path, portrait):
    job = job_of(tmp_path, portrait, "out.mp4", 1.0)
    assert "own certificate" in check_inputs(job).marking.note
    assert "turned off" in check_inputs(replace(job, marks=MarkOptions(credentials=False))).marking.note
