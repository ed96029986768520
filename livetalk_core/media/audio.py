"""Anything that sounds -> mono float32 at one rate, of a length known in advance.

A sound of S samples at rate R becomes exactly ceil(S * rate / R) samples, sample n at time n / rate. Axes: C channels, N samples.
"""

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

from livetalk_core.media.source import open_media
from livetalk_core.media.whole import check_whole, check_whole_mp4, check_whole_wav

MAX_CHANNELS = 64


@dataclass(frozen=True, kw_only=True)
class AudioInfo:
    """What a whole decode of a sound file found."""

    path: Path
    duration: Fraction
    """Seconds: decoded samples / sample_rate, exactly."""
    sample_rate: int
    channels: int
    codec: str


@dataclass(frozen=True, kw_only=True)
class Sound:
    """A decoded piece of a file, as it is in the file."""

    samples_CN: np.ndarray
    """float32, full scale is [-1, 1]."""
    sample_rate: int
    layout: str
    """Order and meaning of the channels, in FFmpeg's words: "mono", "5.1(side)"."""


def probe_audio(path: str | Path) -> AudioInfo:
    """Decode the first audio stream once, in constant memory, and say what is in it.

    Raises FileNotFoundError or ValueError, in one line, for a file that is missing, a folder, empty, not media, without sound,
    cut short, broken in the middle, or that holds NaN or infinity.
    """
    num_samples, first = 0, None
    for sound in decode(path):
        first = first or sound
        num_samples += sound.samples_CN.shape[1]
    assert first is not None, "decode yields or raises"
    with open_media(path, "sound file") as container:
        codec = container.streams.audio[0].codec_context.name
    return AudioInfo(
        path=Path(path),
        duration=Fraction(num_samples, first.sample_rate),
        sample_rate=first.sample_rate,
        channels=first.samples_CN.shape[0],
        codec=codec,
    )


def read_audio(path: str | Path, rate: int = 16000) -> Iterator[np.ndarray]:
    """Mono float32 blocks [N] of about a second at `rate`; ceil(duration * rate) samples in all. Errors as in `probe_audio`."""
    resampler, ready = None, []
    for sound in decode(path):
        resampler = resampler or LiveResampler(sound.sample_rate, rate)
        ready.append(resampler.push(sound.samples_CN))
        if sum(map(len, ready)) >= rate:
            yield np.concatenate(ready)
            ready = []
    assert resampler is not None, "decode yields or raises"
    yield np.concatenate([*ready, resampler.flush()])


def to_mono(waveform: np.ndarray, sample_rate: int, rate: int = 16000) -> np.ndarray:
    """[C, N] or [N], float in [-1, 1] or integers at full scale -> mean of the channels, float32 [ceil(N * rate / sample_rate)].

    Raises ValueError for other shapes, no samples, NaN or infinity.
    """
    resampler = LiveResampler(sample_rate, rate)
    mono = resampler.push(waveform)
    if resampler.num_in == 0:
        raise ValueError(f"waveform of shape {np.shape(waveform)} has no samples; give at least one")
    return np.concatenate([mono, resampler.flush()])


class LiveResampler:
    """`to_mono` for sound that is still growing: what `push` and `flush` return, joined, equals `to_mono` of the whole.

    Until `flush` the output trails the input by the filter's reach: 1 to 2 ms at 16 kHz, nothing if the rates are equal.
    """

    def __init__(self, sample_rate: int, rate: int = 16000) -> None:
        for name, value in (("sample_rate", sample_rate), ("rate", rate)):
            if value != int(value) or not 1000 <= value <= 1_000_000:
                raise ValueError(f"{name}={value} must be a whole number of Hz, 1000 to 1000000; usual values are 16000, 44100 and 48000")
        self.sample_rate = int(sample_rate)
        self.rate = int(rate)
        self.num_in = 0
        self.num_out = 0
        self._filter = av.AudioResampler(format="flt", layout="mono", rate=self.rate)

    def push(self, block: np.ndarray) -> np.ndarray:
        """[C, N] or [N] at `sample_rate` -> the mono float32 samples at `rate` that are certain by now."""
        mono_N = as_channels(block).mean(axis=0, dtype=np.float32)
        if not np.isfinite(mono_N).all():
            at = self.num_in + int(np.argmin(np.isfinite(mono_N)))
            raise ValueError(f"waveform has NaN or infinity at {at / self.sample_rate:.3f} s; every sample must be a finite number")
        self.num_in += len(mono_N)
        out_N = self._run(mono_N)
        self.num_out += len(out_N)
        return out_N

    def flush(self) -> np.ndarray:
        """The rest, as if silence followed. Nothing may be pushed afterwards."""
        num_left = -(-self.num_in * self.rate // self.sample_rate) - self.num_out
        tail = self._run(np.zeros(self.sample_rate // 10, np.float32))[:num_left]
        assert len(tail) == num_left, f"{len(tail)} samples after the end, {num_left} wanted"
        self.num_out += num_left
        return tail

    def _run(self, mono_N: np.ndarray) -> np.ndarray:
        if len(mono_N) == 0:
            return mono_N
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(mono_N[None]), format="flt", layout="mono")
        frame.sample_rate = self.sample_rate
        pieces = [piece.to_ndarray()[0] for piece in self._filter.resample(frame)]
        return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)


def decode(path: str | Path) -> Iterator[Sound]:
    """The first audio stream, packet by packet, at its own rate and channels. Errors as in `probe_audio`, as they are met."""
    path = Path(path)
    with open_media(path, "sound file") as container:
        if not container.streams.audio:
            raise ValueError(f"{path}: has no sound in it; give a file with an audio stream")
        check_whole_wav(path)
        check_whole_mp4(path)
        stream = container.streams.audio[0]
        num_samples, num_packets, rate = 0, 0, None
        for frames in decode_packets(path, container, stream):
            num_packets += 1
            for sound in frames:
                rate = rate or sound.sample_rate
                check_piece(path, sound, rate, num_samples)
                num_samples += sound.samples_CN.shape[1]
                yield sound
        check_whole(path, container, stream, num_samples, num_packets)
    if num_samples == 0:
        raise ValueError(f"{path}: holds no sound samples (0 s); give a file with at least one")


def decode_packets(path: Path, container: InputContainer, stream: AudioStream) -> Iterator[list[Sound]]:
    """Per packet with bytes in it, what it decodes to; the decoder's last frames come as one more item only if there are any."""
    packers: dict[tuple[str, int], av.AudioResampler] = {}
    time_s = 0.0
    try:
        for packet in container.demux(stream):
            frames = packet.decode()
            time_s += sum(frame.samples / frame.sample_rate for frame in frames)
            if packet.size or frames:
                yield [sound for frame in frames for sound in unpack(frame, packers)]
    except av.error.FFmpegError as error:
        raise ValueError(f"{path}: decoding stopped at {time_s:.2f} s ({error.strerror}); re-export the file") from error


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


def as_channels(waveform: np.ndarray) -> np.ndarray:
    """[C, N] or [N], integers or floats -> [C, N] float32, integers scaled from full scale to [-1, 1]."""
    array = np.asarray(waveform)
    array = array[None] if array.ndim == 1 else array
    if array.ndim != 2 or not 1 <= array.shape[0] <= MAX_CHANNELS:
        raise ValueError(
            f"waveform of shape {np.shape(waveform)} must be [samples] or [channels, samples] of up to {MAX_CHANNELS} channels"
        )
    if array.dtype.kind == "f":
        return array.astype(np.float32, copy=False)
    if array.dtype == np.uint8:
        return (array.astype(np.float32) - 128) / 128
    if array.dtype.kind == "i":
        return (array / -float(np.iinfo(array.dtype).min)).astype(np.float32)
    raise ValueError(f"waveform of type {array.dtype} must hold floats in [-1, 1], signed integers or uint8")
