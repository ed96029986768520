"""Is a sound file all there? What its header promises, held against what is in it."""

from __future__ import annotations

import functools
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import av
from av.audio.stream import AudioStream
from av.container import InputContainer

LENGTH_UNKNOWN = (0, *range(0x7FFFF000, 0x80000000), 0xFFFFFFFF)
"""Data sizes that programs write into a WAV header when the output is a pipe."""

SOUND_CHUNKS = {b"WAVE": b"data", b"AIFF": b"SSND", b"AIFC": b"SSND"}
"""The chunk that holds the sound, by the kind of file."""

SLACK_S = {"flac": 0.001, "au": 0.001, "aiff": 0.001, "ogg": 0.1}
"""Formats that count their samples. Ogg also counts those that Opus drops at its start."""
COUNTED = ("caf", "avi")
"""Formats whose header counts the samples of PCM sound."""
MATROSKA_SLACK_S = 0.1
"""Matroska's duration includes what a decoder drops at the start."""

MP3_SIDE_INFO = {(True, False): 32, (True, True): 17, (False, False): 17, (False, True): 9}
"""Bytes between the frame header and a Xing tag, by (MPEG-1, mono)."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """What an Ogg page's header says (RFC 3533)."""

    size: int
    good: bool
    """Whether its checksum fits."""


class Torn:
    """What only some formats tell of damage, looked up when it is asked for."""

    def __init__(self, path: Path, kind: str) -> None:
        self.path, self.kind = path, kind

    @functools.cached_property
    def promised_packets(self) -> int | None:
        """Packets that an MP3's header promises; None if it promises nothing."""
        return promised_mp3_frames(self.path) if self.kind == "mp3" else None

    @functools.cached_property
    def pages(self) -> bool:
        """Whether an Ogg file's pages do not follow each other unharmed to the last one."""
        return self.kind == "ogg" and not all(page.good for page in ogg_pages(self.path))


def ogg_pages(path: Path) -> Iterator[Page]:
    """The pages of an Ogg file; bytes between two that are none count as a page that is not good, those after the last one do not."""
    data, at = path.read_bytes(), 0
    while (found := data.find(b"OggS", at)) >= 0:
        if found > at:
            yield Page(size=found - at, good=False)
        page = ogg_page(data, found)
        yield page
        at = found + page.size


def ogg_page(data: bytes, at: int) -> Page:
    header = data[at : at + 27]
    if len(header) < 27:
        return Page(size=len(header), good=False)
    segments = data[at + 27 : at + 27 + header[26]]
    size = 27 + len(segments) + sum(segments)
    whole = data[at : at + size]
    promised = int.from_bytes(header[22:26], "little")
    good = len(whole) == size and ogg_checksum(whole[:22] + bytes(4) + whole[26:]) == promised
    return Page(size=size if good else 4, good=good)


def ogg_checksum(data: bytes) -> int:
    """CRC-32 of Ogg: zlib's, with the bits of each byte and of the result in the other order, and nothing inverted."""
    mirrored = zlib.crc32(data.translate(MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)


MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def check_whole_wav(path: Path) -> None:
    """ValueError if a WAV's data chunk reaches past the end of the file; other files pass."""
    with path.open("rb") as file:
        if file.read(12)[::8] != b"RW":
            return
        byte_rate = 0
        for name, size in chunks_of(file, "<"):
            if name == b"data":
                held = path.stat().st_size - file.tell()
                if size not in LENGTH_UNKNOWN and size > held:
                    refuse_short(path, size / max(byte_rate, 1), held / max(byte_rate, 1))
                return
            if name == b"fmt ":
                byte_rate = struct.unpack("<8xI", file.read(12).ljust(12, b"\0"))[0]


def check_whole_w64(path: Path) -> None:
    """ValueError if a Wave64's data chunk reaches past the end of the file; other files pass."""
    end, at = path.stat().st_size, 40
    with path.open("rb") as file:
        if file.read(4) != b"riff":
            return
        byte_rate = 0
        while at + 24 <= end:
            file.seek(at)
            name, size = struct.unpack("<4s12xQ", file.read(24))
            if name == b"fmt ":
                byte_rate = struct.unpack("<8xI", file.read(12).ljust(12, b"\0"))[0]
            if name == b"data":
                held = end - at - 24
                if size - 24 > held:
                    refuse_short(path, (size - 24) / max(byte_rate, 1), held / max(byte_rate, 1))
                return
            at += max(24, size + -size % 8)


def check_whole_mp4(path: Path) -> None:
    """ValueError if a box of an MP4, M4A or MOV reaches past the end of the file; other files pass."""
    end, at = path.stat().st_size, 0
    with path.open("rb") as file:
        if file.read(8)[4:] != b"ftyp":
            return
        while at + 8 <= end:
            file.seek(at)
            size, long_size = struct.unpack(">I4xQ", file.read(16).ljust(16, b"\0"))
            size = long_size if size == 1 else size or end - at
            at += max(size, 8)
    if at > end:
        raise ValueError(f"{path}: cut short: its header promises {at} bytes, the file has {end}; copy or export the file again")


def check_chunks(path: Path) -> None:
    """ValueError if a chunk before the sound of a WAV or AIFF reaches past the end of the file; other files pass."""
    total = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(12)
        order = {b"RIFF": "<", b"RF64": "<", b"RIFX": ">", b"FORM": ">"}.get(start[:4]) if start[8:] in SOUND_CHUNKS else None
        for name, size in chunks_of(file, order) if order else ():
            if name == SOUND_CHUNKS[start[8:]]:
                return
            if size > total - file.tell():
                raise ValueError(
                    f"{path}: the {ascii(name)[2:-1].strip()} chunk before its sound is to have {size} bytes, but the file has {total}, so "
                    "the sound is not found; export it again, without extras such as artwork or markers"
                )


def chunks_of(file: BinaryIO, order: str) -> Iterator[tuple[bytes, int]]:
    """Name and size of each chunk of a WAV or AIFF whose bytes are in this order. The file stands at its content meanwhile."""
    while len(header := file.read(8)) == 8:
        name, size = struct.unpack(f"{order}4sI", header)
        content = file.tell()
        yield name, size
        file.seek(content + size + size % 2)


def check_whole(path: Path, container: InputContainer, stream: AudioStream, num_samples: int, num_packets: int) -> None:
    """ValueError if a decode to the end gave less than the file's header or index promised."""
    rate = stream.codec_context.sample_rate
    kind = container.format.name
    if kind == "mp3" and (frames := promised_mp3_frames(path)) is not None and frames > num_packets + 1:
        samples = 1152 if rate >= 32000 else 576
        refuse_short(path, frames * samples / rate, num_packets * samples / rate)
    if kind in SLACK_S and stream.duration is not None:
        refuse_if_short(path, float(stream.duration * stream.time_base), num_samples / rate, SLACK_S[kind])
    if kind in COUNTED and stream.codec_context.name.startswith("pcm_"):
        refuse_if_short(path, stream.frames / rate, num_samples / rate, 0.001)
    if kind == "matroska,webm" and (promised := promised_by_matroska(container, stream)) is not None:
        refuse_if_short(path, promised, num_samples / rate, MATROSKA_SLACK_S)


def promised_by_matroska(container: InputContainer, stream: AudioStream) -> float | None:
    """Seconds of a Matroska sound track: its own tag, or the file's duration if the track is alone. None if neither is there."""
    tag = stream.metadata.get("DURATION", "").split(":")
    if len(tag) == 3:
        return sum(float(part) * unit for part, unit in zip(tag, (3600, 60, 1), strict=True))
    return container.duration / av.time_base if len(container.streams) == 1 and container.duration else None


def promised_mp3_frames(path: Path) -> int | None:
    """Frames that the Xing, Info or VBRI tag in an MP3's first frame counts; None if there is no such tag."""
    with path.open("rb") as file:
        head = file.read(10)
        skip = 0
        if head[:3] == b"ID3":
            skip = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
        file.seek(skip)
        head = file.read(8192)
    at = next((i for i in range(len(head) - 1) if head[i] == 0xFF and head[i + 1] & 0xE0 == 0xE0), None)
    if at is None or len(head) < at + 64:
        return None
    mpeg1, mono = head[at + 1] & 0x18 == 0x18, head[at + 3] & 0xC0 == 0xC0
    xing = at + 4 + MP3_SIDE_INFO[mpeg1, mono]
    if head[xing : xing + 4] in (b"Xing", b"Info") and head[xing + 7] & 1:
        return struct.unpack_from(">I", head, xing + 8)[0]
    if head[at + 36 : at + 40] == b"VBRI":
        return struct.unpack_from(">I", head, at + 50)[0]
    return None


def refuse_if_short(path: Path, promised_s: float, held_s: float, slack_s: float) -> None:
    if promised_s > held_s + slack_s:
        refuse_short(path, promised_s, held_s)


def refuse_short(path: Path, promised_s: float, held_s: float) -> None:
    raise ValueError(
        f"{path}: cut short: its header promises {promised_s:.2f} s, the file holds {held_s:.2f} s; copy or export the file again"
    )
