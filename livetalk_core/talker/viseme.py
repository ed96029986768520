"""Computes the true mouth from speech: phones give lip targets, which are smoothed and sampled at the frames.

A voiceless stop sounds when the lips open, so they close before its phone begins. Every other sound has its shape while it lasts.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from livetalk_core.talker.espeak import Phone, Speech
from livetalk_core.talker.identity import Mouth

FPS = 25
SAMPLE_RATE = 16000
SAMPLES_PER_FRAME = SAMPLE_RATE // FPS
GRID_HZ = 200
LIP_HZ = 7.0
"""Bandwidth of the lips' movement (half power)."""
STOP_LEAD_S = 0.055
"""Length of the silence that espeak-ng puts before the burst of a voiceless stop."""

FIELDS = ("opening", "width", "rounding", "closure", "teeth", "tongue")
REST = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)

VOWELS: dict[str, tuple[float, ...]] = {
    # opening, width, rounding, closure, teeth, tongue
    "a": (0.86, 0.20, 0.00, 0, 0, 0), "ɑ": (0.92, 0.00, 0.05, 0, 0, 0), "ɒ": (0.78, -0.10, 0.40, 0, 0, 0),
    "æ": (0.80, 0.45, 0.00, 0, 0, 0), "ɐ": (0.66, 0.10, 0.00, 0, 0, 0), "ʌ": (0.62, 0.05, 0.00, 0, 0, 0),
    "ə": (0.38, 0.00, 0.00, 0, 0, 0), "ɚ": (0.38, -0.15, 0.25, 0, 0, 0), "ɜ": (0.44, -0.10, 0.20, 0, 0, 0),
    "ɛ": (0.62, 0.40, 0.00, 0, 0, 0), "e": (0.50, 0.55, 0.00, 0, 0, 0), "ɪ": (0.34, 0.50, 0.00, 0, 0, 0),
    "i": (0.26, 0.85, 0.00, 0, 0, 0), "ɨ": (0.28, 0.40, 0.00, 0, 0, 0), "y": (0.22, -0.30, 0.90, 0, 0, 0),
    "ʏ": (0.28, -0.20, 0.80, 0, 0, 0), "ø": (0.40, -0.20, 0.75, 0, 0, 0), "œ": (0.52, -0.10, 0.60, 0, 0, 0),
    "u": (0.20, -0.50, 1.00, 0, 0, 0), "ʊ": (0.30, -0.30, 0.70, 0, 0, 0), "ɯ": (0.26, 0.15, 0.15, 0, 0, 0),
    "o": (0.46, -0.30, 0.85, 0, 0, 0), "ɔ": (0.62, -0.20, 0.65, 0, 0, 0), "ɤ": (0.46, 0.10, 0.00, 0, 0, 0),
    "ᵻ": (0.30, 0.40, 0.00, 0, 0, 0), "ɵ": (0.34, -0.20, 0.60, 0, 0, 0), "ʉ": (0.24, -0.30, 0.80, 0, 0, 0),
    "ɘ": (0.40, 0.10, 0.00, 0, 0, 0),
}  # fmt: skip

LIPS_SHUT = (0.0, 0.0, 0.0, 1.0, 0.0, 0.0)
LIP_TO_TEETH = (0.10, 0.10, 0.0, 0, 1.0, 0)
TIP_TO_TEETH = (0.24, 0.15, 0.0, 0, 0.25, 1.0)
TIP_UP = (0.22, 0.10, 0.0, 0, 0.15, 0.9)
HISS = (0.13, 0.40, 0.0, 0, 0.85, 0.3)
HUSH = (0.17, -0.20, 0.60, 0, 0.70, 0.2)
THROAT = (0.26, 0.05, 0.0, 0, 0, 0)
CONSONANTS: dict[str, tuple[float, ...]] = {
    **dict.fromkeys("mbpʙ", LIPS_SHUT),
    **dict.fromkeys("fvʋɱ", LIP_TO_TEETH),
    **dict.fromkeys("θð", TIP_TO_TEETH),
    **dict.fromkeys("tdnlɾrɫɬɭʈɖɳɽɺ", TIP_UP),
    **dict.fromkeys("szɕʑ", HISS),
    **dict.fromkeys("ʃʒʂʐ", HUSH),
    **dict.fromkeys("kɡgŋxχqɢɣʁħʕʔcɟɲçʎʝɴʀ", THROAT),
    **dict.fromkeys("hɦɰ", (0.36, 0.05, 0.0, 0, 0, 0)),
    "ɹ": (0.24, -0.15, 0.45, 0, 0.1, 0.3), "ɻ": (0.24, -0.15, 0.45, 0, 0.1, 0.3), "j": (0.24, 0.65, 0.0, 0, 0, 0),
    "w": (0.13, -0.60, 1.0, 0, 0, 0), "ɥ": (0.14, -0.40, 0.9, 0, 0, 0), "ɸ": (0.05, 0.0, 0.3, 0.5, 0, 0), "β": (0.05, 0.0, 0.1, 0.6, 0, 0),
}  # fmt: skip
MODIFIERS = set("ː:ˑˈˌʲʰʷˠˤᵝ-.'`^*~ⁿˡ˞|0123456789") | {chr(code) for code in range(0x300, 0x370)}
"""Marks of length, tone and quality that do not change the lips."""
GLIDE = (0.38, 0.50, 0.0, 0, 0, 0)
"""Target of a palatal mark that stands alone: it starts the vowel after it (Russian)."""
VOICELESS_STOPS = set("ptkqʈc")


@dataclass(frozen=True, kw_only=True)
class MouthTrack:
    """The true mouth at each frame; all arrays [T] float32 in Mouth's ranges."""

    opening_T: np.ndarray
    width_T: np.ndarray
    rounding_T: np.ndarray
    closure_T: np.ndarray
    teeth_T: np.ndarray
    tongue_T: np.ndarray

    def __len__(self) -> int:
        return len(self.opening_T)

    def at(self, frame: int) -> Mouth:
        return Mouth(**{name: float(vars(self)[f"{name}_T"][frame]) for name in FIELDS})

    def rows(self, names: Sequence[str]) -> np.ndarray:
        """[K, T]: the named tracks, in order."""
        return np.stack([vars(self)[f"{name}_T"] for name in names])

    def cut(self, start: int, stop: int) -> MouthTrack:
        return MouthTrack(**{name: track[start:stop] for name, track in vars(self).items()})


def track_mouth(speech: Speech) -> MouthTrack:
    """Frame k shows the mouth in the middle of samples [640 k, 640 (k + 1)) at 16 kHz."""
    seconds = len(speech.samples_N) / speech.rate
    targets_GV = lay_targets(speech.phones, seconds)
    loud_G = loudness(speech.samples_N, speech.rate, len(targets_GV))
    targets_GV[:, 0] *= 0.45 + 0.7 * loud_G
    smooth_GV = low_pass(targets_GV, LIP_HZ)
    frames = max(1, int(np.ceil(seconds * FPS)))
    at = (np.arange(frames) + 0.5) / FPS * GRID_HZ
    grid = np.arange(len(smooth_GV)) + 0.5
    columns = {f"{name}_T": np.interp(at, grid, smooth_GV[:, i]).astype(np.float32) for i, name in enumerate(FIELDS)}
    columns["opening_T"] = np.clip(columns["opening_T"], 0, 1) * (1 - columns["closure_T"])
    return MouthTrack(**columns)


def lay_targets(phones: tuple[Phone, ...], seconds: float) -> np.ndarray:
    """Unsmoothed lip targets [grid, 6], at rest in silence. ValueError for an unknown speech sound."""
    targets_GV = np.tile(np.asarray(REST, np.float64), (int(np.ceil(seconds * GRID_HZ)), 1))
    held: list[tuple[float, ...]] = [REST]
    for phone in phones:
        held = shapes_of(phone.ipa) or held[-1:]
        start = phone.start - (STOP_LEAD_S if phone.ipa and phone.ipa[0] in VOICELESS_STOPS else 0.0)
        edges = np.linspace(start, phone.end, len(held) + 1)
        for shape, low, high in zip(held, edges[:-1], edges[1:], strict=True):
            targets_GV[max(0, round(low * GRID_HZ)) : round(high * GRID_HZ)] = shape
    return targets_GV


def shapes_of(ipa: str) -> list[tuple[float, ...]]:
    """Lip targets of a phone in order: two or three for a diphthong or an affricate; none for a mark that does not change the lips."""
    if ipa in ("", "ʲ"):
        return [GLIDE if ipa else REST]
    shapes = []
    for letter in unicodedata.normalize("NFD", ipa):
        if letter in VOWELS:
            shapes.append(VOWELS[letter])
        elif letter in CONSONANTS:
            shapes.append(CONSONANTS[letter])
        elif letter not in MODIFIERS:
            raise ValueError(f"speech sound {ipa!r} has a letter without a lip shape ({letter!r}); add it to VOWELS or CONSONANTS")
    return shapes


def loudness(samples_N: np.ndarray, rate: int, steps: int) -> np.ndarray:
    """Loudness of each grid step, 0 to about 1.2, relative to the loud parts of the utterance."""
    hop = rate / GRID_HZ
    edges = np.minimum(np.round(np.arange(steps + 1) * hop).astype(int), len(samples_N))
    power = np.add.reduceat(np.append(samples_N.astype(np.float64) ** 2, 0.0), edges[:-1]) / hop
    level = np.sqrt(low_pass(power[:, None], LIP_HZ)[:, 0].clip(0))
    return np.clip(level / max(np.percentile(level, 95), 1e-6), 0, 1.2)


def low_pass(values_GV: np.ndarray, cutoff_hz: float) -> np.ndarray:
    """Gaussian filter without delay: lips prepare for a sound as long as they relax after it."""
    sigma = np.sqrt(np.log(2)) / (2 * np.pi * cutoff_hz) * GRID_HZ
    reach = int(np.ceil(4 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    padded = np.pad(values_GV, ((reach, reach), (0, 0)), mode="edge")
    return np.stack([np.convolve(padded[:, i], kernel, mode="valid") for i in range(values_GV.shape[1])], -1)


def to_16k(samples_N: np.ndarray, rate: int) -> np.ndarray:
    """Resample to 16 kHz, float32, band-limited, by the spectrum."""
    count = round(len(samples_N) * SAMPLE_RATE / rate)
    padded = np.pad(samples_N.astype(np.float64), (0, -len(samples_N) % rate))
    spectrum = np.fft.rfft(padded)
    length = len(padded) * SAMPLE_RATE // rate
    kept = np.zeros(length // 2 + 1, complex)
    top = min(len(kept), len(spectrum))
    kept[:top] = spectrum[:top]
    return (np.fft.irfft(kept, length) * (length / len(padded)))[:count].astype(np.float32)
