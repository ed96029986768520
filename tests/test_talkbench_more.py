"""Quality, identity, lips, drift; plots and page; what is needed; the sets."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from bench_films import shown, write_film
from formula import made_frames, uniform
from made import HANG_S, speech_like

from livetalk_core.cli.main import main
from livetalk_core.evaluate.measures import sharpness
from livetalk_core.evaluate.talkbench.bench import Result
from livetalk_core.evaluate.talkbench.drift import PictureDrift
from livetalk_core.evaluate.talkbench.identity import Identity
from livetalk_core.evaluate.talkbench.landmarks import LipDistance, Mouth, lip_distance
from livetalk_core.evaluate.talkbench.measure import NotMeasured
from livetalk_core.evaluate.talkbench.measures import OPENERS, Opening, Unavailable, open_measures
from livetalk_core.evaluate.talkbench.outcome import write_outcome
from livetalk_core.evaluate.talkbench.quality import Quality
from livetalk_core.evaluate.talkbench.sets import Entry, speaker_groups

CPU = torch.device("cpu")
ROOT = Path(__file__).parent.parent


def blurred(frames_THWC: np.ndarray) -> np.ndarray:
    pictures = torch.from_numpy(frames_THWC).permute(0, 3, 1, 2).float()
    return torch.nn.functional.avg_pool2d(pictures, 5, 1, 2, count_include_pad=False).permute(0, 2, 3, 1).round().to(torch.uint8).numpy()


def test_blur_lowers_the_quality_of_a_judge_who_sees_it_and_each_task_goes_to_its_column(tmp_path):
    """The judge is a stand-in for OneAlign."""
    asked: list[str] = []

    def judge(picture_13HW: torch.Tensor, task: str) -> float:
        asked.append(task)
        sharp = float(sharpness((picture_13HW * 255).permute(0, 2, 3, 1)).magnitude_T)
        return sharp if task == "quality" else 1.0

    film = (200 * uniform(30 * 40 * 56 * 3, 1) + 128).astype(np.uint8).reshape(30, 40, 56, 3)
    found = [
        Quality(judge, CPU, "toy").measure(shown(write_film(tmp_path / f"{k}.mkv", f))).numbers for k, f in enumerate((film, blurred(film)))
    ]
    assert found[1]["iqa"] < 0.8 * found[0]["iqa"] and found[0]["ase"] == found[1]["ase"] == 1.0
    assert asked == ["aesthetic", "quality"] * 4  # one frame a second: the first of 1.2 s and the one at 1 s, of two films


def test_another_face_lowers_the_identity_and_lost_faces_are_noted(tmp_path):
    def embed(picture_HWC: np.ndarray) -> np.ndarray | None:
        mean_C = picture_HWC.reshape(-1, 3).mean(0)
        return None if mean_C.max() < 5 else mean_C - 100

    own = np.full((75, 40, 56, 3), (200, 90, 90), np.uint8)
    swapped, lost = own.copy(), own.copy()
    swapped[25:] = (90, 200, 90)
    lost[50:] = 0
    films = [write_film(tmp_path / f"{name}.mkv", film) for name, film in (("own", own), ("swapped", swapped), ("lost", lost))]
    found = [Identity(embed, "toy").measure(shown(film)) for film in films]
    assert found[0].numbers["identity"] == pytest.approx(1, abs=1e-6)
    assert found[1].numbers["identity"] < 0.6 and found[2].notes == ("no face in 1 of 3 frames, one a second",)
    assert found[2].numbers["identity"] == pytest.approx(2 / 3, abs=1e-6)
    with pytest.raises(NotMeasured, match="no face was found in the reference picture"):
        Identity(lambda picture: None, "toy").measure(shown(films[0]))


def mouth(opening: float, size: float = 1.0, at: float = 0.0) -> Mouth:
    lips = np.array([[0.0, -opening], [10, 0], [0, opening], [-10, 0]])
    return Mouth(lips_L2=size * lips + at, eyes=40 * size)


def test_the_lip_distance_knows_no_place_and_no_size():
    assert lip_distance(mouth(3), mouth(3, size=2, at=50)) == pytest.approx(0, abs=1e-12)
    assert lip_distance(mouth(3), mouth(5)) == pytest.approx(2 * 2 / 4 / 40)


def test_lips_are_compared_frame_by_frame_where_both_have_a_face(tmp_path):
    levels = np.linspace(20, 200, 30).astype(np.uint8)
    true = np.broadcast_to(levels[:, None, None, None], (30, 32, 32, 3))
    late = np.concatenate([true[:3], true[:-3]])

    def read(frame_HWC: np.ndarray) -> Mouth | None:
        return mouth(float(frame_HWC.mean()) / 20) if frame_HWC.mean() > 30 else None

    films = [write_film(tmp_path / f"{k}.mkv", film) for k, film in enumerate((true, late))]
    measure = LipDistance(lambda: read, "toy")
    same, other = (measure.measure(shown(film, true=films[0])) for film in films)
    assert same.numbers["lip_distance"] == 0 < other.numbers["lip_distance"]
    assert "no face in one of the two videos" in other.notes[0]


def test_drift_of_color_and_sharpness_is_seen(tmp_path):
    film = np.repeat(made_frames(1, 40, 56), 100, axis=0).astype(float)
    film += np.linspace(0, 40, 100)[:, None, None, None]
    found = PictureDrift().measure(shown(write_film(tmp_path / "a.mkv", film.clip(0, 255).astype(np.uint8))))
    assert len(found.series["color_shift"]) == 4 and found.series["color_shift"][0] == 0 < found.series["color_shift"][-1]


def test_what_is_missing_is_said_with_its_source_and_nothing_is_downloaded(tmp_path):
    measures = {measure.name: measure for measure in open_measures([], Opening(folder=tmp_path, device=CPU))}
    assert list(measures) == list(OPENERS)
    assert isinstance(measures["sync"], Unavailable) and "syncnet_v2.model" in measures["sync"].reason
    assert "https://" in measures["subject_consistency"].reason and not isinstance(measures["temporal_flickering"], Unavailable)


def test_doctor_lists_what_the_measures_need(tmp_path, capsys):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "amt-s.pth").write_bytes(b"x")
    assert main(["doctor", "--talkbench", "--metrics-folder", str(tmp_path), "--json"]) == 0
    found = {row["what"]: row for row in json.loads(capsys.readouterr().out)}
    assert found["amt-s.pth"]["good"] and not found["syncnet_v2.model"]["good"]
    assert "about 55 MB" in found["syncnet_v2.model"]["found"] and "https://" in found["syncnet_v2.model"]["way_out"]
    assert "license: Apache-2.0" in found["dino_vitbase16_pretrain.pth"]["found"] and "Temporal-F" in found["no weights"]["found"]


def a_result(system: str, clip: str, video: Path, offset: float) -> Result:
    return Result(
        system=system, set="long", clip=clip, measure="sync", video=str(video), fingerprint="",
        numbers={"sync_c": 2.0 + offset, "sync_offset": offset}, series={"sync_c": [7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]}, window_s=5.0,
    )  # fmt: skip


def test_the_page_shows_every_video_and_the_plots(tmp_path):
    pytest.importorskip("matplotlib")
    videos = tmp_path / "videos & more"
    videos.mkdir()
    results = [a_result(system, clip, videos / f"{system}.mp4", k) for clip in ("a", "<b>") for k, system in enumerate(("x", "y"))]
    text = write_outcome(results, tmp_path / "out")
    page = (tmp_path / "out" / "page.html").read_text()
    assert page.count("<video") == 4 and "&lt;b&gt;" in page and "<b>:" not in page and "../videos%20%26%20more/x.mp4" in page
    for picture in ("drift-long.png", "offsets.png"):
        assert (tmp_path / "out" / picture).stat().st_size > 5000 and picture in page
    assert "-12" in re.search(r"\| x \| (.*) \|", text.split("Drift")[1])[1]


def entry(key: str, *labels: str) -> Entry:
    return Entry(key=key, row=key, labels=frozenset(labels), seconds=5)


def test_entries_that_share_a_person_or_a_video_also_by_way_of_others_are_one_group():
    groups = speaker_groups([entry("1", "person a", "video x"), entry("2", "person b", "video y"), entry("3", "person b", "video x"),
                             entry("4", "person c", "video z")])  # fmt: skip
    assert sorted(sorted(each.key for each in group) for group in groups) == [["1", "2", "3"], ["4"]]


def talkvid(folder: Path, people: int, clips: int, seconds: float = 6.0) -> Path:
    """A list in TalkVid's form, with one small video that every clip of a person is a copy of."""
    rows = []
    sound_N = (speech_like(seconds) * 32767).astype(np.int16)
    film = write_film(folder / "film.mkv", made_frames(round(25 * seconds), 32, 32), sound_N)
    for person in range(people):
        for clip in range(clips):
            key = f"v{person}-{clip}"
            (folder / f"{key}.mkv").hardlink_to(film)
            info = {"Person ID": person, "Video Link": f"https://www.youtube.com/watch?v=video{person:04d}"}
            rows.append({"id": key, "start-time": 0, "end-time": seconds, "info": info})
    film.unlink()
    (folder / "list.json").write_text(json.dumps(rows))
    return folder / "list.json"


def test_no_speaker_is_in_both_sets_or_in_the_training_list(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("livetalk_core.evaluate.talkbench.sets.LONG_S", 11.0)
    source = talkvid(tmp_path, people=5, clips=2)
    out = tmp_path / "out"
    assert main(["talkbench-sets", str(source), str(out), "--short", "2", "--long", "1"]) == 0
    assert "2 short and 1 long clips; 4 rows" in capsys.readouterr().out
    test = {kind: {path.stem.split("-")[0] for path in (out / "test" / kind).glob("*.wav")} for kind in ("short", "long")}
    train = {row["id"].split("-")[0] for row in json.loads((out / "train.json").read_text())}
    assert len(test["short"] | test["long"] | train) == 5 == len(test["short"]) + len(test["long"]) + len(train)
    files = sorted(path.suffix for path in (out / "test" / "short").iterdir())
    assert files == [".mp4", ".mp4", ".png", ".png", ".wav", ".wav"]
    assert main(["talkbench-sets", str(source), str(tmp_path / "more"), "--short", "9", "--long", "0"]) == 2
    assert "only 5 of 9 short clips" in capsys.readouterr().err


def test_speakervid_is_grouped_by_its_source_video(tmp_path):
    from livetalk_core.evaluate.talkbench.sets import read_entries

    rows = [{"filename": f"c{k}", "video_name": f"id{k // 2}_1280x720_full_video", "duration": 5} for k in range(4)]
    (tmp_path / "list.json").write_text(json.dumps([*rows, "unknown"]))
    groups = speaker_groups(list(read_entries(tmp_path / "list.json")))
    assert sorted(len(group) for group in groups) == [2, 2]


MEASURES = """
import json, os, resource, sys
from contextlib import nullcontext
from pathlib import Path
import numpy as np, torch
from livetalk_core.evaluate.talkbench.clips import BenchClip
from livetalk_core.evaluate.talkbench.consistency import Consistency
from livetalk_core.evaluate.talkbench.drift import PictureDrift
from livetalk_core.evaluate.talkbench.flicker import TemporalFlickering
from livetalk_core.evaluate.talkbench.measure import Shown
from livetalk_core.evaluate.talkbench.motion import Motion, Pose
from livetalk_core.evaluate.talkbench.smoothness import MotionSmoothness
torch.set_num_threads(1)
cpu, face = torch.device("cpu"), Pose(head_K2=np.zeros((7, 2)), eyes=9.0)
measures = [TemporalFlickering(), PictureDrift(), Consistency("consistency", "x", lambda p: p.mean((2, 3)), cpu, ""),
            MotionSmoothness(lambda a, b: (a + b) / 2, cpu, ""), Motion(lambda: nullcontext(lambda frame: face), "")]
for measure in measures:
    for film in map(Path, sys.argv[1:]):
        if os.fork() == 0:  # each has its own peak
            measure.measure(Shown(video=film, clip=BenchClip(set="long", name="a", picture=None, sound=film)))
            print(measure.name, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)
            os._exit(0)
        assert os.wait()[1] == 0
"""


@pytest.mark.slow
def test_no_measures_memory_grows_with_a_videos_length(tmp_path):
    films = [
        write_film(tmp_path / f"{count}.mkv", np.broadcast_to(made_frames(1, 160, 240), (count, 160, 240, 3))) for count in (140, 1200)
    ]
    done = subprocess.run([sys.executable, "-c", MEASURES, *map(str, films)], capture_output=True, text=True, timeout=HANG_S, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    peaks = {name: [int(kb) for other, kb in rows if other == name] for name, _ in rows}
    print(peaks)
    assert len(peaks) == 5
    for name, (short, long) in peaks.items():
        assert long - short < 1060 * 160 * 240 * 3 / 1024 / 2, name
