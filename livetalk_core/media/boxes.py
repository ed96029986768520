"""The boxes of a fragmented MP4 with one H.264 and one AAC track (ISO/IEC 14496-12, -14 and -15). Sizes and times are integers."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

VIDEO_ID, AUDIO_ID = 1, 2
KEY_FRAME, OTHER_FRAME = 0x02000000, 0x01010000
"""Sample flags: depends on no other; depends on others and is no sync sample."""
UNITY_MATRIX = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)


@dataclass(frozen=True, kw_only=True)
class VideoTrack:
    width: int
    height: int
    timescale: int
    frame_ticks: int
    sps: bytes
    """Sequence parameter set without start code; bytes 1..3 are profile, constraints, level."""
    pps: bytes


@dataclass(frozen=True, kw_only=True)
class AudioTrack:
    rate: int
    bit_rate: int
    config: bytes
    """AudioSpecificConfig."""
    priming: int
    """Samples before the first one that is to be heard."""
    frame_samples: int = 1024


@dataclass(frozen=True, kw_only=True)
class Run:
    """One track's samples in a fragment, in order."""

    track_id: int
    time: int
    """Decode time of the first, in the track's timescale."""
    samples: Sequence[bytes]
    flags: Sequence[int] | None = None
    """Per sample; None: the track's default."""


def init_segment(video: VideoTrack, audio: AudioTrack) -> bytes:
    """ftyp and moov: what a player needs before any fragment."""
    ftyp = box("ftyp", b"iso6", u32(512), b"iso6mp41avc1")
    mvhd = full_box("mvhd", 0, u32(0, 0, 1000, 0, 0x10000), u16(0x0100, 0), u32(0, 0), UNITY_MATRIX, bytes(24), u32(AUDIO_ID + 1))
    defaults = [
        full_box("trex", 0, u32(VIDEO_ID, 1, video.frame_ticks, 0, OTHER_FRAME)),
        full_box("trex", 0, u32(AUDIO_ID, 1, audio.frame_samples, 0, KEY_FRAME)),
    ]
    return ftyp + box("moov", mvhd, video_trak(video), audio_trak(audio), box("mvex", *defaults))


def fragment(sequence: int, runs: Sequence[Run]) -> bytes:
    """moof and mdat; the runs' bytes follow each other in mdat."""
    header_size = len(moof(sequence, runs, 0))
    return moof(sequence, runs, header_size + 8) + box("mdat", *(sample for run in runs for sample in run.samples))


def moof(sequence: int, runs: Sequence[Run], data_offset: int) -> bytes:
    trafs = []
    for run in runs:
        trafs.append(traf(run, data_offset))
        data_offset += sum(map(len, run.samples))
    return box("moof", full_box("mfhd", 0, u32(sequence)), *trafs)


def traf(run: Run, data_offset: int) -> bytes:
    """Offsets count from the start of the moof (flag default-base-is-moof)."""
    tfhd = full_box("tfhd", 0x020000, u32(run.track_id))
    tfdt = full_box("tfdt", 0, struct.pack(">Q", run.time), version=1)
    sizes = [len(sample) for sample in run.samples]
    if run.flags is None:
        trun = full_box("trun", 0x201, u32(len(sizes), data_offset, *sizes))
    else:
        pairs = [value for pair in zip(sizes, run.flags, strict=True) for value in pair]
        trun = full_box("trun", 0x601, u32(len(sizes), data_offset, *pairs))
    return box("traf", tfhd, tfdt, trun)


def video_trak(track: VideoTrack) -> bytes:
    color = box("colr", b"nclx", u16(1, 1, 1), bytes(1))
    size = u16(track.width, track.height)
    name = bytes(32)
    entry = box("avc1", bytes(6), u16(1), bytes(16), size, u32(0x480000, 0x480000, 0), u16(1), name, u16(24, 0xFFFF), avcc(track), color)
    media = media_box(track.timescale, b"vide", full_box("vmhd", 1, bytes(8)), entry)
    return box("trak", track_header(VIDEO_ID, 0, track.width, track.height), media)


def audio_trak(track: AudioTrack) -> bytes:
    entry = box("mp4a", bytes(6), u16(1), bytes(8), u16(1, 16), u32(0), u32(track.rate << 16), esds(track))
    edit = box("edts", full_box("elst", 0, u32(1, 0, track.priming, 0x10000)))
    media = media_box(track.rate, b"soun", full_box("smhd", 0, bytes(4)), entry)
    return box("trak", track_header(AUDIO_ID, 0x0100, 0, 0), edit, media)


def track_header(track_id: int, volume: int, width: int, height: int) -> bytes:
    size = u32(width << 16, height << 16)
    return full_box("tkhd", 7, u32(0, 0, track_id, 0, 0), bytes(8), u16(0, 0, volume, 0), UNITY_MATRIX, size)


def media_box(timescale: int, handler: bytes, header: bytes, entry: bytes) -> bytes:
    """mdia with an empty sample table: in a fragmented file the samples are in the fragments."""
    undetermined_language = 0x55C4
    mdhd = full_box("mdhd", 0, u32(0, 0, timescale, 0), u16(undetermined_language, 0))
    hdlr = full_box("hdlr", 0, u32(0), handler, bytes(12), b"\0")
    dinf = box("dinf", full_box("dref", 0, u32(1), full_box("url ", 1)))
    empty = [full_box(name, 0, u32(0)) for name in ("stts", "stsc", "stco")]
    stbl = box("stbl", full_box("stsd", 0, u32(1), entry), *empty, full_box("stsz", 0, u32(0, 0)))
    return box("mdia", mdhd, hdlr, box("minf", header, dinf, stbl))


def avcc(track: VideoTrack) -> bytes:
    """Decoder configuration with four-byte NAL lengths; High profile and above name 4:2:0 and 8 bits."""
    high = bytes([0xFC | 1, 0xF8, 0xF8, 0]) if track.sps[1] in (100, 110, 122, 144) else b""
    head = bytes([1]) + track.sps[1:4] + bytes([0xFC | 3, 0xE0 | 1])
    return box("avcC", head, u16(len(track.sps)), track.sps, bytes([1]), u16(len(track.pps)), track.pps, high)


def esds(track: AudioTrack) -> bytes:
    """Elementary stream descriptor: object type 0x40 (MPEG-4 audio), stream type 5."""
    decoder = descriptor(4, bytes([0x40, 5 << 2 | 1]), bytes(3), u32(track.bit_rate, track.bit_rate), descriptor(5, track.config))
    return full_box("esds", 0, descriptor(3, u16(AUDIO_ID), bytes(1), decoder, descriptor(6, bytes([2]))))


def descriptor(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    assert len(body) < 128, "one length byte is written"
    return bytes([tag, len(body)]) + body


def box(name: str, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), name.encode()) + body


def full_box(name: str, flags: int, *parts: bytes, version: int = 0) -> bytes:
    return box(name, u32(version << 24 | flags), *parts)


def u16(*values: int) -> bytes:
    return struct.pack(f">{len(values)}H", *values)


def u32(*values: int) -> bytes:
    return struct.pack(f">{len(values)}I", *values)
