"""The main job from files to file: counts, durations, sound in step, interruption, what is kept."""

import re
import signal
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from made import HANG_S, speech_like, write_wav
from PIL import Image

from livetalk_core.cli.main import main
from livetalk_core.cli.options import ASSETS
from livetalk_core.engine.engine import Engine
from livetalk_core.generate import Job, check_inputs, generate
from livetalk_core.media.audio import probe_audio
from livetalk_core.media.background import BackgroundWriter
from livetalk_core.media.video import VideoWriter, probe_video, read_frames
from livetalk_core.presets import tiny
from livetalk_core.stream.window import LiveWindows
from livetalk_core.types import Chunk, StreamSettings


def run(*arguments) -> int:
    return main(["generate", *map(str, arguments), "--model", "tiny", "--steps", "1", "--size", "48x32"])


@pytest.mark.parametrize("seconds, rate", [(0.0029, 16000), (0.1, 44100), (0.5, 16000), (1.12, 16000), (2.5, 22050), (3.37, 48000)])
def test_n_seconds_of_speech_give_25_n_frames_and_all_the_sound(tmp_path, portrait, seconds, rate):
    sound = write_wav(tmp_path / "speech.wav", speech_like(seconds, rate), rate)
    assert run(portrait, sound, tmp_path / "out.mp4") == 0
    video, exact = probe_video(tmp_path / "out.mp4"), Fraction(round(seconds * rate), rate)
    assert video.frames == max(1, int(25 * exact + Fraction(1, 2)))
    assert (video.width, video.height, video.fps) == (48, 32, 25)
    assert abs(video.duration - Fraction(video.frames, 25)) < Fraction(1, 1000)
    assert video.audio_rate == rate and abs(video.audio_duration - exact) < Fraction(1200, rate), "to one AAC frame"
    assert video.start == 0 and abs(video.audio_start) < Fraction(1, 100)


class Loud:
    """An engine that shows each frame's loudness as its grey: made of the real windows, so their step with the sound is what is tested."""

    preset, turn, device = tiny(), None, torch.device("cpu")

    def __init__(self, real: Engine):
        self.plan = real.plan

    def reference(self, pixels_CHW, prompt, masks):
        return self.plan(pixels_CHW.shape[2], pixels_CHW.shape[1])

    def open(self, plan, settings, people, **how):
        level = lambda samples_N: samples_N.reshape(-1, 640).square().mean(1).sqrt()[:, None, None]  # noqa: E731
        self.plan_now, self.windows = plan, LiveWindows(plan, level, people)
        return self

    def close(self):
        """Nothing is held."""

    def push(self, samples_PN):
        yield from map(self.draw, self.windows.push(samples_PN))

    def finish(self, num_frames):
        yield from map(self.draw, self.windows.finish(num_frames))

    def draw(self, window):
        grey = (window.features_PTWSD[0, 5:, 2, 0, 0][: window.num_valid] * 1000).clamp(0, 255).to(torch.uint8)
        frames = grey[:, None, None, None].expand(-1, self.plan_now.height, self.plan_now.width, 3)
        return Chunk(index=window.index, first_frame=28 * window.index, frames_THWC=frames, samples=window.samples)


@pytest.mark.parametrize("rate", [16000, 44100])
def test_picture_and_sound_of_the_file_are_in_step_from_the_first_frame_to_the_last(engine, tmp_path, portrait, rate):
    """Bursts of one frame, a second apart and one in the last frame: each lights exactly its own frame."""
    samples = np.zeros(round(4.2 * rate), np.float32)
    lit = [0, 25, 50, 75, 104]
    for frame in lit:
        samples[round((frame + 0.2) * rate / 25) : round((frame + 0.8) * rate / 25)] = 0.25
    job = Job(picture=portrait, audio=(write_wav(tmp_path / "a.wav", samples, rate),), output=tmp_path / "out.mp4", size="48x32")
    assert generate(Loud(engine), check_inputs(job)) == 105
    brightness = [frame.mean() for frame in read_frames(tmp_path / "out.mp4")]
    assert [i for i, value in enumerate(brightness) if value > 60] == lit
    with av.open(str(tmp_path / "out.mp4")) as file:
        sound = np.concatenate([f.to_ndarray()[0] for f in file.decode(audio=0)])
    loudness = [np.abs(sound[round(i * rate / 25) : round((i + 1) * rate / 25)]).max() for i in range(105)]
    assert [i for i, value in enumerate(loudness) if value > 0.15] == lit


@pytest.mark.slow
def test_the_shipped_portrait_and_voice_become_a_video_of_the_voices_length(tmp_path, monkeypatch, capsys):
    """The first command of the README, as it stands."""
    monkeypatch.chdir(tmp_path)
    assert main(["generate"]) == 0
    video, sound = probe_video(tmp_path / "talking.mp4"), probe_audio(ASSETS / "speech.flac")
    assert video.frames == round(25 * sound.duration) and (video.width, video.height) == (256, 256)
    assert abs(video.audio_duration - sound.duration) < Fraction(1200, sound.sample_rate)
    assert "RANDOM" not in capsys.readouterr().out


def test_the_small_model_is_taken_when_none_is_named(tmp_path, portrait, capsys):
    sound = write_wav(tmp_path / "speech.wav", speech_like(1.0))
    assert main(["generate", str(portrait), str(sound), str(tmp_path / "out.mp4")]) == 0
    video = probe_video(tmp_path / "out.mp4")
    assert (video.frames, video.width, video.height) == (25, 320, 192) and "RANDOM" not in capsys.readouterr().out


def test_the_sound_in_the_file_is_the_original_not_the_16_khz_copy(tmp_path, portrait):
    """A 12 kHz tone cannot be in a 16 kHz copy."""
    t = np.arange(48000) / 48000
    stereo = np.stack([0.3 * np.sin(2 * np.pi * 12000 * t), 0.3 * np.sin(2 * np.pi * 440 * t)], axis=1).astype(np.float32)
    assert run(portrait, write_wav(tmp_path / "tone.wav", stereo, 48000), tmp_path / "out.mp4") == 0
    with av.open(str(tmp_path / "out.mp4")) as file:
        left, right = np.concatenate([f.to_ndarray() for f in file.decode(audio=0)], axis=1)
    peak = lambda x: np.abs(np.fft.rfft(x[4096 : 4096 + 32768])).argmax() * 48000 / 32768  # noqa: E731
    assert peak(left) == pytest.approx(12000, abs=3) and peak(right) == pytest.approx(440, abs=3)


def test_a_second_run_makes_the_same_file_and_needs_leave_to_replace_it(tmp_path, portrait, speech, capsys):
    out = tmp_path / "out.mp4"
    assert run(portrait, speech, out) == 0
    first = out.read_bytes()
    assert run(portrait, speech, out) == 2
    assert "--overwrite" in capsys.readouterr().err and out.read_bytes() == first
    assert run(portrait, speech, out, "--overwrite") == 0
    frames = [list(read_frames(out))]
    out.write_bytes(first)
    frames.append(list(read_frames(out)))
    assert all(np.array_equal(a, b) for a, b in zip(*frames, strict=True))
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".wav"] == ["out.mp4"], "nothing is left beside it"


def test_random_weights_are_said_to_be_random(tmp_path, portrait, speech, capsys):
    assert run(portrait, speech, tmp_path / "out.mp4") == 0
    out = capsys.readouterr()
    assert "RANDOM WEIGHTS" in out.out and re.search(r"63 frames, 2.52 s of video", out.out)
    assert "63/63 frames" in out.err and "left" in out.err


@pytest.mark.parametrize("seconds", [0.5, 20])
def test_silence_and_music_are_valid_sound(tmp_path, portrait, seconds, capsys):
    t = np.arange(round(seconds * 16000)) / 16000
    music = sum(0.1 * np.sin(2 * np.pi * f * t) for f in (220, 277, 330)).astype(np.float32)
    for name, sound in (("silence", np.zeros_like(music)), ("music", music)):
        wav = write_wav(tmp_path / f"{name}.wav", sound[:8000])
        assert run(portrait, wav, tmp_path / f"{name}.mp4") == 0
        assert probe_video(tmp_path / f"{name}.mp4").frames == 13


def test_two_speakers_talk_in_one_picture(tmp_path, portrait, speech):
    other = write_wav(tmp_path / "other.wav", speech_like(3.0, seed=5))
    masks = []
    for i in (0, 1):
        mask = np.zeros((32, 48), np.uint8)
        mask[:, 24 * i : 24 * i + 20] = 255
        masks.append(tmp_path / f"mask{i}.png")
        Image.fromarray(mask).save(masks[-1])
    assert run(portrait, speech, tmp_path / "out.mp4", "--second-audio", other, "--masks", *masks) == 0
    video = probe_video(tmp_path / "out.mp4")
    assert video.frames == 75 and video.audio_duration >= Fraction(29, 10), "as long as the longer one"


def test_ctrl_c_leaves_a_playable_file_of_what_was_made(tmp_path, portrait):
    sound = write_wav(tmp_path / "long.wav", speech_like(60.0))
    command = [sys.executable, "-m", "livetalk_core.cli", "generate", portrait, sound, tmp_path / "out.mp4"]
    command += ["--model", "tiny", "--size", "48x32"]
    process = subprocess.Popen(
        list(map(str, command)),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test run in the background hands down that it is ignored
    )
    try:
        seen = ""
        while " 56/1500" not in seen and (read := process.stderr.read(1)):
            seen += read
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=HANG_S)
    finally:
        process.kill()
    assert process.returncode == 130, seen + err
    video = probe_video(tmp_path / "out.mp4")
    assert video.frames >= 56 and video.frames % 28 in (0, 4, 16) and f"the {video.frames} frames made so far" in out
    assert abs(video.audio_duration - Fraction(video.frames, 25)) < Fraction(1200, 16000)
    assert list(tmp_path.glob(".*")) == []


def test_the_next_piece_is_made_while_one_is_encoded(engine, tmp_path, portrait, monkeypatch):
    write, second, waited, made = VideoWriter.write, threading.Event(), [], []

    def late(writer, frames_THWC):
        waited.append(second.wait(30))
        write(writer, frames_THWC)

    def on_chunk(chunk, total):
        made.append(chunk)
        if len(made) == 2:
            second.set()

    monkeypatch.setattr(VideoWriter, "write", late)
    sound = write_wav(tmp_path / "speech.wav", speech_like(1.5))
    job = Job(picture=portrait, audio=(sound,), output=tmp_path / "out.mp4", size="48x32", settings=StreamSettings(steps=1))
    frames = generate(engine, check_inputs(job), on_chunk)
    assert waited[0] and len(waited) == len(made) and probe_video(tmp_path / "out.mp4").frames == frames == 38


class Gated:
    """A writer that waits for a signal, and fails on a piece of zeros."""

    def __init__(self):
        self.go, self.written = threading.Event(), []

    def write(self, piece):
        self.go.wait()
        if piece == 0:
            raise OSError("disk full")
        self.written.append(piece)


def test_only_so_many_pieces_wait_and_all_are_written_in_order():
    gated, given = Gated(), []
    with BackgroundWriter(gated, most=2) as behind:
        giver = threading.Thread(target=lambda: [given.append(behind.write(piece)) for piece in range(1, 9)], daemon=True)
        giver.start()
        giver.join(0.5)
        assert giver.is_alive() and len(given) <= 3, "one at the writer and two that wait"
        gated.go.set()
        giver.join()
    assert gated.written == list(range(1, 9))


def test_a_failed_write_reaches_the_caller():
    gated = Gated()
    gated.go.set()
    with pytest.raises(OSError, match="disk full"), BackgroundWriter(gated) as behind:
        behind.write(0)
    assert not behind.thread.is_alive()
