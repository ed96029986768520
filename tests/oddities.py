"""Odd and broken inputs for the fuzzer, drawn by a seeded generator: sounds, containers, pictures, names."""

from __future__ import annotations

import wave
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from PIL import Image

Rng = np.random.Generator

CONTAINERS = {
    ".wav": ("pcm_s16le", "pcm_u8", "pcm_s24le", "pcm_s32le", "pcm_f32le"),
    ".flac": ("flac",),
    ".mp3": ("libmp3lame",),
    ".ogg": ("libopus", "libvorbis", "flac"),
    ".webm": ("libopus", "libvorbis"),
    ".m4a": ("aac", "alac"),
    ".mp4": ("aac", "libmp3lame", "ac3"),
    ".mkv": ("aac", "flac", "pcm_s16le", "libopus", "ac3"),
    ".mov": ("aac", "pcm_s16be", "alac"),
    ".aiff": ("pcm_s16be",),
    ".au": ("pcm_s16be", "pcm_mulaw"),
    ".w64": ("pcm_s16le",),
    ".caf": ("pcm_s16le", "alac"),
    ".ac3": ("ac3",),
    ".aac": ("aac",),
    ".ts": ("aac", "mp2"),
    ".avi": ("pcm_s16le", "libmp3lame"),
}
LAYOUTS = ("mono", "stereo", "3.0", "quad", "5.0", "5.1", "7.1")
RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 96000)
NAMES = (
    "plain", "with space", "ünïcödé", "日本語", "😀", "-dash", "--output", "a'b\"c", "100%s{0}", "line\nbreak", "x" * 200, "a.b.c", "http:",
    "concat:a|b", "#1", "&amp;", "\u202eright to left", "tab\there", "$HOME", "*", "pipe:0",
)  # fmt: skip
PICTURES = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP", ".bmp": "BMP", ".tif": "TIFF", ".gif": "GIF", ".ppm": "PPM", ".ico": "ICO"}
MODES = ("RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16")


@dataclass(frozen=True, kw_only=True)
class Odd:
    """A sound file, and what is known of it."""

    path: Path
    seconds: float
    rate: int
    whole: bool
    """Whether it is as it was written, so that nothing of it may be lost."""
    about: str


def pick(rng: Rng, choices):
    return choices[int(rng.integers(len(choices)))]


def odd_sound(rng: Rng, folder: Path) -> Odd:
    """A sound file in any container, codec, layout, rate and signal; half of them are damaged afterwards."""
    suffix = pick(rng, tuple(CONTAINERS))
    codec, layout, rate = pick(rng, CONTAINERS[suffix]), pick(rng, LAYOUTS), pick(rng, RATES)
    seconds = float(rng.uniform(0.05, 0.7))
    path = folder / f"{pick(rng, NAMES)}{suffix}"
    about = f"{suffix} {codec} {layout} {rate} Hz {seconds:.3f} s"
    for layout_tried, rate_tried in ((layout, rate), ("stereo", 44100)):
        try:
            seconds = write_sound(path, codec, layout_tried, rate_tried, odd_signal(rng, round(seconds * rate_tried)))
            break
        except (av.error.FFmpegError, ValueError):  # the encoder does not know this layout or rate
            about += " refused,"
    else:
        seconds = write_plain(path, odd_signal(rng, round(seconds * rate)), rate)
    damage = pick(rng, (None, *DAMAGES)) if rng.random() < 0.5 else None
    if damage is not None:
        path.write_bytes(damage(rng, path.read_bytes()))
        about += f", {damage.__name__}"
    return Odd(path=path, seconds=seconds, rate=rate_tried, whole=damage is None, about=about)


def odd_signal(rng: Rng, num_samples: int) -> np.ndarray:
    """[N] float32: noise in bursts, silence, a square wave, direct current, single clicks, or noise at -90 dB."""
    t, noise = np.arange(max(1, num_samples)), rng.uniform(-1, 1, max(1, num_samples))
    kinds = (0.4 * noise * (np.sin(t / 900) > 0), 0 * noise, np.sign(np.sin(t / 30)), 0 * noise + 0.9, 0.9 * (t % 3000 == 7), 3e-5 * noise)
    return pick(rng, kinds).astype(np.float32)


def write_sound(path: Path, codec: str, layout: str, rate: int, signal_N: np.ndarray) -> float:
    """Write one signal on all channels; returns its length in seconds."""
    with av.open(str(path.resolve()), "w") as file:
        stream = file.add_stream(codec, rate=rate, layout=layout)
        given = stream.codec_context.format.name
        channels = len(av.AudioLayout(layout).channels)
        frame = av.AudioFrame.from_ndarray(np.repeat(signal_N, channels)[None], "flt", layout)
        frame.sample_rate = rate
        size = stream.codec_context.frame_size or 1024
        resampler = av.AudioResampler(given, layout, rate, frame_size=size)
        for piece in (*resampler.resample(frame), *resampler.resample(None)):
            file.mux(stream.encode(piece))
        file.mux(stream.encode(None))
    return len(signal_N) / rate


def write_plain(path: Path, signal_N: np.ndarray, rate: int) -> float:
    """A WAV file, whatever its name says; returns its length in seconds."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes((signal_N * 32767).astype("<i2").tobytes())
    return len(signal_N) / rate


def cut(rng: Rng, data: bytes) -> bytes:
    return data[: int(rng.integers(len(data)))]


def flip(rng: Rng, data: bytes) -> bytes:
    changed = np.frombuffer(data, np.uint8).copy()
    changed[rng.integers(len(changed), size=int(rng.integers(1, 20)))] ^= np.uint8(rng.integers(1, 256))
    return changed.tobytes()


def zeroed(rng: Rng, data: bytes) -> bytes:
    at, length = int(rng.integers(len(data))), int(rng.integers(1, 400))
    return data[:at] + bytes(min(length, len(data) - at)) + data[at + length :]


def junk_after(rng: Rng, data: bytes) -> bytes:
    return data + rng.bytes(int(rng.integers(1, 900)))


def junk_before(rng: Rng, data: bytes) -> bytes:
    return rng.bytes(int(rng.integers(1, 300))) + data


def hole(rng: Rng, data: bytes) -> bytes:
    at = int(rng.integers(len(data)))
    return data[:at] + data[at + int(rng.integers(1, 500)) :]


def twice(rng: Rng, data: bytes) -> bytes:
    return data + data


def noise(rng: Rng, data: bytes) -> bytes:
    return rng.bytes(len(data))


DAMAGES = (cut, flip, zeroed, junk_after, junk_before, hole, twice, noise)


def odd_picture(rng: Rng, folder: Path) -> Path:
    """A picture of any kind, size and turn; every tenth is damaged."""
    suffix = pick(rng, tuple(PICTURES))
    size = tuple(int(side) for side in rng.integers(1, 90, 2) + rng.choice([0, 32, 32, 32, 300], 2))
    image = odd_image(rng, size)
    path = folder / f"{pick(rng, NAMES)}{pick(rng, (suffix, suffix, '', '.png', '.wav'))}"
    exif = Image.Exif()
    exif[0x0112] = int(rng.integers(0, 10))
    try:
        image.save(path, PICTURES[suffix], exif=exif)
    except (OSError, ValueError, TypeError, KeyError):  # the format does not know this mode
        image.convert("RGB").save(path, "PNG")
    if rng.random() < 0.1:
        path.write_bytes(pick(rng, DAMAGES)(rng, path.read_bytes()))
    return path


def odd_image(rng: Rng, size: tuple[int, int]) -> Image.Image:
    mode = pick(rng, MODES)
    colors = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, (size[1], size[0]), dtype=np.uint16))
    return colors.convert(mode)
