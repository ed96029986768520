"""A run that is killed: what it made can be played, and a later run goes on from there with the same frames and the same sound."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from made import HANG_S, speech_like, write_wav

from livetalk_core.cli.main import main
from livetalk_core.engine.engine import Engine
from livetalk_core.generate import Job, Report, check_inputs, generate
from livetalk_core.media.part import whole_frames
from livetalk_core.media.video import probe_video, read_frames
from livetalk_core.resume import find_leftover, read_resume_file
from livetalk_core.types import Start, StreamSettings

ROOT = Path(__file__).parent.parent


class Killed(BaseException):
    """In place of a signal that nothing catches."""


def sound_of(path: Path) -> np.ndarray:
    with av.open(str(path)) as file:
        return np.concatenate([frame.to_ndarray() for frame in file.decode(audio=0)], axis=1)


def same_films(one: Path, other: Path) -> bool:
    frames = zip(read_frames(one), read_frames(other), strict=True)
    return all(np.array_equal(a, b) for a, b in frames) and np.array_equal(sound_of(one), sound_of(other))


def job_of(folder: Path, portrait: Path, name: str, seconds: float = 7.3, **how) -> Job:
    speech = folder / "speech.wav"
    if not speech.exists():
        write_wav(speech, speech_like(seconds))
    return Job(picture=portrait, audio=(speech,), output=folder / name, size="48x32", **{"settings": StreamSettings(steps=2), **how})


def kill_after(engine: Engine, job: Job, frames: int, monkeypatch) -> None:
    """Run a job and leave its files as they are at that moment, as a power cut would."""
    made = 0

    def count(chunk, total):
        nonlocal made
        made += len(chunk.frames_THWC)
        if made >= frames:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("livetalk_core.generate.keep", lambda writer, *rest, **how: writer._file.close())
        patch.setattr("livetalk_core.resume.ResumeFile.remove", lambda resume_file: None)
        with pytest.raises(Killed):
            generate(engine, check_inputs(job), count)


@pytest.mark.parametrize("whole", [False, True])
def test_a_resumed_film_is_the_uninterrupted_one(engine, tmp_path, portrait, monkeypatch, whole):
    settings = StreamSettings(steps=2, whole_audio=whole, seed=3)
    generate(engine, check_inputs(job_of(tmp_path, portrait, "whole.mp4", settings=settings)))
    kill_after(engine, job_of(tmp_path, portrait, "out.mp4", settings=settings), 100, monkeypatch)
    (part,) = tmp_path.glob(".out.mp4.*.part")
    assert 56 <= whole_frames(part) <= 84 and not (tmp_path / "out.mp4").exists()
    notes, counted = [], []
    report = Report(note=notes.append, resumed=counted.append)
    job = job_of(tmp_path, portrait, "out.mp4", settings=settings, resume=True)
    assert generate(engine, check_inputs(job), report=report) == 183
    assert counted == [56] or counted == [84]
    assert same_films(tmp_path / "out.mp4", tmp_path / "whole.mp4")
    assert list(tmp_path.glob(".*")) == [], "nothing is left beside it"


@pytest.mark.slow
def test_a_film_may_be_killed_again_and_again(engine, tmp_path, portrait, monkeypatch):
    generate(engine, check_inputs(job_of(tmp_path, portrait, "whole.mp4")))
    kill_after(engine, job_of(tmp_path, portrait, "out.mp4"), 60, monkeypatch)
    kill_after(engine, job_of(tmp_path, portrait, "out.mp4", resume=True), 60, monkeypatch)
    kill_after(engine, job_of(tmp_path, portrait, "out.mp4", resume=True), 5, monkeypatch)
    counted = []
    generate(engine, check_inputs(job_of(tmp_path, portrait, "out.mp4", resume=True)), report=Report(resumed=counted.append))
    assert counted[0] >= 56 and same_films(tmp_path / "out.mp4", tmp_path / "whole.mp4")


def test_another_setting_is_told_and_nothing_is_lost(engine, tmp_path, portrait, monkeypatch):
    kill_after(engine, job_of(tmp_path, portrait, "out.mp4"), 70, monkeypatch)
    before = {path: path.read_bytes() for path in tmp_path.glob(".*")}
    other = job_of(tmp_path, portrait, "out.mp4", resume=True, settings=StreamSettings(steps=2, seed=1))
    with pytest.raises(ValueError, match=r"out.mp4: cannot be resumed: seed was 9999 and is 1; use the settings of the earlier run"):
        generate(engine, check_inputs(other))
    write_wav(tmp_path / "speech.wav", speech_like(7.3, seed=8))
    with pytest.raises(ValueError, match=r"cannot be resumed: another sound; "):
        generate(engine, check_inputs(job_of(tmp_path, portrait, "out.mp4", resume=True)))
    assert {path: path.read_bytes() for path in tmp_path.glob(".*")} == before and not (tmp_path / "out.mp4").exists()


def test_a_run_anew_tells_of_what_is_left_and_leaves_it(engine, tmp_path, portrait, monkeypatch):
    kill_after(engine, job_of(tmp_path, portrait, "out.mp4"), 70, monkeypatch)
    notes = []
    generate(engine, check_inputs(job_of(tmp_path, portrait, "out.mp4")), report=Report(note=notes.append))
    assert (
        len(notes) == 1
        and f"an earlier run left {whole_frames(next(tmp_path.glob('.out*.part')))} frames in" in notes[0]
        and "--resume continues from there" in notes[0]
    )
    assert len(list(tmp_path.glob(".out.mp4.*"))) == 2 and probe_video(tmp_path / "out.mp4").frames == 183


def test_there_is_nothing_to_resume_where_nothing_was_left(engine, tmp_path, portrait):
    with pytest.raises(ValueError, match=r"out.mp4: there is nothing to resume"):
        generate(engine, check_inputs(job_of(tmp_path, portrait, "out.mp4", resume=True)))
    assert list(tmp_path.glob(".*")) == []


def test_a_part_whose_run_goes_on_is_no_leftover(engine, tmp_path, portrait):
    notes = []

    def look(chunk, total):
        if not notes:
            with pytest.raises(ValueError, match="nothing to resume"):
                find_leftover(tmp_path / "out.mp4", {}, 28)
            notes.append(1)

    generate(engine, check_inputs(job_of(tmp_path, portrait, "out.mp4")), look)
    assert notes


def test_torn_files_are_read_as_far_as_they_go(engine, tmp_path, portrait, monkeypatch):
    generate(engine, check_inputs(job_of(tmp_path, portrait, "whole.mp4")))
    kill_after(engine, job_of(tmp_path, portrait, "out.mp4"), 120, monkeypatch)
    (part,) = tmp_path.glob(".out.mp4.*.part")
    whole = whole_frames(part)
    part.write_bytes(part.read_bytes()[:-4000])
    assert whole - 28 <= whole_frames(part) < whole
    generate(engine, check_inputs(job_of(tmp_path, portrait, "out.mp4", resume=True)))
    assert same_films(tmp_path / "out.mp4", tmp_path / "whole.mp4")
    kill_after(engine, job_of(tmp_path, portrait, "other.mp4"), 120, monkeypatch)
    (part,) = tmp_path.glob(".other.mp4.*.part")
    resume_file = part.with_name(part.name + ".resume")
    resume_file.write_bytes(resume_file.read_bytes()[:100])
    assert read_resume_file(part) == ({}, {})
    with pytest.raises(ValueError, match="cannot be resumed: an earlier run left a part without its settings"):
        generate(engine, check_inputs(job_of(tmp_path, portrait, "other.mp4", resume=True)))


def test_a_stream_that_starts_later_makes_the_same_chunks(engine):
    reference, sound = engine.reference(torch.zeros(3, 32, 48)), torch.from_numpy(speech_like(4.0))
    latents = []
    stream = engine.open(reference, StreamSettings(steps=2), on_latents=latents.append)
    whole = [*stream.push(sound), *stream.finish()]
    start = Start(index=2, motion_CTHW=latents[2][:, :2].clone())
    later = engine.open(reference, StreamSettings(steps=2), start=start)
    rest = [*later.push(sound), *later.finish()]
    assert [chunk.first_frame for chunk in rest] == [chunk.first_frame for chunk in whole if chunk.index >= 2]
    for a, b in zip(rest, [chunk for chunk in whole if chunk.index >= 2], strict=True):
        assert torch.equal(a.frames_THWC, b.frames_THWC) and torch.equal(a.samples, b.samples)


def start_run(folder: Path, portrait: Path, *options: str) -> subprocess.Popen:
    if not (folder / "long.wav").exists():
        write_wav(folder / "long.wav", speech_like(60.0))
    command = [sys.executable, "-m", "livetalk_core.cli", "generate", portrait, folder / "long.wav", folder / "out.mp4", *options]
    command += ["--model", "tiny", "--size", "48x32"]
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen(list(map(str, command)), cwd=ROOT, start_new_session=True, **pipes)


def wait_for(process: subprocess.Popen, text: str) -> str:
    seen = ""
    while text not in seen and (read := process.stderr.read(1)):
        seen += read
    assert text in seen, seen
    return seen


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_run_that_is_asked_to_end_keeps_a_playable_file(tmp_path, portrait, number):
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip(f"{number.name} is ignored here, as under nohup, and so it is by what is started from here")
    process = start_run(tmp_path, portrait)
    try:
        wait_for(process, " 56/1500")
        process.send_signal(number)
        out, err = process.communicate(timeout=HANG_S)
    finally:
        process.kill()
    assert process.returncode == 130, err
    frames = probe_video(tmp_path / "out.mp4").frames
    assert frames >= 56 and f"out.mp4 has the {frames} frames made so far" in out and "interrupted" in err
    assert list(tmp_path.glob(".*")) == []


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
def test_after_kill_9_what_was_made_plays_and_is_gone_on_from(tmp_path, portrait):
    process = start_run(tmp_path, portrait)
    try:
        wait_for(process, " 140/1500")
    finally:
        process.kill()
        process.wait()
    (part,) = tmp_path.glob(".out.mp4.*.part")
    played = tmp_path / "played.mp4"
    played.write_bytes(part.read_bytes())
    frames = whole_frames(part)
    assert frames >= 84 and sum(1 for _ in read_frames(played)) == frames, "up to three pieces wait for the encoder"
    assert sound_of(played).shape[1] >= 16000 * (frames - 28) / 25
    process = start_run(tmp_path, portrait, "--resume")
    try:
        seen = wait_for(process, f" {frames // 28 * 28 + 28}/1500")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=HANG_S)
    finally:
        process.kill()
    assert "resuming after" in seen and probe_video(tmp_path / "out.mp4").frames >= frames
    assert list(tmp_path.glob(".*")) == []


def test_the_command_line_says_what_it_found(tmp_path, portrait, speech, capsys):
    (tmp_path / ".out.mp4.01234567.part").write_bytes(b"torn")
    options = ["--model", "tiny", "--steps", "1", "--size", "48x32"]
    assert main(["generate", str(portrait), str(speech), str(tmp_path / "out.mp4"), *options]) == 0
    out = capsys.readouterr().out
    assert "an earlier run left 0 frames in" in out and "it can be deleted" in out
    assert main(["generate", str(portrait), str(speech), str(tmp_path / "out.mp4"), *options, "--resume", "--overwrite"]) == 2
    assert "an earlier run left a part without its settings" in capsys.readouterr().err
