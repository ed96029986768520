"""SyncNet and its pipeline against the public code with the same weights, and behavior on made videos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from bench_films import shown, write_film
from formula import fill, made_frames, uniform
from safetensors.torch import load_file

from livetalk_core.evaluate.talkbench.measure import NotMeasured
from livetalk_core.evaluate.talkbench.measures import Opening, open_measures
from livetalk_core.evaluate.talkbench.mfcc import block_mfcc, mfcc
from livetalk_core.evaluate.talkbench.s3fd import MEAN, S3FD, detect_faces, load_s3fd, suppress
from livetalk_core.evaluate.talkbench.sync import Distances, Sync, distances, windows_of
from livetalk_core.evaluate.talkbench.syncnet import SyncNet, load_syncnet
from livetalk_core.evaluate.talkbench.tracks import crop_face, crop_track, find_tracks, smooth_boxes, usable

CPU = torch.device("cpu")
FACE = np.array([[20.0, 10, 80, 75]])


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(Path(__file__).parent / "golden_talkbench" / "syncnet.safetensors")


def sound(count: int, seed: int = 5) -> np.ndarray:
    """16-bit noise that rises and falls."""
    return (24000 * uniform(count, seed) * np.sin(2 * np.pi * 3 * np.arange(count) / 16000) ** 2).astype(np.int16)


def test_coefficients_are_those_of_python_speech_features(golden):
    np.testing.assert_allclose(mfcc(sound(10001)), golden["mfcc"].numpy(), atol=1e-4, rtol=1e-5)


def test_coefficients_do_not_depend_on_blocks():
    samples = sound(8000)
    np.testing.assert_allclose(mfcc(samples)[20:30], block_mfcc(samples, 20, 10), rtol=1e-6)


@torch.no_grad()
def test_distances_offset_and_confidence_are_the_public_codes(golden):
    model = fill(SyncNet(), 1.4, "syncnet.")
    model.netfclip[3].weight /= 500  # random weights make larger features than trained ones
    model.netfcaud[3].weight /= 40
    frames, heard = made_frames(25, 224, 224, 6), sound(25 * 640)
    windows = torch.from_numpy(np.stack(list(windows_of(iter(frames), 20)))).float()
    coefficients = mfcc(heard)
    heard_TD = model.sound(torch.from_numpy(np.stack([coefficients[4 * t : 4 * t + 20].T for t in range(20)]))[:, None])
    torch.testing.assert_close(heard_TD[:1], golden["aud"], atol=1e-4, rtol=1e-4)
    lips_TD = model.lips(windows)
    torch.testing.assert_close(lips_TD[:1], golden["lips"], atol=1e-4, rtol=1e-4)
    found, around = Distances(), torch.nn.functional.pad(heard_TD, (0, 0, 15, 15))
    found.add(distances(lips_TD[:8], around[:38]))
    found.add(distances(lips_TD[8:], around[8:]))
    numbers = found.numbers()
    assert numbers["sync_c"] == pytest.approx(float(golden["conf"]), abs=1e-4)
    assert numbers["sync_d"] == pytest.approx(float(golden["dists"].mean(0).min()), abs=1e-4)
    assert numbers["sync_offset"] == float(golden["offset"])


def test_tracks_and_crops_are_the_public_codes(golden):
    faces: list[list[np.ndarray]] = [[] for _ in range(150)]
    for row in golden["faces"].numpy():
        faces[int(row[0])].append(row[1:])
    tracks = [track for track in find_tracks([np.array(boxes).reshape(-1, 4) for boxes in faces]) if usable(track)]
    assert len(tracks) == 2
    for number, track in enumerate(tracks):
        assert track.first == int(golden[f"first{number}"])
        np.testing.assert_allclose(track.boxes_T4, golden[f"track{number}"], rtol=1e-12)
        smooth = np.stack(smooth_boxes(track.boxes_T4))
        np.testing.assert_allclose(smooth, golden[f"smooth{number}"], rtol=1e-12)
        picks = (0, 3, 60, len(track.boxes_T4) - 1)
        crops = [crop_face(made_frames(1, 240, 480, 3, track.first + k)[0], *smooth[:, k]) for k in picks]
        picked = np.stack([crop[::9, ::9] for crop in crops])
        assert np.abs(picked.astype(int) - golden[f"crops{number}"].numpy()).max() <= 1


def test_a_track_is_cropped_from_its_own_frames():
    track = find_tracks([np.zeros((0, 4)), *[FACE] * 20, np.zeros((0, 4))])[0]
    asked: list[int] = []

    def frames():
        for k in range(30):
            asked.append(k)
            yield np.full((80, 100, 3), 10 + k, np.uint8)

    crops = list(crop_track(track, frames()))
    assert [int(crop[0, 112, 0]) for crop in crops] == list(range(11, 31))
    assert all(crop[223, 112, 0] == 110 for crop in crops), "below the picture is gray"
    assert asked == list(range(22))


def test_a_control_with_another_smoothing_is_not_the_public_codes(golden):
    boxes_T4 = golden["track0"].numpy()
    assert np.abs((boxes_T4[:, 2] + boxes_T4[:, 0]) / 2 - golden["smooth0"][0].numpy())[20:-20].max() > 0.1


@torch.no_grad()
def test_the_face_detector_is_the_public_one(golden):
    model = fill(S3FD(), 1.0, "s3fd.")
    frame = made_frames(1, 240, 320)[0]
    picture = torch.from_numpy(frame).permute(2, 0, 1)[None].float()
    small = torch.nn.functional.interpolate(picture, size=(120, 160), mode="bilinear").add(0.5).floor()
    boxes, scores = model(small - torch.tensor(MEAN)[:, None, None])
    torch.testing.assert_close(boxes, golden["s3fd_boxes"], atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(scores, golden["s3fd_scores"], atol=1e-4, rtol=0)
    found = detect_faces(model, frame, CPU, scale=0.5, least=float(golden["s3fd_threshold"]))
    np.testing.assert_allclose(found, golden["s3fd_faces"][:, :4], atol=0.1)


def test_pictures_that_are_too_small_for_the_detector_are_searched_larger():
    blank = load_s3fd({name: torch.zeros_like(value) for name, value in S3FD().state_dict().items()})
    assert detect_faces(blank, np.zeros((33, 90, 3), np.uint8), CPU).shape == (0, 4)


def test_overlapping_boxes_leave_the_best():
    boxes = np.array([[0.0, 0, 10, 10], [1, 1, 11, 11], [30, 30, 40, 40]])
    assert suppress(boxes, 0.3).tolist() == [boxes[0].tolist(), boxes[2].tolist()]
    assert suppress(np.zeros((0, 4)), 0.3).shape == (0, 4)


def loudness_toy() -> dict:
    """A SyncNet that can tell: the mouth's brightness over 5 frames against the log energy of the same 5 frames' sound."""

    def lips(frames_B35HW: torch.Tensor) -> torch.Tensor:
        return frames_B35HW[:, :, :, 80:140, 80:140].mean((1, 3, 4)) / 10

    def heard(mfcc_B1CF: torch.Tensor) -> torch.Tensor:
        return mfcc_B1CF[:, 0, 0].unflatten(1, (5, 4)).mean(2)

    return {"detect": lambda frame: FACE, "lips": lips, "sound": heard, "device": CPU, "version": "toy", "least_side": 50.0}


def talking(delay: int = 0, count: int = 125) -> tuple[np.ndarray, np.ndarray]:
    """A face whose brightness follows the sound's log energy; the sound comes `delay` frames late.

    388 is the energy of such noise of variance 1 in a window of 400 samples, after the emphasis.
    """
    level = uniform(count, 3) * 6 + 16
    late = np.repeat(np.roll(level, delay), 640)
    samples = uniform(count * 640, 9) * 12**0.5 * np.sqrt(np.exp(late) / 388)
    frames = np.broadcast_to((10 * level)[:, None, None, None], (count, 96, 100, 3))
    return frames.round().clip(0, 255).astype(np.uint8), samples.round().clip(-32768, 32767).astype(np.int16)


def test_sound_that_comes_a_fifth_of_a_second_late_moves_the_offset_by_5_frames_and_keeps_the_confidence(tmp_path):
    measure = Sync(**loudness_toy())
    found = [measure.measure(shown(write_film(tmp_path / f"{delay}.mkv", *talking(delay)))).numbers for delay in (0, 5)]
    assert found[0]["sync_offset"] - found[1]["sync_offset"] == 5
    assert abs(found[0]["sync_offset"]) <= 1 and found[0]["sync_c"] > 1


def test_the_sound_of_another_sentence_lowers_sync_c_and_raises_sync_d(tmp_path):
    frames, own = talking()
    other = talking(57)[1]
    measure = Sync(**loudness_toy())
    right, wrong = (measure.measure(shown(write_film(tmp_path / f"{k}.mkv", frames, s))).numbers for k, s in enumerate((own, other)))
    assert wrong["sync_c"] < right["sync_c"] and wrong["sync_d"] > right["sync_d"]


def test_batches_and_the_series_do_not_change_the_numbers():
    lips, heard = torch.randn(130, 4), torch.randn(160, 4)
    whole, parts = Distances(), Distances()
    whole.add(distances(lips, heard))
    for first in range(0, 130, 20):
        parts.add(distances(lips[first : first + 20], heard[first : first + 50]))
    assert parts.numbers() == pytest.approx(whole.numbers())
    assert len(whole.series) == len(parts.series) == 1


def test_a_video_without_sound_takes_the_clips(tmp_path):
    frames, samples = talking()
    silent, heard = write_film(tmp_path / "a.mkv", frames), write_film(tmp_path / "b.mkv", frames, samples)
    assert Sync(**loudness_toy()).measure(shown(silent, sound=heard)).numbers["sync_c"] > 1


@pytest.mark.parametrize("what, reason", [
    ("silence", "silent"), ("no face", "no face"), ("short", "more than 100 are needed"), ("small", "the face is 45 pixels"),
])  # fmt: skip
def test_what_cannot_be_measured_is_said(what, reason, tmp_path):
    frames, samples = talking(count=110 if what != "short" else 1)
    toy = loudness_toy()
    if what == "silence":
        samples = np.zeros_like(samples)
    if what == "no face":
        toy["detect"] = lambda frame: np.zeros((0, 4))
    if what == "small":
        toy["detect"] = lambda frame: np.array([[10.0, 10, 50, 55]])
    with pytest.raises(NotMeasured, match=reason):
        Sync(**toy).measure(shown(write_film(tmp_path / "film.mkv", frames, samples)))


def test_of_two_faces_the_one_seen_longest_is_measured_and_that_is_noted(tmp_path):
    frames, samples = talking()
    toy, seen = loudness_toy(), []

    def detect(frame: np.ndarray) -> np.ndarray:
        seen.append(1)
        other = np.array([[85.0, 10, 99, 90]])
        return np.concatenate([other, FACE]) if 5 <= len(seen) <= 115 else FACE

    found = Sync(**toy | {"detect": detect}).measure(shown(write_film(tmp_path / "film.mkv", frames, samples)))
    assert found.notes == ("2 faces are seen long enough; the one that is seen longest was measured",)
    assert abs(found.numbers["sync_offset"]) <= 1


@pytest.mark.slow
def test_published_files_are_found_and_used(tmp_path):
    """SyncNet's file is of an old form, without batch norm's counters. Blank networks see no face."""
    blank = {name: torch.zeros_like(value) for name, value in SyncNet().state_dict().items() if "num_batches" not in name}
    torch.save(blank, tmp_path / "syncnet_v2.model", _use_new_zipfile_serialization=False)
    torch.save({name: torch.zeros_like(value) for name, value in S3FD().state_dict().items()}, tmp_path / "sfd_face.pth")
    (measure,) = open_measures(["sync"], Opening(folder=tmp_path, device=CPU, least_side=50))
    with pytest.raises(NotMeasured, match="no face was found"):
        measure.measure(shown(write_film(tmp_path / "film.mkv", *talking(count=10))))
    assert measure.lips(torch.zeros(1, 3, 5, 224, 224)).shape == measure.sound(torch.zeros(1, 1, 13, 20)).shape == (1, 1024)
    assert "syncnet_v2.model" in measure.version and "50 pixels" in measure.version


@pytest.mark.parametrize("load, name", [(load_syncnet, "syncnet_v2.model"), (load_s3fd, "sfd_face.pth")])
def test_other_weights_are_refused_in_one_line(load, name):
    with pytest.raises(ValueError, match=name) as error:
        load({"a": torch.zeros(1)})
    assert "\n" not in str(error.value)
