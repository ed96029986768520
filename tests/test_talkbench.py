"""The benchmark: its clips, results that are kept, tables, and the whole command."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from bench_films import shown, write_film
from formula import made_frames
from made import speech_like, write_wav
from PIL import Image

from livetalk_core.cli.main import main
from livetalk_core.evaluate.talkbench.bench import Result, System, measure_all
from livetalk_core.evaluate.talkbench.clips import BenchClip, find_clips, part_of
from livetalk_core.evaluate.talkbench.flicker import TemporalFlickering
from livetalk_core.evaluate.talkbench.measure import Measured, NotMeasured, WindowMeans
from livetalk_core.evaluate.talkbench.outcome import write_outcome
from livetalk_core.evaluate.talkbench.speed import Speed, Stopwatch
from livetalk_core.evaluate.talkbench.summary import slope, summarize
from livetalk_core.evaluate.talkbench.table import markdown


def write_clip(folder: Path, name: str, seconds: float = 0.5, video: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    x, y = np.meshgrid(np.linspace(0, 1, 48), np.linspace(0, 1, 32))
    Image.fromarray((np.stack([x, y, 1 - x], axis=-1) * 255).astype(np.uint8)).save(folder / f"{name}.png")
    write_wav(folder / f"{name}.wav", speech_like(seconds))
    if video:
        write_film(folder / f"{name}.mkv", made_frames(5, 40, 56))


class Counting:
    """A measure that counts how often it is asked, and may fail."""

    name, version = "counting", "1"

    def __init__(self, fail_at: int = 0, number: str = "sync_c") -> None:
        self.asked, self.fail_at, self.number = 0, fail_at, number

    def measure(self, shown) -> Measured:
        self.asked += 1
        if self.asked == self.fail_at:
            raise KeyboardInterrupt
        return Measured(numbers={self.number: float(self.asked)}, series={self.number: [1.0, 2.0, 3.0]})


def three(folder: Path) -> tuple[list[BenchClip], System]:
    """Three clips, with a system that has a video of each."""
    for name in "abc":
        write_clip(folder / "clips" / "short", name)
        (folder / "films").mkdir(exist_ok=True)
        write_film(folder / "films" / f"{name}.mkv", made_frames(3, 32, 32, ord(name)))
    return find_clips(folder / "clips"), System(name="films", videos=folder / "films")


def test_files_of_one_name_are_a_clip_and_subfolders_are_sets(tmp_path):
    write_clip(tmp_path / "short", "a", video=True)
    write_clip(tmp_path / "long", "b")
    write_film(tmp_path / "long" / "c.mkv", made_frames(2, 32, 32))
    clips = {(clip.set, clip.name): clip for clip in find_clips(tmp_path)}
    assert list(clips) == [("long", "b"), ("long", "c"), ("short", "a")]
    assert clips["long", "c"].picture is None and clips["long", "c"].sound == clips["long", "c"].video
    assert clips["short", "a"].video.name == "a.mkv" and clips["short", "a"].sound.name == "a.wav"


@pytest.mark.parametrize("suffix", ["json", "csv"])
def test_a_manifest_names_the_files(suffix, tmp_path):
    write_clip(tmp_path / "files", "a")
    row = {"picture": "files/a.png", "sound": "files/a.wav", "set": "long", "name": "first"}
    text = json.dumps([row]) if suffix == "json" else ",".join(row) + "\n" + ",".join(row.values())
    (tmp_path / f"manifest.{suffix}").write_text(text)
    (clip,) = find_clips(tmp_path)
    assert (clip.set, clip.name, clip.sound) == ("long", "first", tmp_path / "files" / "a.wav")


def test_parts_share_the_clips():
    clips = [BenchClip(set="s", name=str(k), picture=None, sound=Path("x")) for k in range(7)]
    assert sorted(clip.name for part in ("0/3", "1/3", "2/3") for clip in part_of(clips, part)) == [clip.name for clip in clips]


def test_a_run_that_was_stopped_measures_nothing_twice(tmp_path):
    clips, system = three(tmp_path)
    first, second = Counting(fail_at=3), Counting()
    with pytest.raises(KeyboardInterrupt):
        measure_all(clips, [system], [first], tmp_path / "out", len)
    results = measure_all(clips, [system], [second], tmp_path / "out", len)
    assert (first.asked, second.asked, len(results)) == (3, 1, 3)
    assert measure_all(clips, [system], [third := Counting()], tmp_path / "out", len) == results and third.asked == 0


def test_a_half_written_result_is_measured_again(tmp_path):
    clips, system = three(tmp_path)
    measure_all(clips, [system], [Counting()], tmp_path / "out", len)
    path = tmp_path / "out" / "measured" / "films" / "short" / "b" / "counting.json"
    path.write_text(path.read_text()[:40])
    measure_all(clips, [system], [again := Counting()], tmp_path / "out", len)
    assert again.asked == 1


def test_another_video_or_version_is_measured_again(tmp_path):
    clips, system = three(tmp_path)
    measure_all(clips, [system], [Counting()], tmp_path / "out", len)
    write_film(tmp_path / "films" / "b.mkv", made_frames(4, 32, 32))
    measure_all(clips, [system], [other := Counting()], tmp_path / "out", len)
    newer = Counting()
    newer.version = "2"
    measure_all(clips, [system], [newer], tmp_path / "out", len)
    assert (other.asked, newer.asked) == (1, 3)


def test_a_broken_video_is_told_and_stops_nothing(tmp_path):
    clips, system = three(tmp_path)
    (tmp_path / "films" / "b.mkv").write_bytes(b"no video")
    (tmp_path / "films" / "c.mkv").unlink()
    told: list[str] = []
    results = measure_all(clips, [system], [TemporalFlickering()], tmp_path / "out", told.append)
    assert [bool(result.numbers) for result in results] == [True, False]
    assert "b.mkv" in results[1].not_measured
    assert any("has no video of short/c" in line for line in told)


def test_the_best_is_bold_and_the_second_underlined_and_what_is_missing_is_said(tmp_path):
    clips, system = three(tmp_path)
    systems = [system, System(name="b|c", videos=system.videos), System(name="last", videos=system.videos)]

    class Given:
        name, version = "given", "1"
        values = iter([3.0, 1.0, 2.0] * 3)

        def measure(self, shown):
            value = next(self.values)
            return Measured(numbers={"sync_d": value, "subject_c": value / 10})

    class Missing:
        name, version = "sync", "1"

        def measure(self, shown):
            raise NotMeasured("needs weights")

    text = write_outcome(measure_all(clips, systems, [Given(), Missing()], tmp_path / "out", len), tmp_path / "out")
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in text.splitlines() if line.startswith("| ")}
    assert "| – | 3.00 | – | – | **0.3000** |" in rows["films"]
    assert "**1.00**" in rows["b\\|c"] and "0.1000" in rows["b\\|c"] and "**0.1" not in rows["b\\|c"]
    assert "<u>2.00</u>" in rows["last"] and "<u>0.2000</u>" in rows["last"]
    assert "- last, sync, 3 videos: needs weights" in text
    with (tmp_path / "out" / "clips.csv").open() as file:
        found = list(csv.DictReader(file))
    assert len(found) == 9 and found[0]["sync_d"] == "3.0"
    assert json.loads((tmp_path / "out" / "results.json").read_text())["sets"]["short"]["films"]["numbers"]["sync_d"]["videos"] == 3


def test_a_sets_mean_is_weighted_as_its_measure_says():
    who = {"system": "x", "set": "s", "measure": "m", "video": "v", "fingerprint": ""}
    results = [Result(**who, clip=str(k), numbers={"bg_c": value}, weight=weight) for k, (value, weight) in enumerate(((0.5, 1), (0.9, 3)))]
    found = summarize(results)["sets"]["s"]["x"]["numbers"]["bg_c"]
    assert found == {"mean": pytest.approx(0.8), "videos": 2, "min": 0.5, "max": 0.9}


def test_a_mean_of_some_videos_says_of_how_many():
    row = {"set": "s", "clips": 2, "numbers": {"fps": {"mean": 3.0, "videos": 1}}, "slopes": {}}
    assert "3.00 (1)" in markdown({"sets": {"s": {"x": row}}, "missing": []})


def test_the_slope_is_that_of_the_line_and_one_bad_window_does_not_tilt_it():
    line = [0.5 - 0.01 * k for k in range(50)]
    assert slope(line, 2.0) == pytest.approx(-0.005)
    line[20] = 100
    assert slope(line, 2.0) == pytest.approx(-0.005)
    assert slope([0.001 * k for k in range(4000)], 1.0) == pytest.approx(0.001)


def test_window_means_are_those_of_whole_windows():
    means = WindowMeans(2)
    for value in (1.0, 3.0, 5.0, 7.0, 9.0):
        means.add(value)
    assert means.means == [2.0, 6.0]


def test_speed_counts_from_the_first_piece_to_the_last(tmp_path):
    times = iter([10.0, 12.0, 13.0, 14.0])
    watch = Stopwatch(lambda: next(times))
    for frames in (5, 12, 12):
        watch.saw(frames)
    watch.write(tmp_path / "a.mp4", "cpu")
    assert Speed().measure(shown(tmp_path / "a.mp4")).numbers == {"fps": 12.0, "first_frame_s": 2.0}
    watch.resumed = True
    assert watch.numbers() == {"fps": 12.0, "first_frame_s": None}
    with pytest.raises(NotMeasured, match=r"no b\.speed\.json"):
        Speed().measure(shown(tmp_path / "b.mp4"))


def test_the_command_makes_measures_and_takes_up_where_it_was(tmp_path, capsys):
    write_clip(tmp_path / "clips" / "short", "a", 1.4, video=True)
    write_clip(tmp_path / "clips" / "short", "b", 0.6, video=True)
    (tmp_path / "clips" / "short" / "b.wav").write_bytes(b"no sound")
    arguments = ["talkbench", str(tmp_path / "clips"), "--out", str(tmp_path / "out"), "--model", "tiny", "--size", "32x32",
                 "--baseline", f"true={tmp_path / 'clips'}"]  # fmt: skip
    assert main(arguments) == 1  # b cannot be made
    printed = capsys.readouterr()
    assert "short/b was not made" in printed.err and "| tiny |" in printed.out and "| true |" in printed.out
    assert (tmp_path / "out" / "videos" / "tiny" / "short" / "a.mp4").is_file()
    found = json.loads((tmp_path / "out" / "results.json").read_text())["sets"]["short"]
    assert {"fps", "first_frame_s", "temporal_f", "sharpness"} <= found["tiny"]["numbers"].keys()
    assert "syncnet_v2.model" in (tmp_path / "out" / "table.md").read_text()
    write_wav(tmp_path / "clips" / "short" / "b.wav", speech_like(0.6))
    before = (tmp_path / "out" / "videos" / "tiny" / "short" / "a.mp4").stat().st_mtime_ns
    assert main(arguments) == 0
    assert "tiny: making short/b (1 of 1)" in capsys.readouterr().err
    assert (tmp_path / "out" / "videos" / "tiny" / "short" / "a.mp4").stat().st_mtime_ns == before
    assert main([*arguments, "--seed", "3"]) == 2
    assert "made with seed 9999, and this run asks for 3" in capsys.readouterr().err
