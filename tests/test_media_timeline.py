"""Sound files as people have them: late starts, holes, junk, several tracks. FFmpeg's time stamps decide where sound lies."""

from fractions import Fraction

import av
import numpy as np
import pytest
from test_media_audio import encode, noise, read_all, tone

from livetalk_core.media.audio import probe_audio, read_audio, read_sides
from livetalk_core.media.decode import decode
from livetalk_core.media.video import VideoWriter, probe_video

RATE = 48000


def frame_of(samples_N, rate):
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples_N[None], np.float32), format="flt", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
    return frame


def packets_of(stream, samples_N, rate=RATE, start_s=0, keep=lambda time_s: True):
    """Sound encoded for a stream, moved by `start_s`, without the packets whose time is not to be kept."""
    convert = av.AudioResampler(format=stream.codec_context.format or stream.codec.audio_formats[0], layout="mono", rate=rate)
    pieces = convert.resample(frame_of(samples_N, rate)) + convert.resample(None)
    for packet in [packet for piece in pieces for packet in stream.encode(piece)] + stream.encode(None):
        if keep(packet.pts * packet.time_base):
            packet.pts += round(start_s / packet.time_base)
            packet.dts = packet.pts
            yield packet


def write_track(path, codec, samples_N, rate=RATE, **how):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        container.mux(list(packets_of(stream, samples_N, rate, **how)))
    return path


def beeps(seconds, *at_s, rate=RATE):
    """Silence with a short tone at each of these times."""
    samples = np.zeros(round(seconds * rate), np.float32)
    for second in at_s:
        first = round(second * rate)
        samples[first : first + rate // 20] = 0.7 * np.sin(np.arange(rate // 20) * 0.2)
    return samples


def onsets(path, **how):
    """Seconds at which sound begins after silence."""
    mono = np.abs(np.concatenate(list(read_audio(path, 16000, **how))))
    loud = np.flatnonzero(mono > 0.3)
    return [int(i) / 16000 for i, before in zip(loud, [-(10**6), *loud[:-1]], strict=False) if i - before > 4000]


@pytest.mark.parametrize("name", ["hole.ogg", "hole.webm"])
def test_missing_opus_packets_are_silence_and_what_follows_keeps_its_time(tmp_path, name):
    path = tmp_path / name
    write_track(path, "libopus", beeps(3, 0.5, 2.5), keep=lambda time_s: not 1 <= time_s < 2)
    info = probe_audio(path)
    assert abs(info.duration - 3) < Fraction(2, 100)
    assert np.allclose(onsets(path), [0.5, 2.5], atol=0.01)
    (note,) = info.notes
    assert note.startswith("1.0") or note.startswith("0.9")
    assert "became silence" in note and "in 1 place at 1.0" in note


@pytest.mark.parametrize(("name", "exact_s"), [("loss.webm", 0.02), ("loss.ogg", 0.1)])
def test_single_missing_packets_are_filled_one_by_one(tmp_path, name, exact_s):
    """Ogg has a time for a page of a second only, so what is missing shows at the page's end."""
    path = tmp_path / name
    write_track(path, "libopus", beeps(4, 3.5), keep=lambda time_s: round(time_s * 50) % 10 != 5)
    info = probe_audio(path)
    assert abs(info.duration - 4) < Fraction(3, 100) and np.allclose(onsets(path), [3.5], atol=exact_s)
    assert "places, the first at 0." in info.notes[0] and info.notes[0].startswith("0.4")


def test_an_ogg_file_with_harmed_pages_is_not_taken_for_one_with_pauses(tmp_path):
    path = encode(tmp_path / "torn.ogg", "libopus", RATE, noise(8, RATE))
    data = bytearray(path.read_bytes())
    starts = [at for at in range(len(data)) if data[at : at + 4] == b"OggS"]
    assert len(starts) > 6
    middle = starts[len(starts) // 2] + 200
    data[middle : middle + 20] = bytes(20)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"decoding stopped at \d\.\d\d s: \d\.\d\d s of sound are lost there"):
        probe_audio(path)


@pytest.mark.parametrize("junk", [bytes(4000), bytes(100), np.random.default_rng(1).bytes(417), b"TAG" + b"x" * 125 + bytes(3000)])
def test_junk_after_the_last_frame_of_an_mp3_is_left_out(tmp_path, junk):
    path = encode(tmp_path / "a.mp3", "libmp3lame", RATE, tone(3, RATE))
    before = probe_audio(path).duration
    path.write_bytes(path.read_bytes() + junk)
    info = probe_audio(path)
    assert abs(info.duration - before) < Fraction(3, 100) and len(info.notes) <= 1
    assert abs(np.abs(read_all(path)[40000:47000]).max() - 0.5) < 0.05


def test_a_hole_in_the_middle_of_an_mp3_says_how_much_is_lost(tmp_path):
    path = encode(tmp_path / "a.mp3", "libmp3lame", RATE, tone(3, RATE))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = bytes(2000)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"decoding stopped at 1\.\d\d s: \d\.\d\d s of sound are lost|cut short"):
        probe_audio(path)


def test_two_mp3_files_joined_are_played_through(tmp_path):
    first, second = (encode(tmp_path / f"{i}.mp3", "libmp3lame", RATE, tone(2, RATE)) for i in (1, 2))
    path = tmp_path / "joined.mp3"
    path.write_bytes(first.read_bytes() + b"TAG" + b"x" * 125 + second.read_bytes())
    assert abs(probe_audio(path).duration - 4) < Fraction(15, 100)


def film(path, samples_N, start_s):
    """Three seconds of picture from 0 on and sound that starts later."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width = video.height = 64
        sound = container.add_stream("aac", rate=RATE, layout="mono")
        container.mux(list(packets_of(sound, samples_N, start_s=start_s)))
        for k in range(75):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            frame.pts = k
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return path


@pytest.mark.parametrize("name", ["late.mp4", "late.mkv", "late.mov"])
def test_sound_that_starts_late_in_its_container_keeps_its_time(tmp_path, name):
    path = film(tmp_path / name, beeps(2, 1.0), Fraction(1, 2))
    info = probe_audio(path)
    assert np.allclose(onsets(path), [1.5], atol=0.04) and abs(info.duration - Fraction(5, 2)) < Fraction(8, 100)
    assert "silence was put before it" in info.notes[0]
    with VideoWriter(tmp_path / "out.mp4", width=64, height=64, audio=path) as writer:
        writer.write(np.zeros((62, 64, 64, 3), np.uint8))
    assert np.allclose(onsets(tmp_path / "out.mp4"), [1.5], atol=0.04), "in the film's own track too"
    assert abs(probe_video(tmp_path / "out.mp4").audio_start) < 0.01


def test_a_cover_picture_does_not_move_the_sound(tmp_path):
    """An MP3's own clock starts after its encoder's delay, its cover's at 0."""
    plain, path = encode(tmp_path / "plain.mp3", "libmp3lame", RATE, beeps(2, 1.0)[None]), tmp_path / "cover.mp3"
    with av.open(str(plain)) as source, av.open(str(path), "w") as container:
        sound, cover = container.add_stream_from_template(source.streams.audio[0]), container.add_stream("png", rate=1)
        cover.width = cover.height = 64
        cover.pix_fmt, cover.disposition = "rgb24", av.stream.Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        for packet in source.demux(audio=0):
            if packet.size:
                packet.stream = sound
                container.mux(packet)
    with av.open(str(path)) as container:
        assert container.streams.video and container.streams.audio
    assert onsets(path) == onsets(plain) and probe_audio(path).notes == ()


@pytest.fixture
def tracks(tmp_path):
    path = tmp_path / "tracks.mka"
    with av.open(str(path), "w", format="matroska") as container:
        silent, speech = (container.add_stream("pcm_s16le", rate=RATE, layout="mono") for _ in range(2))
        silent.disposition, speech.disposition = av.stream.Disposition(0), av.stream.Disposition.default
        packets = [*packets_of(silent, beeps(2)), *packets_of(speech, beeps(2, 1.0))]
        container.mux(sorted(packets, key=lambda packet: packet.pts * packet.time_base))
    return path


def test_of_several_tracks_the_default_one_is_taken_and_said(tracks):
    info = probe_audio(tracks)
    (note,) = info.notes
    assert onsets(tracks) == pytest.approx([1.0], abs=0.01) and "sound track 2 was taken" in note and "--audio-track" in note


def test_a_track_is_taken_by_its_number(tracks):
    assert onsets(tracks, track=1) == [] and probe_audio(tracks, track=1).notes == ()
    assert onsets(tracks, track=2) == pytest.approx([1.0], abs=0.01)
    assert sum(sound.samples_CN.shape[1] for sound in decode(tracks, 1)) == 2 * RATE
    for track in (0, 3, -1):
        with pytest.raises(ValueError, match=rf"audio track {track} is not there; it has 1: pcm_s16le 1 channel\(s\).*2: pcm_s16le"):
            probe_audio(tracks, track)


def test_two_channels_are_two_voices(tmp_path):
    both = np.stack([beeps(2, 0.5), beeps(2, 1.5)])
    path = encode(tmp_path / "two.flac", "flac", RATE, both, "stereo")
    voices = np.concatenate(list(read_sides(path)), axis=1)
    loud = [np.flatnonzero(np.abs(voice) > 0.3)[0] / 16000 for voice in voices]
    assert voices.shape == (2, 32000) and np.allclose(loud, [0.5, 1.5], atol=0.01)
    with pytest.raises(ValueError, match=r"has 1 channel\(s\); --split-channels needs 2"):
        list(read_sides(encode(tmp_path / "one.flac", "flac", RATE, tone(1, RATE))))
