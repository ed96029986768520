"""Live fragments: joined, alone and box by box."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from livetalk_core.media.audio import read_audio
from livetalk_core.media.fragments import FragmentWriter, length_prefixed, split_nals
from livetalk_core.media.video import probe_video, read_frames

W, H = 256, 96


def gray(levels):
    """One even frame per level: uint8 [T, H, W, 3]."""
    return torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].expand(-1, H, W, 3)


def top_boxes(data):
    """(name, body) of the boxes in `data`."""
    at, boxes = 0, []
    while at < len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        assert size >= 8 and at + size <= len(data)
        boxes.append((name.decode(), data[at + 8 : at + size]))
        at += size
    return boxes


def live(num_writes=3, frames_each=28, rate=16000, samples=None, fps=25):
    """(writer, pieces that the sink got, sound that was given)."""
    pieces = []
    writer = FragmentWriter(pieces.append, width=W, height=H, sample_rate=rate, fps=fps)
    size = frames_each * rate // fps
    samples = np.zeros(num_writes * size, np.float32) if samples is None else samples
    for k in range(num_writes):
        writer.write(gray([20 + 40 * k] * frames_each), torch.from_numpy(samples[k * size : (k + 1) * size]))
        assert len(pieces) == k + 2, "one piece for the start and one per write"
    return writer, pieces, samples


def test_fragments_joined_are_the_whole_stream(tmp_path):
    writer, pieces, _ = live()
    writer.close()
    writer.close()
    path = tmp_path / "live.mp4"
    path.write_bytes(b"".join(pieces))
    info = probe_video(path)
    assert (info.frames, info.fps, info.width, info.height, info.start) == (84, 25, W, H, 0)
    assert info.audio_start == 0 and 0 <= info.audio_duration - info.duration < Fraction(1024, 48000)
    levels = [float(frame.mean()) for frame in read_frames(path)]
    assert max(abs(level - 20 - 40 * (k // 28)) for k, level in enumerate(levels)) < 3
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
    assert [p.pts * p.time_base for p in packets] == [Fraction(k, 25) for k in range(84)]
    assert [k for k, p in enumerate(packets) if p.is_keyframe] == [0, 28, 56]


@pytest.mark.parametrize("rate", [8000, 16000, 24000, 44100, 48000])
def test_live_sound_stays_in_place(tmp_path, rate):
    samples = np.zeros(3 * 28 * rate // 25, np.float32)
    for second in (1, 2, 3):
        samples[second * rate] = 0.9
    writer, pieces, _ = live(rate=rate, samples=samples)
    writer.close()
    (tmp_path / "live.mp4").write_bytes(b"".join(pieces))
    mono = np.abs(np.concatenate(list(read_audio(tmp_path / "live.mp4", 48000))))
    for second in (1, 2, 3):
        around = mono[(second * 48000 - 4800) : (second * 48000 + 4800)]
        assert abs(int(np.argmax(around)) - 4800) <= 48


def test_nothing_but_65_ms_of_sound_is_held_back(tmp_path):
    for num_writes in (1, 2, 3):
        _, pieces, _ = live(num_writes)
        (tmp_path / "live.mp4").write_bytes(b"".join(pieces))
        info = probe_video(tmp_path / "live.mp4")
        assert info.frames == 28 * num_writes
        assert 0 <= info.duration - info.audio_duration < 0.065


def test_every_fragment_stands_alone(tmp_path):
    writer, pieces, _ = live(4)
    assert pieces[0] == writer.init_segment
    for index in range(1, 5):
        path = tmp_path / "late.mp4"
        path.write_bytes(writer.init_segment + pieces[index])
        info = probe_video(path)
        assert info.frames == 28 and info.start == Fraction(28 * (index - 1), 25)
        assert abs(float(next(read_frames(path)).mean()) - 20 - 40 * (index - 1)) < 3


def test_the_boxes_are_in_order_and_the_offsets_point_at_the_data():
    writer, pieces, _ = live(2, frames_each=3)
    assert [name for name, _ in top_boxes(pieces[0])] == ["ftyp", "moov"]
    assert [name for name, _ in top_boxes(dict(top_boxes(pieces[0]))["moov"])] == ["mvhd", "trak", "trak", "mvex"]
    for number, piece in enumerate(pieces[1:], start=1):
        (moof_name, moof), (mdat_name, mdat) = top_boxes(piece)
        assert (moof_name, mdat_name) == ("moof", "mdat")
        assert struct.unpack(">4xI", dict(top_boxes(moof))["mfhd"]) == (number,)
        expected = len(moof) + 16
        for name, traf in top_boxes(moof)[1:]:
            trun = dict(top_boxes(traf))["trun"]
            flags, count, offset = struct.unpack_from(">III", trun)
            width = 2 if flags & 0x400 else 1
            values = struct.unpack_from(f">{count * width}I", trun, 12)
            assert name == "traf" and offset == expected
            expected += sum(values[::width])
        assert expected == len(piece) == len(moof) + len(mdat) + 16


def test_the_mime_type_names_the_real_profile_and_level():
    writer, pieces, _ = live(1)
    at = pieces[0].index(b"avcC") + 4
    assert writer.mime_type == f'video/mp4; codecs="avc1.{pieces[0][at + 1 : at + 4].hex()}, mp4a.40.2"'
    big = FragmentWriter(lambda piece: None, width=1280, height=720)
    assert int(big.mime_type.split("avc1.")[1][4:6], 16) == 31


def test_start_codes_become_lengths():
    units = [b"\x67\x64\x00\x0a", b"\x68\xee", b"\x65" + bytes(range(1, 40))]
    stream = b"\0\0\0\1" + units[0] + b"\0\0\0\1" + units[1] + b"\0\0\1" + units[2]
    assert split_nals(stream) == units
    assert length_prefixed(stream) == b"".join(struct.pack(">I", len(unit)) + unit for unit in units)


def test_live_input_that_does_not_fit_is_refused():
    writer = FragmentWriter(lambda piece: None, width=W, height=H)
    with pytest.raises(ValueError, match=r"28 frames with sound of shape \(17919,\); give .* \(17920,\)"):
        writer.write(gray([0] * 28), np.zeros(17919, np.float32))
    with pytest.raises(ValueError, match="one frame or more"):
        writer.write(gray([]), np.zeros(0, np.float32))
    with pytest.raises(ValueError, match="NaN"):
        writer.write(gray([0]), np.full(640, np.nan, np.float32))
    assert writer.num_frames == 0


def test_an_error_of_the_sink_reaches_the_caller():
    def gone(piece):
        raise ConnectionResetError("the viewer left")

    with pytest.raises(ConnectionResetError, match="viewer left"):
        FragmentWriter(gone, width=W, height=H)
