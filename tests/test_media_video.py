"""MP4 files: what was written is read back, frame by frame and sample by sample."""

import errno
import os
import struct
import subprocess
import sys
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

import livetalk_core
from livetalk_core.media.audio import decode, read_audio
from livetalk_core.media.video import VideoWriter, probe_video, read_frames

W, H = 256, 96
COLORS = [(255, 255, 255), (255, 255, 0), (0, 255, 255), (0, 255, 0), (255, 0, 255), (255, 0, 0), (0, 0, 255), (40, 90, 160)]


def bars(num_frames, width=512, height=H):
    """Color bars: uint8 [T, H, W, 3]."""
    row = np.repeat(np.array(COLORS, np.uint8), width // len(COLORS), axis=0)
    return np.broadcast_to(row, (num_frames, height, width, 3))


def gray(levels):
    """One even frame per level: uint8 [T, H, W, 3]."""
    return torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].expand(-1, H, W, 3)


def write_wav(path, samples_CN, rate):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples_CN.shape[0])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples_CN.T * 32767).astype("<i2").tobytes())
    return path


def impulse_wav(path, rate, seconds=2.0, channels=1):
    samples_CN = np.zeros((channels, round(seconds * rate)))
    samples_CN[:, rate : rate + max(1, rate // 4000)] = 0.9
    return write_wav(path, samples_CN, rate)


def write_video(path, levels, **options):
    with VideoWriter(path, width=W, height=H, **options) as writer:
        writer.write(gray(levels))
    return probe_video(path)


def top_boxes(data):
    """(name, body) of the boxes in `data`."""
    at, boxes = 0, []
    while at < len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        assert size >= 8 and at + size <= len(data)
        boxes.append((name.decode(), data[at + 8 : at + size]))
        at += size
    return boxes


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_frames_come_back_in_order_at_their_exact_times(tmp_path):
    levels = [(7 * k) % 200 + 20 for k in range(60)]
    info = write_video(tmp_path / "a.mp4", levels)
    assert (info.frames, info.fps, info.width, info.height, info.codec) == (60, 25, W, H, "h264")
    assert info.duration == Fraction(60, 25) and info.start == 0 and info.audio_rate is None
    assert max(abs(float(f.mean()) - level) for f, level in zip(read_frames(tmp_path / "a.mp4"), levels, strict=True)) < 3
    with av.open(str(tmp_path / "a.mp4")) as container:
        packets = [p for p in container.demux(video=0) if p.size]
    assert [p.pts * p.time_base for p in packets] == [Fraction(k, 25) for k in range(60)]
    assert all(p.pts == p.dts for p in packets)


def test_an_odd_frame_rate_does_not_drift(tmp_path):
    write_video(tmp_path / "a.mp4", [50] * 90, fps=Fraction(30000, 1001))
    with av.open(str(tmp_path / "a.mp4")) as container:
        times = [p.pts * p.time_base for p in container.demux(video=0) if p.size]
    assert times == [k * Fraction(1001, 30000) for k in range(90)]


def test_colors_survive_and_are_tagged(tmp_path):
    path = tmp_path / "a.mp4"
    with VideoWriter(path, width=512, height=H) as writer:
        writer.write(bars(5))
    error = np.abs(np.stack(list(read_frames(path))).astype(int) - bars(5))
    assert error.mean() <= 3 and error[:, :, 16::64].max() <= 6
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        wrong = frame.reformat(format="rgb24", src_colorspace=5).to_ndarray()
        codec = container.streams.video[0].codec_context
        assert (codec.color_primaries, codec.color_trc, codec.colorspace, codec.color_range) == (1, 1, 1, 1)
    assert np.abs(wrong.astype(int) - bars(1)[0]).mean() > 5, "control: another matrix shows"


def test_the_index_comes_before_the_data(tmp_path):
    write_video(tmp_path / "a.mp4", [50] * 30)
    names = [name for name, _ in top_boxes((tmp_path / "a.mp4").read_bytes())]
    assert names.index("moov") < names.index("mdat")


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000, 96000])
def test_the_sound_keeps_its_rate_and_place(tmp_path, rate):
    wav = impulse_wav(tmp_path / "a.wav", rate)
    info = write_video(tmp_path / "a.mp4", [50] * 50, audio=wav)
    assert info.audio_rate == rate and info.audio_channels == 1 and info.audio_start == 0 and info.start == 0
    assert 0 <= info.audio_duration - 2 < Fraction(1024, rate)
    mono = np.concatenate(list(read_audio(tmp_path / "a.mp4", 48000)))
    assert abs(int(np.argmax(np.abs(mono))) - 48000) <= 96


@pytest.mark.parametrize(("channels", "kept"), [(1, 1), (2, 2), (6, 6), (8, 8)])
def test_the_sound_keeps_its_channels(tmp_path, channels, kept):
    levels = np.linspace(0.1, 0.8, channels)[:, None]
    wav = write_wav(tmp_path / "a.wav", levels * np.sin(np.arange(48000) * 0.02)[None], 48000)
    info = write_video(tmp_path / "a.mp4", [50] * 25, audio=wav)
    assert info.audio_channels == kept
    heard = np.concatenate([sound.samples_CN for sound in decode(tmp_path / "a.mp4")], axis=1)
    peaks = np.abs(heard[:, 4000:40000]).max(axis=1)
    full_band = [c for c in range(channels) if not (channels >= 6 and c == 3)]
    assert np.abs(peaks - levels[:, 0])[full_band].max() < 0.1


def test_a_rate_that_aac_lacks_becomes_the_nearest(tmp_path):
    wav = impulse_wav(tmp_path / "a.wav", 192000)
    info = write_video(tmp_path / "a.mp4", [50] * 50, audio=wav)
    assert info.audio_rate == 96000 and abs(info.audio_duration - 2) < 0.03


def test_the_last_sample_is_in_when_all_frames_are(tmp_path):
    rate = 44100
    samples = np.zeros((1, round(2.015 * rate)))
    samples[0, -400:] = 0.9 * np.sin(np.arange(400) * 0.3)
    wav = write_wav(tmp_path / "a.wav", samples, rate)
    info = write_video(tmp_path / "a.mp4", [50] * 50, audio=wav)
    assert info.audio_duration >= Fraction(samples.shape[1], rate)
    heard = np.concatenate([sound.samples_CN for sound in decode(tmp_path / "a.mp4")], axis=1)
    assert np.abs(heard[0, samples.shape[1] - 300 : samples.shape[1] - 50]).max() > 0.5


def test_a_video_that_is_closed_early_has_sound_as_long_as_its_picture(tmp_path):
    wav = impulse_wav(tmp_path / "a.wav", 44100, seconds=30)
    info = write_video(tmp_path / "a.mp4", [50] * 37, audio=wav)
    assert info.frames == 37 and abs(info.audio_duration - info.duration) <= Fraction(1024, 44100)


def test_sound_shorter_than_the_picture_just_ends(tmp_path):
    info = write_video(tmp_path / "a.mp4", [50] * 75, audio=impulse_wav(tmp_path / "a.wav", 16000))
    assert info.frames == 75 and abs(info.audio_duration - 2) <= Fraction(1024, 16000)


def test_sound_of_a_few_samples_is_no_obstacle(tmp_path):
    wav = write_wav(tmp_path / "a.wav", 0.5 * np.ones((1, 128)), 44100)
    assert write_video(tmp_path / "a.mp4", [50], audio=wav).frames == 1


def test_interruption_keeps_what_is_there(tmp_path):
    wav = impulse_wav(tmp_path / "a.wav", 16000)
    with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "a.mp4", width=W, height=H, audio=wav) as writer:
        writer.write(gray([10] * 12))
        raise KeyboardInterrupt
    info = probe_video(tmp_path / "a.mp4")
    assert info.frames == 12 and abs(info.audio_duration - info.duration) <= Fraction(1024, 16000)
    assert names_in(tmp_path) == ["a.mp4", "a.wav"]


def test_interruption_before_the_first_frame_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "a.mp4", width=W, height=H):
        raise KeyboardInterrupt
    assert names_in(tmp_path) == []


def test_an_error_leaves_an_older_file_untouched_and_no_part_file(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"older")
    with pytest.raises(RuntimeError, match="model"), VideoWriter(path, width=W, height=H, overwrite=True) as writer:
        writer.write(gray([10] * 12))
        raise RuntimeError("model")
    assert names_in(tmp_path) == ["a.mp4"] and path.read_bytes() == b"older"


def test_an_older_file_is_replaced_only_at_the_end(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"older")
    writer = VideoWriter(path, width=W, height=H, overwrite=True)
    writer.write(gray([10] * 12))
    assert path.read_bytes() == b"older" and len(names_in(tmp_path)) == 2
    assert [name.startswith(".a.mp4") for name in names_in(tmp_path)] == [True, False]
    writer.close()
    writer.close()
    assert names_in(tmp_path) == ["a.mp4"] and probe_video(path).frames == 12


def test_a_video_without_frames_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no frames were written"), VideoWriter(tmp_path / "a.mp4", width=W, height=H):
        pass
    assert names_in(tmp_path) == []


def test_targets_that_cannot_be_written_are_refused(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"older")
    (tmp_path / "folder.mp4").mkdir()
    cases = [
        (tmp_path / "a.mp4", ValueError, "--overwrite"),
        (tmp_path / "folder.mp4", ValueError, "is a folder"),
        (tmp_path / "a.avi", ValueError, "must be an .mp4 file; write a.mp4"),
        (tmp_path / "none" / "a.mp4", FileNotFoundError, "create it first"),
    ]
    for path, kind, words in cases:
        with pytest.raises(kind) as caught:
            VideoWriter(path, width=W, height=H)
        assert words in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="255x96 pixels must have even sides"):
        VideoWriter(tmp_path / "b.mp4", width=255, height=96)
    with pytest.raises(FileNotFoundError, match="no such sound file"):
        VideoWriter(tmp_path / "b.mp4", width=W, height=H, audio=tmp_path / "none.wav")
    assert names_in(tmp_path) == ["a.mp4", "folder.mp4"]


def test_wrong_frames_are_refused(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", width=W, height=H) as writer:
        for wrong in (torch.zeros(2, H, W, 3), gray([1])[0], torch.zeros(2, W, H, 3, dtype=torch.uint8)):
            with pytest.raises(ValueError, match="must be uint8"):
                writer.write(wrong)
        writer.write(gray([1]))


FULL_DISK = """
import resource, sys
import numpy as np
from livetalk_core.media.video import VideoWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
noise = np.random.default_rng(0).integers(0, 256, (int(sys.argv[3]), 96, 256, 3), dtype=np.uint8)
try:
    with VideoWriter(sys.argv[1], width=256, height=96) as writer:
        for frame in noise:
            writer.write(frame[None])
except OSError as error:
    print(error)
"""


@pytest.mark.skipif(os.name != "posix", reason="file size limits are POSIX")
@pytest.mark.parametrize(("limit", "num_frames", "fails"), [(1_000_000, 100, True), (20_000, 2, True), (10_000_000, 10, False)])
def test_a_disk_that_fills_up_gives_one_line_and_keeps_what_fits(tmp_path, limit, num_frames, fails):
    """A file size limit stands for a full disk; two frames are still in the encoder when it is closed."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "a.mp4"), str(limit), str(num_frames)]
    root = Path(livetalk_core.__file__).parents[1]
    result = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True)
    if fails:
        assert "writing failed after" in result.stdout and "MB are free" in result.stdout and result.stdout.count("\n") == 1
        assert names_in(tmp_path) == (["a.mp4"] if num_frames == 100 else [])
        if num_frames == 100:
            frames = probe_video(tmp_path / "a.mp4").frames
            assert 0 < frames < 100 and f"a.mp4 has the first {frames} frames" in result.stdout
    else:
        assert result.stdout == "" and names_in(tmp_path) == ["a.mp4"]


def test_no_space_left_is_told_with_its_number(tmp_path, monkeypatch):
    writer = VideoWriter(tmp_path / "a.mp4", width=W, height=H)

    class FullContainer:
        def mux(self, packets):
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self):
            raise OSError(errno.ENOSPC, "No space left on device")

    writer._movie.container.close()
    writer._movie.container = FullContainer()
    with pytest.raises(OSError, match="No space left on device") as caught:
        writer.write(gray([1] * 60))
    assert caught.value.errno == errno.ENOSPC and names_in(tmp_path) == []


def test_files_that_are_no_video_are_refused(tmp_path):
    wav = impulse_wav(tmp_path / "a.wav", 16000)
    with pytest.raises(ValueError, match="has no picture in it"):
        probe_video(wav)
    with pytest.raises(FileNotFoundError, match="no such video file"):
        next(read_frames(tmp_path / "none.mp4"))
