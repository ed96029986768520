"""What is read from videos of talking photographs, with meshes whose mouth and lids are known."""

import runpy
import wave
from pathlib import Path

import numpy as np
import pytest
from bench_films import write_film

from livetalk_core.evaluate import photographs
from livetalk_core.evaluate.mesh import MINUTE, best_lag, detail, eye_opening, measures, read_video, shape_change
from livetalk_core.talker.identity import Mouth
from livetalk_core.talker.photo.expression import Expressions, Look
from livetalk_core.talker.photo.fit import fit_path
from livetalk_core.talker.photo.fitted import read_portrait
from livetalk_core.talker.photo.mesh import LOWER_LIDS, POINTS, UPPER_LIDS, HeadFrame

HEAD = Path(__file__).parent / "golden" / "face" / "head.jpg"
FRAMES = 150
OPENING = (0.5 + 0.5 * np.sin(np.arange(FRAMES) / 3)).astype(np.float32)


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    """[T, 478, 3]: a face that speaks and blinks twice."""
    fitted = read_portrait(HEAD, fit_path(HEAD)).points_N3
    frame = HeadFrame.of(fitted)
    face = Expressions.of(frame.into(fitted))
    points_TN3 = np.stack([frame.out_of(face.at(Mouth(opening=float(o)), Look())) for o in OPENING])
    for upper, lower in zip(UPPER_LIDS, LOWER_LIDS, strict=True):
        for k in (40, 41, 42, 100, 101):
            points_TN3[k, list(upper)] = points_TN3[k, list(lower)]
    return points_TN3


def read_of(points: np.ndarray) -> dict[str, np.ndarray]:
    return {"points": points, "background": np.array(2.0)}


def test_a_true_mouth_is_read_as_such_and_a_shuffled_one_is_not(points):
    truth = {"opening_T": OPENING, "closure_T": (OPENING < 0.05).astype(np.float32)}
    row = measures(read_of(points), truth, [np.random.default_rng(0).random(FRAMES)])
    assert row["face"] == 1 and row["r"] > 0.99 and row["lag"] == 0 and abs(row["r_shuffled"]) < 0.3
    assert row["closed"] == 1 and row["deviation"] > 0.015
    assert row["blinks_a_minute"] == pytest.approx(2 * 1500 / FRAMES)
    assert row["background_db"] == pytest.approx(10 * np.log10(255**2 / 2), abs=0.1)


def test_speech_and_blinks_are_no_change_of_the_face_but_another_face_is(points):
    assert shape_change(points) < 0.025
    wide = points * [1.3, 1, 1]
    assert shape_change(np.stack([points[0], *[wide[0]] * 5])) > 0.02


def test_a_late_mouth_has_its_lag(points):
    r, lag = best_lag(np.roll(OPENING, 2), OPENING, np.ones(FRAMES, bool))
    assert lag == 2 and r > 0.95


def test_frames_without_a_face_are_left_out(points):
    torn = points.copy()
    torn[::10] = np.nan
    row = measures(read_of(torn), {"opening_T": OPENING, "closure_T": np.zeros(FRAMES, np.float32)}, [])
    assert row["face"] == pytest.approx(0.9) and row["r"] > 0.99 and np.isnan(row["closed"])


def test_shut_eyes_are_shut(points):
    eyes = eye_opening(points)
    assert eyes[41] < 0.3 * np.median(eyes)


def test_a_long_video_is_compared_between_its_first_minute_and_its_last(points):
    times = 2 * MINUTE // FRAMES
    opening = np.tile(OPENING, times)
    read = {name: np.tile(value, (times, 1, 1)) if name == "points" else value for name, value in read_of(points).items()}
    read["points"][-MINUTE::2] = read["points"][0]  # half of the last minute stands still
    read["sharpness"] = np.repeat([100.0, 110.0], MINUTE)
    read["color"] = np.repeat([[100.0, 100, 100], [99, 100, 95]], MINUTE, axis=0)
    row = measures(read, {"opening_T": opening, "closure_T": np.zeros(len(opening), np.float32)}, [])
    assert row["r_first_minute"] > 0.99 and row["r_last_minute"] < 0.8
    assert row["sharpness_change"] == pytest.approx(0.1) and row["color_change"] == pytest.approx(-0.05)
    assert "r_last_minute" not in measures(read_of(points), {"opening_T": OPENING, "closure_T": np.zeros(FRAMES, np.float32)}, [])


def test_the_background_is_read_where_the_person_is_not_and_has_not_been(tmp_path):
    """A white person of 64 x 64 pixels walks over a black wall; from the second frame on a stripe of the wall is 16 brighter."""
    frames = np.zeros((5, 128, 128, 3), np.uint8)
    frames[1:, :8] += 16
    for k, frame in enumerate(frames):
        frame[32:96, 8 * k : 8 * k + 64] = 255

    def find(pixels_HWC):
        return np.zeros((POINTS, 3), np.float32), np.where(pixels_HWC[..., 0] == 255, 255, 0).astype(np.uint8)

    read = read_video(write_film(tmp_path / "walk.mkv", frames), find)
    free = [128 * 128 - 64 * (64 + 8 * k) for k in range(5)]
    assert read["background"] == pytest.approx(4 * 8 * 128 * 16**2 / sum(free), rel=0.01)
    hidden = read_video(tmp_path / "walk.mkv", lambda pixels: (np.zeros((0, 3)), np.full(pixels.shape[:2], 255, np.uint8)))
    assert np.isnan(hidden["background"])


def test_detail_is_the_variance_of_the_laplacian():
    ramp = np.broadcast_to(np.arange(16.0)[:, None, None], (16, 16, 3))
    spot = np.zeros((16, 16, 3))
    spot[5, 5] = 10
    assert detail(ramp) == 0 and detail(spot) == pytest.approx((40**2 + 4 * 10**2) / 14**2, rel=0.05)


def test_speech_longer_than_the_sentences_repeats_them_with_their_mouth(tmp_path):
    path = photographs.store_speech(tmp_path, "en", "en-us+Annie", 120)
    with wave.open(str(path)) as file:
        samples_N = np.frombuffer(file.readframes(file.getnframes()), np.int16)
    with np.load(path.with_suffix(".npz")) as truth:
        opening = truth["opening_T"]
        assert {len(row) for row in truth.values()} == {120 * 25}
    assert len(samples_N) == 120 * 16000
    (again,) = [k for k in range(500, 1500) if np.array_equal(opening[k:], opening[:-k])]
    assert np.array_equal(samples_N[again * 640 :], samples_N[: -again * 640])


def test_a_language_without_a_voice_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no voice speaks fr; choose from en, de, zh"):
        photographs.main("nano", tmp_path, tmp_path / "out", languages="en,fr")
    monkeypatch.setattr("sys.argv", ["photographs", "nano", str(tmp_path), str(tmp_path / "out"), "3", "128", "en,fr"])
    with pytest.raises(ValueError, match="no voice speaks fr"):
        runpy.run_path(photographs.__file__, run_name="__main__")
