"""Held-out clips: engines with known faults are caught."""

import ctypes.util
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from drawn import toy_clip, toy_frame, toy_readers

from livetalk_core.engine.load import load_engine
from livetalk_core.evaluate import rows
from livetalk_core.evaluate.clips import (
    make_frames,
    measure_clip,
    measure_clips,
    other_clip_correlation,
    rebuild,
    relative_sharpness,
    summarize,
    true_clips,
)
from livetalk_core.evaluate.long import FrameLog, measure_long, memory_mb
from livetalk_core.stream.session import to_uint8
from livetalk_core.talker.viseme import FIELDS, MouthTrack
from livetalk_core.types import StreamSettings

CLIPS = [toy_clip(seed) for seed in (910, 911, 912)]


@pytest.fixture(scope="module")
def reader():
    return toy_readers()[0]


def summary_of(reader, make):
    """Of an engine whose frames of a clip are `make(clip)`, and whose VAE loses nothing."""
    return summarize([measure_clip(reader, clip, clip.frames_THWC, make(clip), 28) for clip in CLIPS])


def verdicts(summary):
    return {row.what for row in rows.clip_rows(summary) if row.passed is False}


@pytest.mark.slow
def test_the_true_frames_pass_every_target(reader):
    summary = summary_of(reader, lambda clip: clip.frames_THWC)
    assert verdicts(summary) == set()
    assert summary["lag"] == 0 and summary["lags_within_one"] == 3
    assert summary["numbers"]["made_opening"]["min"] > 0.95
    assert summary["numbers"]["made_range"]["mean"] == pytest.approx(1)
    assert summary["numbers"]["background_psnr"]["min"] > 100
    assert summary["numbers"]["sharpness"]["mean"] == pytest.approx(1)
    assert summary["numbers"]["motion"]["mean"] == pytest.approx(1)


@pytest.mark.slow
def test_lips_that_are_three_frames_late_are_found_late(reader):
    summary = summary_of(reader, lambda clip: clip.frames_THWC.roll(3, 0))
    assert summary["lag"] == 3
    assert verdicts(summary) >= {"opening, best lag, frames"}


@pytest.mark.slow
def test_a_mouth_that_says_something_else_fails(reader):
    def other(clip):
        return CLIPS[(CLIPS.index(clip) + 1) % 3].frames_THWC

    assert {"opening, r", "background PSNR, dB"} <= verdicts(summary_of(reader, other))


@pytest.mark.slow
def test_a_face_that_stands_still_fails_on_its_lips_alone(reader):
    summary = summary_of(reader, lambda clip: clip.reference_HWC.expand_as(clip.frames_THWC))
    assert verdicts(summary) == {"opening, r", "opening, best lag, frames", "width, r"}
    assert summary["numbers"]["motion"]["mean"] == 0


@pytest.mark.slow
def test_soft_and_noisy_frames_fail_on_sharpness_and_a_changed_background_on_its_psnr(reader):
    def soft(clip):
        x = clip.frames_THWC.float()
        return ((x + x.roll(1, 1) + x.roll(1, 2) + x.roll((1, 1), (1, 2))) / 4).to(torch.uint8)

    def brighter(clip):
        return clip.frames_THWC + 10

    def noisy(clip):
        grain = torch.randn(clip.frames_THWC.shape[1:], generator=torch.Generator().manual_seed(0))
        return (clip.frames_THWC.float() + 12 * grain).clamp(0, 255).to(torch.uint8)

    assert "sharpness, of round trip" in verdicts(summary_of(reader, soft))
    assert "mean |Laplacian|, of round trip" in verdicts(summary_of(reader, noisy))
    shifted = summary_of(reader, brighter)
    assert verdicts(shifted) == {"background PSNR, dB"}
    assert shifted["numbers"]["color_shift"]["mean"] == pytest.approx(10, abs=1)


def test_the_shuffled_control_is_the_mean_of_every_pair_of_different_clips():
    a, b, c = (torch.tensor(x) for x in ([1.0, 2, 3, 5], [2.0, 1, 0, 1], [5.0, 5, 1, 2]))
    read, truth = [a, b, c], [a.flip(0), b * 2, c + 1]
    pairs = [torch.corrcoef(torch.stack([read[i], truth[j]]))[0, 1].item() for i in range(3) for j in range(3) if i != j]
    assert other_clip_correlation(read, truth) == pytest.approx(sum(pairs) / 6, abs=1e-6)


def test_sharpness_next_to_itself_is_one_in_any_mask():
    clip = CLIPS[0]
    assert relative_sharpness(clip.frames_THWC, clip.frames_THWC, clip.mouth_HW) == pytest.approx((1, 1))


@dataclass
class Echo:
    """An engine that shows the sound's loudness as brightness: which frame came of which samples can be seen."""

    device = torch.device("cpu")
    models = SimpleNamespace(vae=None)

    def reference(self, pixels_CHW):
        assert pixels_CHW.shape[0] == 3 and pixels_CHW.abs().max() <= 1
        return pixels_CHW

    def open(self, reference, settings):
        self.parts, self.picture = [], reference
        return SimpleNamespace(push=self.push, finish=self.finish, close=lambda: None)

    def push(self, samples_N):
        self.parts.append(samples_N)
        yield from ()

    def finish(self, num_frames=None):
        loud_T = torch.cat(self.parts).unflatten(0, (-1, 640)).abs().mean(1)
        video = self.picture[:, None].repeat(1, len(loud_T), 1, 1)
        video[:, :, 40:50, 40:50] = loud_T[:, None, None]
        for first in range(0, len(loud_T), 28):
            yield SimpleNamespace(frames_THWC=to_uint8(video[:, first : first + 28]))


def test_the_stream_shows_frame_k_of_samples_640_k_and_keeps_the_picture():
    clip = CLIPS[0]
    frames_THWC = make_frames(Echo(), clip, StreamSettings())
    loud_T = clip.samples_N.unflatten(0, (-1, 640)).abs().mean(1)
    assert torch.equal(frames_THWC[:, 45, 45, 0], ((loud_T + 1) / 2 * 255).to(torch.uint8))
    assert (frames_THWC[:, 0, 0].int() - clip.reference_HWC[0, 0].int()).abs().max() <= 1


def test_a_tiny_engine_is_measured_from_end_to_end(reader):
    engine = load_engine("tiny", device="cpu")
    clips = [toy_clip(seed, frames=29, size=64) for seed in (920, 921)]
    said = []
    results = measure_clips(engine, reader, clips, StreamSettings(steps=1), said.append)
    assert [result.tracks["made"].shape for result in results] == [(3, 29), (3, 29)]
    assert set(next(iter(results[0].moments.values()))) == {"true", "rebuilt", "made"}
    found = rows.reader_rows(summarize(results)) + rows.clip_rows(summarize(results))
    assert "FAIL" in rows.aligned(found)
    assert len(said) == 2


def test_a_rebuilt_clip_is_the_vaes_own_there_and_back():
    engine = load_engine("tiny", device="cpu")
    frames_THWC = toy_clip(922, frames=9, size=64).frames_THWC
    again = rebuild(engine, frames_THWC)
    with torch.no_grad():
        video = frames_THWC.permute(3, 0, 1, 2) / 127.5 - 1
        (whole,) = engine.models.vae.decode(engine.models.vae.encode(video))
    assert (again.int() - to_uint8(whole).int()).abs().max() <= 1


@pytest.fixture
def toy_speech(monkeypatch):
    """Scripts of the toy talker in place of a synthesizer's."""

    def script(seed, seconds, split):
        assert split == "heldout"
        clip = toy_clip(seed, round(25 * seconds), size=16)
        tracks = dict(zip(("opening", "width", "rounding"), clip.truth_KT.numpy(), strict=True))
        truth = MouthTrack(**{f"{name}_T": tracks.get(name, np.zeros(len(clip.truth_KT[0]))) for name in FIELDS})
        return SimpleNamespace(samples_N=clip.samples_N.numpy(), truth=truth)

    fake = SimpleNamespace(write_script=script)
    monkeypatch.setitem(sys.modules, "livetalk_core.talker.clip", fake)


class Fading(Echo):
    """An engine whose mouth follows the sound at first and ever less, while its picture darkens."""

    def __init__(self, clip, fade):
        self.clip, self.fade = clip, fade

    def finish(self, num_frames=None):
        return iter(())

    def push(self, samples_N):
        loud_T = samples_N.unflatten(0, (-1, 640)).abs().mean(1) / 0.08
        for opening in loud_T.split(28):
            weight = self.fade**self.count
            self.count += 1
            frames = [toy_frame(weight * float(o), 0.1, 930) * (0.5 + 0.5 * weight) for o in opening]
            yield SimpleNamespace(frames_THWC=torch.stack([torch.from_numpy(frame).to(torch.uint8) for frame in frames]))

    def open(self, reference, settings):
        self.count = 0
        return super().open(reference, settings)


@pytest.mark.parametrize("fade, good", [(1.0, True), (0.85, False)])
def test_a_long_stream_is_compared_with_its_own_start(reader, toy_speech, monkeypatch, fade, good):
    clip = toy_clip(930)
    monkeypatch.setattr("livetalk_core.evaluate.long.rebuild", lambda engine, frames_THWC: frames_THWC)
    found, pictures = measure_long(Fading(clip, fade), reader, clip, StreamSettings(), seconds=12.5, window_s=4, tell=len)
    assert list(pictures) == [24, 249]
    assert set(map(len, found["series"].values())) == {1}
    assert (abs(found["sharpness_change"]) < 0.05, abs(found["color_change"]) < 0.05) == (good, good)
    assert (rows.long_rows(found)[2].passed, rows.long_rows(found)[4].passed) == (good, good)
    assert found["lips"]["opening"]["first"] > 0.9
    if good:
        assert found["lips_change"] == pytest.approx(0, abs=1e-6)
        assert found["background_psnr"]["last"] > 50


def test_a_long_stream_keeps_a_few_numbers_a_frame_and_the_frames_asked_for(reader):
    clip = toy_clip(931)
    log = FrameLog(reader=reader, reference_HWC=clip.reference_HWC, background_HW=clip.mouth_HW, shown=(3, 30, 99))
    for piece in clip.frames_THWC.split(28):
        log.add(piece)
    assert log.frames == 45
    assert sum(torch.tensor(column).numel() for column in log.columns.values()) == 45 * 9
    assert {type(entry) for column in log.columns.values() for entry in column} == {float, list}, "no tensors, which would split the heap"
    assert {k: torch.equal(picture, clip.frames_THWC[k]) for k, picture in log.pictures.items()} == {3: True, 30: True}
    assert torch.equal(log.column("read").T, reader.read(clip.frames_THWC))
    assert memory_mb() > 50


def test_the_last_stretch_of_speech_is_the_first_and_the_lengths_add_up(toy_speech):
    from livetalk_core.evaluate.long import held_out_speech

    parts = list(held_out_speech(13, 3))
    assert [len(part.samples_N) / 16000 for part in parts] == [3, 3, 3, 1, 3]
    assert torch.equal(parts[0].samples_N, parts[-1].samples_N)
    assert not torch.equal(parts[0].samples_N, parts[1].samples_N)
    with pytest.raises(ValueError, match="at least two windows of 7 s; give 14 or more"):
        list(held_out_speech(13, 7))


@pytest.mark.skipif(ctypes.util.find_library("espeak-ng") is None, reason="espeak-ng is not installed")
def test_held_out_talks_are_whole_latents_of_the_seeds_and_the_shut_ones_differ_at_the_mouth():
    pytest.importorskip("skia", reason="skia-python (the train extra) draws the faces", exc_type=ImportError)
    first, other = true_clips([0, 1], 1.1, 64)
    (again,) = true_clips([0], 1.1, 64)
    assert first.name == again.name != other.name
    assert (
        (first.frames_THWC.float() - again.frames_THWC.float()).abs().mean()
        < 1
        < (first.frames_THWC.float() - other.frames_THWC.float()).abs().mean()
    )
    assert first.frames_THWC.shape == first.shut_THWC.shape == (25, 64, 64, 3)
    assert len(first.samples_N) == 25 * 640 and first.truth_KT.shape == (3, 25)
    changed_HW = (first.frames_THWC.int() - first.shut_THWC.int()).abs().amax((0, 3)) > 60
    top = int(first.mouth_HW.nonzero()[:, 0].min())
    assert changed_HW[first.mouth_HW].any() and not changed_HW[:top].any()
