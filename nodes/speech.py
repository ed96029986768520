"""Speech on our wires: ComfyUI's AUDIO unchanged. It is resampled to 16 kHz block by block while a stream runs.

Axes: C channels, N samples.
"""

from __future__ import annotations

import wave
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from livetalk_core.plan import StreamPlan, nearest_frames

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

FPS = StreamPlan.fps
TRACK_RATE = 48000
"""Sample rate of two speakers' mixed sound track. One speaker's track keeps its own rate."""
MAX_WAV_BYTES = 2**32 - 2**16


@dataclass(frozen=True, kw_only=True, eq=False)
class Speech:
    """The sound of one speaker, or of two in one picture."""

    waveforms: tuple[Tensor, ...]
    """[C, N] float in [-1, 1] each."""
    sample_rates: tuple[int, ...]
    loudness: bool
    both_CN: Tensor | None = None
    """With a speaker on each channel: the original stereo sound, which becomes the video's sound track."""

    @property
    def people(self) -> int:
        return len(self.waveforms)

    @property
    def duration(self) -> Fraction:
        """Seconds of the longer sound."""
        return max(Fraction(wave.shape[1], rate) for wave, rate in zip(self.waveforms, self.sample_rates, strict=True))

    @property
    def num_frames(self) -> int:
        """Number of video frames: 25 x seconds, rounded to the nearest with halves up, at least 1."""
        return nearest_frames(self.duration, FPS)

    def blocks(self, rate: int = 16000) -> Iterator[Tensor]:
        """[people, N] float32 at `rate`, one second at a time; silence follows the shorter sound."""
        from livetalk_core.generate import side_by_side

        pairs = zip(self.waveforms, self.sample_rates, strict=True)
        return side_by_side([mono_blocks(waveform_CN, old, rate) for waveform_CN, old in pairs], rate)


def speech_from(audio: dict | None, second: dict | None, loudness: bool, split: bool = False) -> Speech:
    """Speech from one or two AUDIO, {waveform [1, C, N], sample_rate}. `split`: the two channels of one AUDIO are two speakers.

    ValueError for missing sound, a batch, no samples, values that are not numbers, or an impossible sample rate.
    """
    if audio is None:
        raise ValueError(
            "second_audio is connected but audio is empty, so there is no first speaker; connect the first speaker's sound to audio"
            if second is not None
            else "audio is empty: its video probably has no sound; connect a sound, or a video with sound"
        )
    given = [sound for sound in (audio, second) if sound is not None]
    waveforms = tuple(checked(sound["waveform"]) for sound in given)
    rates = tuple(checked_rate(sound["sample_rate"]) for sound in given)
    if not split:
        return Speech(waveforms=waveforms, sample_rates=rates, loudness=loudness)
    if second is not None or waveforms[0].shape[0] != 2:
        raise ValueError(
            f"split_channels needs one audio with 2 channels, but it has {waveforms[0].shape[0]}"
            f"{' and second_audio is connected' if second is not None else ''}; switch it off"
        )
    left_1N, right_1N = waveforms[0].split(1)
    return Speech(waveforms=(left_1N, right_1N), sample_rates=rates * 2, loudness=loudness, both_CN=waveforms[0])


def checked(waveform_BCN: Tensor) -> Tensor:
    """[C, N] float32 of a waveform of any number type; integers are scaled by their type's range."""
    import torch

    if waveform_BCN.ndim != 3 or waveform_BCN.shape[0] != 1:
        raise ValueError(f"audio of shape {list(waveform_BCN.shape)} must be one sound, [1, channels, samples]; split a batch first")
    if waveform_BCN.numel() == 0:
        raise ValueError("audio has no samples; give at least 0.04 s, the time of one frame")
    if waveform_BCN.is_complex() or waveform_BCN.dtype == torch.bool:
        raise ValueError(f"audio of type {waveform_BCN.dtype} must hold numbers: floats in [-1, 1], or integers")
    waveform_CN = waveform_BCN[0].detach().cpu()
    if not waveform_CN.is_floating_point():
        return scaled(waveform_CN)
    if not waveform_CN.isfinite().all():
        raise ValueError("audio has NaN or infinity in it; load or record it again")
    return waveform_CN.float()


def scaled(waveform_CN: Tensor) -> Tensor:
    """Integers over the range of their type -> float32 in [-1, 1)."""
    import torch

    limits = torch.iinfo(waveform_CN.dtype)
    middle, half = (limits.max + 1 + limits.min) // 2, (limits.max + 1 - limits.min) // 2
    return ((waveform_CN.double() - middle) / half).float()


def checked_rate(sample_rate: float) -> int:
    if sample_rate != int(sample_rate) or not 1000 <= sample_rate <= 1_000_000:
        raise ValueError(f"audio has a sample rate of {sample_rate} Hz; it must be 1000 to 1000000, and is usually 16000, 44100 or 48000")
    return int(sample_rate)


def mono_blocks(waveform_CN: Tensor, sample_rate: int, rate: int) -> Iterator[np.ndarray]:
    """Mono float32 at `rate`, about one second at a time."""
    from livetalk_core.media.audio import LiveResampler

    resampler = LiveResampler(sample_rate, rate)
    for piece_CN in waveform_CN.split(sample_rate, dim=1):
        yield resampler.push(piece_CN.numpy())
    yield resampler.flush()


def write_sound_track(speech: Speech, path: Path) -> Path:
    """A 16-bit WAV for the video: one sound keeps its channels and rate, two sounds are mixed."""
    from livetalk_core.stream.window import mix

    if speech.people == 1 or speech.both_CN is not None:
        waveform_CN, rate = speech.waveforms[0] if speech.both_CN is None else speech.both_CN, speech.sample_rates[0]
        return write_wav(path, waveform_CN.split(rate, dim=1), waveform_CN.shape[0], rate, waveform_CN.shape[1])
    num_samples = -(-speech.duration.numerator * TRACK_RATE // speech.duration.denominator)
    return write_wav(path, (mix(block_PN)[None] for block_PN in speech.blocks(TRACK_RATE)), 1, TRACK_RATE, num_samples)


def write_wav(path: Path, blocks_CN: Iterator[Tensor], channels: int, rate: int, num_samples: int) -> Path:
    if 2 * channels * num_samples > MAX_WAV_BYTES:
        hours = num_samples / rate / 3600
        raise ValueError(f"audio of {hours:.1f} h with {channels} channels is over 4 GB as a sound track; use mono, or make it in parts")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        for block_CN in blocks_CN:
            file.writeframes((block_CN.clamp(-1, 1) * 32767).round().short().T.contiguous().numpy().tobytes())
    return path
