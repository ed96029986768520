"""Anything that sounds -> mono float32 at one rate, of a length known in advance.

A sound of S samples at rate R becomes exactly ceil(S * rate / R) samples, sample n at time n / rate. Axes: C channels, N samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame

from livetalk_core.media.decode import Sound, choose_track, decode
from livetalk_core.media.downmix import Downmix
from livetalk_core.media.source import open_media

MAX_CHANNELS = 64


@dataclass(frozen=True, kw_only=True)
class AudioInfo:
    """What a whole decode of a sound file found."""

    path: Path
    track: int | None
    """As asked for; None is FFmpeg's choice."""
    duration: Fraction
    """Seconds: samples / sample_rate, exactly, silence that the time stamps leave included."""
    sample_rate: int
    channels: int
    codec: str
    notes: tuple[str, ...]
    """One sentence for each thing that was done to read it."""


def probe_audio(path: str | Path, track: int | None = None) -> AudioInfo:
    """Decode a sound track (from 1; None: FFmpeg's choice) once, in constant memory, and say what is in it.

    Raises FileNotFoundError or ValueError, in one line, for a file that is missing, a folder, empty, not media, without sound or that
    track, cut short, broken in the middle, or that holds NaN or infinity.
    """
    num_samples, first, notes = 0, None, []
    for sound in decode(path, track, notes):
        first = first or sound
        num_samples += sound.samples_CN.shape[1]
    assert first is not None, "decode yields or raises"
    with open_media(path, "sound file") as container:
        codec = choose_track(Path(path), container, track, []).codec_context.name
    return AudioInfo(
        path=Path(path),
        track=track,
        duration=Fraction(num_samples, first.sample_rate),
        sample_rate=first.sample_rate,
        channels=first.samples_CN.shape[0],
        codec=codec,
        notes=tuple(notes),
    )


def read_audio(path: str | Path, rate: int = 16000, track: int | None = None) -> Iterator[np.ndarray]:
    """Mono float32 blocks [N] of about a second at `rate`; ceil(duration * rate) samples in all. Errors as in `probe_audio`."""
    return (block_1N[0] for block_1N in resampled(path, rate, track, lambda sound: [(sound.samples_CN, sound.layout)]))


def read_sides(path: str | Path, rate: int = 16000, track: int | None = None) -> Iterator[np.ndarray]:
    """A stereo file's two channels as two sounds: blocks [2, N], otherwise as `read_audio`. ValueError for another number of channels."""

    def split(sound: Sound) -> list[tuple[np.ndarray, str]]:
        if len(sound.samples_CN) != 2:
            raise ValueError(
                f"{path}: has {len(sound.samples_CN)} channel(s); --split-channels needs 2, with a speaker on each: give two files instead"
            )
        return [(channel_N[None], "mono") for channel_N in sound.samples_CN]

    return resampled(path, rate, track, split)


def resampled(
    path: str | Path, rate: int, track: int | None, voices_of: Callable[[Sound], list[tuple[np.ndarray, str]]]
) -> Iterator[np.ndarray]:
    """Blocks [voices, N] at `rate` of about a second, of the voices ([C, N], layout) that each piece of the file holds."""
    resamplers: list[LiveResampler] = []
    ready: list[np.ndarray] = []
    for sound in decode(path, track):
        voices = voices_of(sound)
        resamplers = resamplers or [LiveResampler(sound.sample_rate, rate) for _ in voices]
        ready.append(np.stack([resampler.push(*voice) for resampler, voice in zip(resamplers, voices, strict=True)]))
        if sum(block.shape[1] for block in ready) >= rate:
            yield np.concatenate(ready, axis=1)
            ready = []
    assert resamplers, "decode yields or raises"
    yield np.concatenate([*ready, np.stack([resampler.flush() for resampler in resamplers])], axis=1)


def to_mono(waveform: np.ndarray, sample_rate: int, rate: int = 16000) -> np.ndarray:
    """[C, N] or [N], float in [-1, 1] or integers at full scale -> what a listener hears of it, float32 [ceil(N * rate / sample_rate)].

    Raises ValueError for other shapes, no samples, NaN or infinity.
    """
    resampler = LiveResampler(sample_rate, rate)
    mono = resampler.push(waveform)
    if resampler.num_in == 0:
        raise ValueError(f"waveform of shape {np.shape(waveform)} has no samples; give at least one")
    return np.concatenate([mono, resampler.flush()])


class LiveResampler:
    """`to_mono` for sound that is still growing: what `push` and `flush` return, joined, equals `to_mono` of the whole.

    Until `flush` the output trails the input by the filter's reach: 1 to 2 ms at 16 kHz, nothing if the rates are equal; where there is
    more than one channel, by another 20 ms at most.
    """

    def __init__(self, sample_rate: int, rate: int = 16000) -> None:
        for name, value in (("sample_rate", sample_rate), ("rate", rate)):
            if value != int(value) or not 1000 <= value <= 1_000_000:
                raise ValueError(f"{name}={value} must be a whole number of Hz, 1000 to 1000000; usual values are 16000, 44100 and 48000")
        self.sample_rate = int(sample_rate)
        self.rate = int(rate)
        self.num_in = 0
        self.num_out = 0
        self._mix = Downmix(self.sample_rate)
        self._filter = av.AudioResampler(format="flt", layout="mono", rate=self.rate)

    def push(self, block: np.ndarray, layout: str | None = None) -> np.ndarray:
        """[C, N] or [N] at `sample_rate` -> the mono float32 samples at `rate` that are certain by now.

        `layout`: order and meaning of the channels, in FFmpeg's words; None: the usual one for 2, 6 or 8, else all alike.
        """
        block_CN = as_channels(block)
        finite_N = np.isfinite(block_CN).all(axis=0)
        if not finite_N.all():
            at = self.num_in + int(np.argmin(finite_N))
            raise ValueError(f"waveform has NaN or infinity at {at / self.sample_rate:.3f} s; every sample must be a finite number")
        self.num_in += block_CN.shape[1]
        return self._count(self._run(self._mix.push(block_CN, layout)))

    def flush(self) -> np.ndarray:
        """The rest, as if silence followed. Nothing may be pushed afterwards."""
        last_N = np.concatenate([self._mix.flush(), np.zeros(self.sample_rate // 10, np.float32)])
        num_left = -(-self.num_in * self.rate // self.sample_rate) - self.num_out
        tail = self._count(self._run(last_N)[:num_left])
        assert len(tail) == num_left, f"{len(tail)} samples after the end, {num_left} wanted"
        return tail

    def _count(self, out_N: np.ndarray) -> np.ndarray:
        self.num_out += len(out_N)
        return out_N

    def _run(self, mono_N: np.ndarray) -> np.ndarray:
        if len(mono_N) == 0:
            return mono_N
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(mono_N[None]), format="flt", layout="mono")
        frame.sample_rate = self.sample_rate
        pieces = [piece.to_ndarray()[0] for piece in self._filter.resample(frame)]
        return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)


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
