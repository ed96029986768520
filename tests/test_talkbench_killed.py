"""A benchmark that is killed while it measures: nothing is measured twice, and its tables are those of an undisturbed run."""

from __future__ import annotations

import json
import multiprocessing
import random
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from bench_films import write_film
from formula import made_frames
from made import HANG_S
from test_talkbench import write_clip

from livetalk_core.evaluate.talkbench.bench import System, measure_all
from livetalk_core.evaluate.talkbench.clips import find_clips
from livetalk_core.evaluate.talkbench.drift import PictureDrift
from livetalk_core.evaluate.talkbench.flicker import TemporalFlickering
from livetalk_core.evaluate.talkbench.outcome import write_outcome

SYSTEMS = ("a", "b")
TABLES = ("table.md", "clips.csv", "results.json", "page.html")


class Asking:
    """Tells a line to the other process, and waits until it may go on."""

    def __init__(self, line: Connection) -> None:
        self.line = line

    def __call__(self, text: str) -> None:
        self.line.send(text)
        self.line.recv()


def write_films(folder: Path, clips: int = 4, frames: int = 60) -> None:
    """Clips, and two systems' videos of them, each of its own."""
    for place, name in enumerate(("clips", *SYSTEMS)):
        (folder / name).mkdir()
        for clip in range(clips):
            write_film(folder / name / f"{clip}.mkv", made_frames(frames, 48, 64, 10 * place + clip))


def measure(folder: Path, out: Path, tell: Callable[[str], None]) -> None:
    """What the command does once it has its arguments, with the measures that need no weights."""
    systems = [System(name=name, videos=folder / name) for name in SYSTEMS]
    results = measure_all(find_clips(folder / "clips"), systems, [TemporalFlickering(), PictureDrift()], out, tell)
    write_outcome(results, out, tell)


def files_of(out: Path) -> dict[Path, tuple[int, bytes]]:
    """Every whole result, and when it was written."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (out / "measured").rglob("*.json")}


def test_a_run_killed_again_and_again_while_it_measures_repeats_nothing_and_ends_with_the_same_tables(tmp_path):
    """In each round one or two results are told; the kill comes at a random moment before the next one is."""
    write_films(tmp_path)
    measure(tmp_path, tmp_path / "undisturbed", len)
    kept, told, draw = {}, [], random.Random(0)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", __name__])
    for killed in (True, True, True, True, True, False):
        ours, theirs = context.Pipe()
        running = context.Process(target=measure, args=(tmp_path, tmp_path / "out", Asking(theirs)))
        running.start()
        theirs.close()
        told += answer(ours, draw.randrange(1, 3) if killed else None)
        if killed:
            running.join(draw.uniform(0, 0.04))
            running.kill()
            told += answer(ours, None)
        running.join(HANG_S)
        assert running.exitcode == (-9 if killed else 0)
        now = files_of(tmp_path / "out")
        assert kept.items() <= now.items(), "what was there before the kill is as it was"
        kept = now
    assert len(kept) == 16 and len(set(told)) == len(told)
    for name in TABLES:
        assert (tmp_path / "out" / name).read_text() == (tmp_path / "undisturbed" / name).read_text(), name


def answer(line: Connection, count: int | None) -> list[str]:
    """The next lines that are told, each answered; all to the end if no number is given."""
    found: list[str] = []
    try:
        while count is None or len(found) < count:
            found.append(line.recv())
            line.send("go on")
    except (EOFError, OSError):
        assert count is None
    return found


@pytest.mark.slow
def test_the_command_itself_is_killed_while_it_measures(tmp_path):
    write_films(tmp_path, clips=3, frames=300)
    systems = [f"{name}={tmp_path / name}" for name in SYSTEMS]
    command = [sys.executable, "-m", "livetalk_core.cli", "talkbench", str(tmp_path / "clips"), "--only-baselines", "--baseline", *systems,
               "--measures", "temporal_flickering", "picture_drift", "--out"]  # fmt: skip
    assert subprocess.run([*command, str(tmp_path / "undisturbed")], capture_output=True, timeout=HANG_S).returncode == 0
    kept, out = {}, str(tmp_path / "out")
    for lines in (1, 4, 8):
        running = subprocess.Popen([*command, out], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        seen = [line for _, line in zip(range(lines), running.stderr, strict=False)]
        running.kill()
        running.communicate(timeout=HANG_S)
        now = files_of(tmp_path / "out")
        assert seen and kept.items() <= now.items()
        kept = now
    done = subprocess.run([*command, out], capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 0 and kept.items() <= files_of(tmp_path / "out").items(), done.stderr
    for name in TABLES:
        assert (tmp_path / "out" / name).read_text() == (tmp_path / "undisturbed" / name).read_text(), name


@pytest.mark.slow
def test_the_command_is_killed_while_it_makes_a_video(tmp_path):
    write_clip(tmp_path / "clips" / "short", "a", 3)
    command = [sys.executable, "-m", "livetalk_core.cli", "talkbench", str(tmp_path / "clips"), "--out", str(tmp_path / "out"),
               "--model", "tiny", "--size", "32x32"]  # fmt: skip
    for pieces in (1, 3):
        running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        seen = sum(1 for _ in zip(range(pieces), running.stderr, strict=False))
        assert seen
        running.kill()
        running.communicate(timeout=HANG_S)
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / "out" / "videos" / "tiny" / "short").glob("*unfinished*"))
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["sets"]["short"]["tiny"]["numbers"]["temporal_f"]["videos"] == 1
