"""Sound files of every kind, whole and broken, against arrays that are known."""

import math
import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from livetalk_core.media.audio import LiveResampler, probe_audio, read_audio, to_mono

FORMATS = [
    ("s16.wav", "pcm_s16le", 44100),
    ("s24.wav", "pcm_s24le", 48000),
    ("s32.wav", "pcm_s32le", 8000),
    ("f32.wav", "pcm_f32le", 22050),
    ("f64.wav", "pcm_f64le", 96000),
    ("u8.wav", "pcm_u8", 16000),
    ("a.flac", "flac", 44100),
    ("a.mp3", "libmp3lame", 44100),
    ("a.m4a", "aac", 16000),
    ("a.ogg", "libopus", 48000),
    ("a.mkv", "pcm_s16le", 32000),
]


HALF = math.sqrt(0.5)
WEIGHTS = {
    name: np.array(weights)
    for name, weights in {
        "mono": [1],
        "stereo": [1, 1],
        "4.0": [1, 1, 2 * HALF, 2 * 0.5],
        "5.1": [1, 1, 2 * HALF, 0, HALF, HALF],
        "5.1(side)": [1, 1, 2 * HALF, 0, HALF, HALF],
        "7.1": [1, 1, 2 * HALF, 0, HALF, HALF, HALF, HALF],
    }.items()
}
"""Of ITU-R BS.775 and FFmpeg: center and surround 3 dB down on each side, no low-frequency channel; one in the back on both sides."""


def encode(path, codec, rate, samples_CN, layout="mono"):
    """Write float sound [C, N] with PyAV; the format follows the codec."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        packed = np.ascontiguousarray(samples_CN.T, np.float32).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        sample_format = stream.codec_context.format or stream.codec.audio_formats[0]
        convert = av.AudioResampler(format=sample_format, layout=layout, rate=rate)
        for piece in convert.resample(frame) + convert.resample(None):
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return path


def tone(seconds, rate, hertz=440.0):
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)[None]


def noise(seconds, rate):
    return 0.1 * np.random.default_rng(0).standard_normal((1, round(seconds * rate)))


def read_all(path, rate=16000):
    return np.concatenate(list(read_audio(path, rate)))


@pytest.mark.parametrize(("name", "codec", "rate"), FORMATS)
def test_every_format_gives_the_same_tone_and_the_promised_length(tmp_path, name, codec, rate):
    path = encode(tmp_path / name, codec, rate, tone(1.7, rate))
    info, mono = probe_audio(path), read_all(path)
    assert (info.sample_rate, info.channels) == (rate, 1)
    assert len(mono) == math.ceil(info.duration * 16000) and mono.dtype == np.float32
    assert abs(info.duration - Fraction(17, 10)) < 0.05
    middle = slice(4000, 24000)
    tolerance = {"libmp3lame": 0.03, "aac": 0.02, "libopus": 0.05, "pcm_u8": 0.01}.get(codec, 1e-3)
    if codec != "libopus":
        assert abs(mono[middle] - tone(1.7, 16000)[0, middle]).max() < tolerance
    assert abs(np.sqrt((mono[middle] ** 2).mean()) - 0.5 / math.sqrt(2)) < tolerance


def test_lossless_files_keep_their_exact_duration(tmp_path):
    for name, codec in (("a.wav", "pcm_s16le"), ("a.flac", "flac"), ("a.mp3", "libmp3lame")):
        assert probe_audio(encode(tmp_path / name, codec, 44100, noise(1.01, 44100))).duration == Fraction(101, 100)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000, 44101, 192000])
def test_an_impulse_at_one_second_stays_at_one_second(tmp_path, rate):
    impulse = np.zeros((1, 2 * rate), np.float32)
    impulse[0, rate] = 0.9
    path = encode(tmp_path / "impulse.wav", "pcm_f32le", rate, impulse)
    assert abs(int(np.argmax(np.abs(read_all(path)))) - 16000) <= 1
    assert abs(int(np.argmax(np.abs(to_mono(impulse, rate)))) - 16000) <= 1
    late = np.roll(impulse, rate // 100)
    assert abs(int(np.argmax(np.abs(to_mono(late, rate)))) - 16000) > 100


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 44100, 48000, 192000])
@pytest.mark.parametrize("num_samples", [1, 7, 46, 128, 4411])
def test_any_number_of_samples_gives_the_rounded_up_count(rate, num_samples):
    assert len(to_mono(np.ones(num_samples, np.float32), rate)) == -(-num_samples * 16000 // rate)


def test_a_file_of_three_milliseconds_is_read(tmp_path):
    path = encode(tmp_path / "short.wav", "pcm_s16le", 44100, noise(0.0029, 44100))
    assert probe_audio(path).duration == Fraction(128, 44100)
    assert len(read_all(path)) == 47


def test_blocks_are_about_a_second_whatever_the_length(tmp_path):
    path = encode(tmp_path / "long.wav", "pcm_s16le", 44100, noise(7.3, 44100))
    sizes = [len(block) for block in read_audio(path)]
    assert sum(sizes) == 116800 and 7 <= len(sizes) <= 9 and max(sizes) < 20000


@pytest.mark.parametrize(("layout", "channels"), [("mono", 1), ("stereo", 2), ("4.0", 4), ("5.1", 6), ("5.1(side)", 6), ("7.1", 8)])
@pytest.mark.parametrize(("name", "codec"), [("a.wav", "pcm_s16le"), ("a.flac", "flac")])
def test_channels_are_mixed_as_ffmpeg_does_it(tmp_path, layout, channels, name, codec):
    levels = np.linspace(0.1, 0.8, channels)[:, None]
    path = encode(tmp_path / name, codec, 16000, levels * np.ones((channels, 8000)), layout)
    assert probe_audio(path).channels == channels
    assert abs(read_all(path) - WEIGHTS[layout] @ levels / sum(WEIGHTS[layout])).max() < 1e-4


def test_eight_channels_of_aac_are_mixed_too(tmp_path):
    levels = np.linspace(0.1, 0.8, 8)[:, None]
    path = encode(tmp_path / "a.m4a", "aac", 48000, levels * tone(1, 48000), "7.1")
    mixed = float(WEIGHTS["7.1"] @ levels[:, 0]) / sum(WEIGHTS["7.1"])
    assert abs(np.abs(read_all(path)[4000:12000]).max() - 0.5 * mixed) < 0.02


def test_full_scale_integers_become_one(tmp_path):
    for dtype in (np.int16, np.int32):
        low = np.iinfo(dtype).min
        assert np.array_equal(to_mono(np.array([[low, 0, -(low // 2)]], dtype), 16000), np.float32([-1, 0, 0.5]))
    assert np.array_equal(to_mono(np.array([0, 128, 192], np.uint8), 16000), np.float32([-1, 0, 0.5]))


def test_silence_is_valid(tmp_path):
    assert not read_all(encode(tmp_path / "silence.wav", "pcm_s16le", 44100, np.zeros((1, 44100)))).any()


def test_the_sound_of_a_video_file_is_read(tmp_path):
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as container:
        video, sound = container.add_stream("libx264", rate=25), container.add_stream("aac", rate=48000, layout="mono")
        video.width = video.height = 64
        for k in range(25):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            frame.pts = k
            container.mux(video.encode(frame))
        samples = av.AudioFrame.from_ndarray(tone(1, 48000).astype(np.float32), format="fltp", layout="mono")
        samples.sample_rate, samples.pts = 48000, 0
        container.mux(sound.encode(samples))
        container.mux(video.encode(None))
        container.mux(sound.encode(None))
    assert abs(probe_audio(path).duration - 1) < 0.03


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
def test_growing_sound_equals_the_whole_at_once(rate):
    rng = np.random.default_rng(1)
    whole = rng.standard_normal((2, 3 * rate)).astype(np.float32)
    live, pieces, at = LiveResampler(rate), [], 0
    while at < whole.shape[1]:
        size = int(rng.integers(0, rate // 3))
        pieces.append(live.push(whole[:, at : at + size]))
        at += size
    pieces.append(live.flush())
    assert np.array_equal(np.concatenate(pieces), to_mono(whole, rate))


def test_resampled_tones_match_and_tones_above_the_new_band_vanish():
    heard, unheard = to_mono(tone(1, 48000, 3000), 48000), to_mono(tone(1, 48000, 12000), 48000)
    assert abs(heard - tone(1, 16000, 3000)[0])[200:-200].max() < 1e-3
    assert abs(unheard)[200:-200].max() < 1e-3


def one_line_error(kind, path):
    with pytest.raises(kind) as caught:
        probe_audio(path)
    with pytest.raises(kind):
        list(read_audio(path))
    text = str(caught.value)
    assert "\n" not in text and str(path) in text
    return text


def test_a_missing_file_a_folder_and_an_empty_file_are_refused(tmp_path):
    assert "there is no such sound file" in one_line_error(FileNotFoundError, tmp_path / "none.wav")
    assert "is a folder" in one_line_error(ValueError, tmp_path)
    (tmp_path / "empty.wav").touch()
    assert "is empty (0 bytes)" in one_line_error(ValueError, tmp_path / "empty.wav")


def test_text_named_wav_is_refused(tmp_path):
    path = tmp_path / "text.wav"
    path.write_text("This is no sound at all. " * 40)
    assert "cannot be read as a sound file" in one_line_error(ValueError, path)


def test_a_film_without_sound_is_refused(tmp_path):
    path = tmp_path / "mute.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width = video.height = 64
        container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        container.mux(video.encode(None))
    assert "has no sound in it" in one_line_error(ValueError, path)


def test_a_header_without_samples_is_refused(tmp_path):
    path = encode(tmp_path / "none.wav", "pcm_s16le", 16000, noise(1, 16000))
    data = path.read_bytes()
    at = data.index(b"data")
    path.write_bytes(data[: at + 4] + struct.pack("<I", 0))
    assert "holds no sound samples" in one_line_error(ValueError, path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused_with_their_second(tmp_path, bad):
    samples = noise(2, 16000)
    samples[0, 24000] = bad
    path = encode(tmp_path / "bad.wav", "pcm_f32le", 16000, samples)
    assert "at 1.500 s" in one_line_error(ValueError, path)
    with pytest.raises(ValueError, match=r"at 1\.500 s"):
        to_mono(samples, 16000)


def test_a_truncated_wav_is_refused_with_its_two_lengths(tmp_path):
    path = encode(tmp_path / "cut.wav", "pcm_s16le", 16000, noise(3, 16000))
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"data") + 8 + 2 * 16000])
    text = one_line_error(ValueError, path)
    assert "promises 3.00 s" in text and "holds 1.00 s" in text


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFF000])
def test_a_wav_written_to_a_pipe_is_read_to_its_end(tmp_path, size):
    path = encode(tmp_path / "pipe.wav", "pcm_s16le", 16000, noise(1, 16000))
    data = path.read_bytes()
    at = data.index(b"data")
    path.write_bytes(data[:4] + struct.pack("<I", size) + data[8 : at + 4] + struct.pack("<I", size) + data[at + 8 :])
    assert probe_audio(path).duration == 1


@pytest.mark.parametrize(("name", "codec"), [("cut.mp3", "libmp3lame"), ("cut.flac", "flac")])
def test_truncated_mp3_and_flac_are_refused(tmp_path, name, codec):
    path = encode(tmp_path / name, codec, 44100, noise(3, 44100))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    text = one_line_error(ValueError, path)
    assert "cut short" in text or "decoding stopped at 1." in text


def test_an_mp3_with_tags_around_it_is_whole(tmp_path):
    path = encode(tmp_path / "tags.mp3", "libmp3lame", 44100, noise(1, 44100))
    path.write_bytes(path.read_bytes() + b"TAG" + b"x" * 125)
    assert probe_audio(path).duration == 1


def test_a_truncated_m4a_with_its_index_in_front_is_refused(tmp_path):
    path = tmp_path / "cut.m4a"
    with av.open(str(path), "w", format="mp4", container_options={"movflags": "faststart"}) as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        frame = av.AudioFrame.from_ndarray(noise(3, 44100).astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 44100, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert probe_audio(path).sample_rate == 44100
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    text = one_line_error(ValueError, path)
    assert "cut short" in text or "decoding stopped" in text


@pytest.mark.parametrize(
    ("name", "codec"), [("hole.mp3", "libmp3lame"), ("hole.m4a", "aac"), ("hole.flac", "flac"), ("hole.ogg", "libopus")]
)
def test_a_hole_in_the_middle_of_a_file_is_refused(tmp_path, name, codec):
    path = encode(tmp_path / name, codec, 48000, noise(3, 48000))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = np.random.default_rng(2).bytes(3000)
    path.write_bytes(data)
    text = one_line_error(ValueError, path)
    assert "decoding stopped at 1." in text or "cut short" in text


def test_wrong_waveforms_are_refused_with_their_shape():
    for wrong in (np.zeros((16000, 2), np.float32), np.zeros((1, 1, 9), np.float32), np.zeros(0, np.float32), np.zeros(9, bool)):
        with pytest.raises(ValueError, match="waveform"):
            to_mono(wrong, 16000)
    with pytest.raises(ValueError, match="sample_rate=0 must be"):
        to_mono(np.zeros(9, np.float32), 0)
