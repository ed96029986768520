"""A file's sound, piece by piece, each at the time that the file's own time stamps say. Axes: C channels, N samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition

from livetalk_core.media.source import open_media
from livetalk_core.media.whole import SLACK_S, Torn, check_chunks, check_whole, check_whole_mp4, check_whole_w64, check_whole_wav

HOLE_S = Fraction(1, 100)
"""Time stamps that are further ahead than this leave a hole; less is rounding."""
LONGEST_HOLE_S = 3600
RESTART_S = 10
"""In formats whose clock may start anew (MPEG-TS), a longer jump is that."""
CLOCK_MAY_RESTART = 0x200
"""FFmpeg's AVFMT_TS_DISCONT."""
LOST_S = 0.1
"""Packets at the end that do not decode are junk up to this, lost sound beyond."""
NO_INDEX = ("mp3", "aac", "ac3", "eac3", "dts")
"""Formats that are packets and nothing else, in which junk after the last one looks like more."""
NO_HOLES = (*NO_INDEX, "flac", "wav", "aiff", "caf", "au", "w64")
"""Formats in which every packet follows the one before, so a hole is a loss."""


@dataclass(frozen=True, kw_only=True)
class Sound:
    """A decoded piece of a file, as it is in the file."""

    samples_CN: np.ndarray
    """float32, full scale is [-1, 1]."""
    sample_rate: int
    layout: str
    """Order and meaning of the channels, in FFmpeg's words: "mono", "5.1(side)"."""


def decode(path: str | Path, track: int | None = None, notes: list[str] | None = None) -> Iterator[Sound]:
    """One sound track at its own rate and channels, with silence where its time stamps have none: before it and within.

    `track` counts the file's sound tracks from 1; None takes the one that FFmpeg would. What was done is added to `notes`.
    Raises FileNotFoundError or ValueError, in one line, as it is met: see `probe_audio`.
    """
    path, notes = Path(path), [] if notes is None else notes
    with open_media(path, "sound file") as container:
        stream = choose_track(path, container, track, notes)
        check_chunks(path)
        check_whole_wav(path)
        check_whole_w64(path)
        check_whole_mp4(path)
        timeline = Timeline(path, container, stream, notes)
        for packet in packets_of(timeline):
            yield from timeline.add(packet)
        timeline.check_end()
        yield from timeline.silence_at_end()
        check_whole(path, container, stream, timeline.num_samples, timeline.num_packets)
    if timeline.num_samples == 0:
        raise ValueError(f"{path}: holds no sound samples (0 s); give a file with at least one")
    timeline.tell()


def choose_track(path: Path, container: InputContainer, track: int | None, notes: list[str]) -> AudioStream:
    """The track asked for, or FFmpeg's choice: of several, the default one. ValueError, with a list, for one that is not there."""
    tracks = container.streams.audio
    if not tracks:
        raise ValueError(f"{path}: has no sound in it; give a file with an audio stream")
    names = ", ".join(f"{number}: {describe(stream)}" for number, stream in enumerate(tracks, 1))
    if track is not None:
        if not 1 <= track <= len(tracks):
            raise ValueError(f"{path}: audio track {track} is not there; it has {names}")
        return tracks[track - 1]
    chosen = container.streams.best("audio") or tracks[0]
    if len(tracks) > 1:
        notes.append(f"sound track {tracks.index(chosen) + 1} was taken of {names}; --audio-track N takes another")
    return chosen


def describe(stream: AudioStream) -> str:
    """aac, 2 channels, eng, default."""
    language = stream.language if stream.language not in (None, "und") else None
    default = "default" if stream.disposition & Disposition.default else None
    parts = (stream.codec_context.name, f"{stream.codec_context.channels} channel(s)", language, stream.metadata.get("title"), default)
    return " ".join(part for part in parts if part)


@dataclass(frozen=True, kw_only=True)
class Packet:
    """What a packet came to: frames, or the reason why it has none."""

    frames: list[AudioFrame]
    num_bytes: int
    duration: Fraction
    error: str | None


def packets_of(timeline: Timeline) -> Iterator[Packet]:
    """Every packet of the track, also those that do not decode."""
    container, stream = timeline.container, timeline.stream
    try:
        for packet in container.demux(stream):
            duration = Fraction(packet.duration or 0) * (packet.time_base or 0)
            try:
                frames, error = packet.decode(), None
            except av.error.FFmpegError as failure:
                frames, error = [], failure.strerror
            yield Packet(frames=frames, num_bytes=packet.size, duration=duration, error=error)
    except av.error.FFmpegError as failure:
        yield Packet(frames=[], num_bytes=0, duration=Fraction(0), error=failure.strerror)


class Timeline:
    """Where the next sample lies, counted from the file's beginning, and what was amiss on the way there."""

    def __init__(self, path: Path, container: InputContainer, stream: AudioStream, notes: list[str]) -> None:
        self.path, self.container, self.stream, self.notes = path, container, stream, notes
        self.kind = container.format.name
        self.start = start_of(container)
        self.rate: int | None = None
        self.num_samples = self.num_packets = self.num_filled = self.num_holes = 0
        self.first_hole_s = 0.0
        self.clock_ahead = Fraction(0)
        self.last: Sound | None = None
        self.bad: list[Packet] = []
        self.torn = Torn(path, self.kind)
        self.packers: dict[tuple[str, int], av.AudioResampler] = {}

    @property
    def time_s(self) -> float:
        return self.num_samples / self.rate if self.rate else 0.0

    def add(self, packet: Packet) -> Iterator[Sound]:
        """A packet's sound, after the silence that its time stamp leaves before it. ValueError for a loss."""
        if packet.error is not None:
            self.bad.append(packet)
            return
        if packet.num_bytes or packet.frames:
            self.num_packets += 1
        for frame in packet.frames:
            for sound in unpack(frame, self.packers):
                self.rate = self.rate or sound.sample_rate
                check_piece(self.path, sound, self.rate, self.num_samples)
                yield from self.silence_before(frame, sound)
                self.bad = []
                self.num_samples += sound.samples_CN.shape[1]
                yield sound

    def silence_before(self, frame: AudioFrame, sound: Sound) -> Iterator[Sound]:
        """Silence up to the frame's own time."""
        self.last = sound
        yield from self.silence(self.hole_before(frame))

    def silence_at_end(self) -> Iterator[Sound]:
        """An Ogg file's last page says where its sound ends; packets that are missing in that page are only seen there."""
        if self.kind == "ogg" and self.stream.duration is not None and self.last is not None and not self.torn.pages:
            missing = round(self.stream.duration * self.stream.time_base * self.rate) - self.num_samples
            yield from self.silence(missing if missing > SLACK_S["ogg"] * self.rate else 0)

    def silence(self, hole: int) -> Iterator[Sound]:
        """So many samples, in pieces of a second at most."""
        if hole:
            self.note_hole(hole)
        while hole:
            length = min(hole, self.rate)
            hole -= length
            self.num_samples += length
            silence_CN = np.zeros((self.last.samples_CN.shape[0], length), np.float32)
            yield Sound(samples_CN=silence_CN, sample_rate=self.rate, layout=self.last.layout)

    def hole_before(self, frame: AudioFrame) -> int:
        """Samples missing before a frame, by its time stamp. ValueError if they are a loss."""
        if frame.pts is None:
            self.check_loss(Fraction(0))
            return 0
        time = frame.pts * frame.time_base - self.start - self.clock_ahead
        hole_s = time - Fraction(self.num_samples, self.rate)
        if self.container.format.flags & CLOCK_MAY_RESTART and abs(hole_s) > RESTART_S and self.num_samples:
            self.clock_ahead += hole_s
            hole_s = Fraction(0)
        self.check_loss(hole_s)
        if hole_s > LONGEST_HOLE_S:
            raise ValueError(f"{self.path}: its time stamps jump by {float(hole_s):.0f} s at {self.time_s:.2f} s; re-export the file")
        smallest = HOLE_S if self.num_samples else 0
        return round(hole_s * self.rate) if hole_s > smallest else 0

    def check_loss(self, hole_s: Fraction) -> None:
        """ValueError if sound before this point was there and cannot be had. Broken packets before the first sound are none."""
        missing = max(hole_s, sum((packet.duration for packet in self.bad), Fraction(0)))
        if not self.num_samples:
            return
        reason = self.bad[0].error if self.bad else "data are missing"
        damaged = hole_s > HOLE_S and (self.kind in NO_HOLES or self.torn.pages)
        if (damaged or self.bad) and not self.is_junk():
            raise ValueError(
                f"{self.path}: decoding stopped at {self.time_s:.2f} s: {float(missing):.2f} s of sound are lost there ({reason}); "
                "re-export the file"
            )

    def is_junk(self) -> bool:
        """Whether packets that do not decode are more than the file's header promises: tags between songs joined into one MP3."""
        return self.torn.promised_packets is not None and self.num_packets >= self.torn.promised_packets

    def check_end(self) -> None:
        """Junk after the last packet is left out and told; packets of a container's index that do not decode are lost sound."""
        if not self.bad:
            return
        lost_s = float(sum((packet.duration for packet in self.bad), Fraction(0)))
        if self.num_samples == 0 or (self.kind not in NO_INDEX and lost_s > LOST_S):
            at = f"decoding stopped at {self.time_s:.2f} s"
            raise ValueError(f"{self.path}: {at}: {lost_s:.2f} s of sound after it are lost ({self.bad[0].error}); re-export the file")
        num_bytes = sum(packet.num_bytes for packet in self.bad)
        self.notes.append(f"{num_bytes} bytes after the last sound are no sound and were left out")

    def note_hole(self, num_samples: int) -> None:
        if self.num_samples == 0:
            if num_samples >= self.rate / 25:
                self.notes.append(f"the sound starts at {num_samples / self.rate:.2f} s; silence was put before it")
            return
        self.first_hole_s = self.first_hole_s or self.time_s
        self.num_filled += num_samples
        self.num_holes += 1

    def tell(self) -> None:
        """One line for all holes."""
        if self.num_holes:
            places = "1 place" if self.num_holes == 1 else f"{self.num_holes} places, the first"
            seconds = self.num_filled / self.rate
            self.notes.append(f"{seconds:.2f} s without sound packets in {places} at {self.first_hole_s:.2f} s became silence")


def start_of(container: InputContainer) -> Fraction:
    """Seconds on the file's clock at which the first of its pictures and sounds starts; covers do not count."""
    moving = [s for s in (*container.streams.video, *container.streams.audio) if not s.disposition & Disposition.attached_pic]
    starts = [stream.start_time * stream.time_base for stream in moving if stream.start_time is not None]
    return min(starts, default=Fraction(0))


def unpack(frame: AudioFrame, packers: dict[tuple[str, int], av.AudioResampler]) -> Iterator[Sound]:
    """A decoded frame as interleaved floats first: reading eight or more separate planes is not safe in PyAV."""
    packer = packers.setdefault((frame.layout.name, frame.sample_rate), av.AudioResampler(format="flt"))
    for piece in packer.resample(frame):
        samples_CN = piece.to_ndarray().reshape(-1, piece.layout.nb_channels).T
        yield Sound(samples_CN=samples_CN, sample_rate=piece.sample_rate, layout=piece.layout.name)


def check_piece(path: Path, sound: Sound, rate: int, num_before: int) -> None:
    if sound.sample_rate != rate:
        at_s = num_before / rate
        raise ValueError(
            f"{path}: the sample rate changes from {rate} to {sound.sample_rate} Hz at {at_s:.2f} s; re-export the file at one rate"
        )
    finite_N = np.isfinite(sound.samples_CN).all(axis=0)
    if not finite_N.all():
        at_s = (num_before + int(np.argmin(finite_N))) / rate
        raise ValueError(f"{path}: has NaN or infinity at {at_s:.3f} s; re-export the file")
