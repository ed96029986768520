"""The small model's encoders. They have no weights; the DiT's projections learn from their features.

Axes in names: N samples, T video frames, S columns, D width, L tokens, C H W picture.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FLOOR = 1e-5
"""Added to mel energies: about 60 dB below speech."""
LOG_MEAN, LOG_STD = -2.0, 2.0
"""Approximate statistics of log10 energies of speech at -23 LUFS with the floor added."""


@dataclass(frozen=True, kw_only=True)
class MelConfig:
    """A log-mel spectrogram cut into video frames."""

    bins: int = 40
    columns: int = 4
    """Spectra per video frame."""
    window: int = 400
    fft: int = 512
    fps: int = 25
    sample_rate: int = 16000

    @property
    def layers(self) -> int:
        return self.columns

    @property
    def width(self) -> int:
        return self.bins

    @property
    def bytes_per_second(self) -> int:
        """Memory per second of audio encoded in one call, loudness included: 1.0 MB were measured over ten minutes, on a CPU."""
        return 1_200_000

    @property
    def shortest(self) -> int:
        """Fewest samples that give a feature: one video frame."""
        return self.sample_rate // self.fps


class MelEncoder(nn.Module):
    """Audio features [T, S, D]: per video frame S evenly spaced spectra of D log-mel energies each."""

    def __init__(self, config: MelConfig):
        super().__init__()
        self.config = config

    @torch.no_grad()
    def forward(self, samples_N: Tensor) -> Tensor:
        """Mono sound [N] float32 at `sample_rate` -> features [T, S, D], T = N fps // sample_rate.

        Raises ValueError for less sound than `config.shortest` samples.
        """
        config = self.config
        frames = len(samples_N) // config.shortest
        if frames == 0:
            raise ValueError(
                f"{len(samples_N)} samples are too few for the audio encoder: it needs {config.shortest} or more; pad with silence"
            )
        hop = config.shortest // config.columns
        around = (config.window - hop) // 2
        padded = F.pad(samples_N[: frames * config.shortest], (around, around))
        pieces = padded.unfold(0, config.window, hop) * torch.hann_window(config.window, device=padded.device)
        power = torch.fft.rfft(pieces, config.fft).abs().square()
        energy = power @ mel_filters(config, padded.device)
        return ((torch.log10(energy + FLOOR) - LOG_MEAN) / LOG_STD).unflatten(0, (frames, config.columns))


@functools.cache
def mel_filters(config: MelConfig, device: torch.device = torch.device("cpu")) -> Tensor:  # noqa: B008 (a constant)
    """[fft / 2 + 1, bins]: triangles of height 1, evenly spaced in mel (O'Shaughnessy) from 60 Hz to half the sample rate.

    Cached per device.
    """
    low, high = (2595 * math.log10(1 + hertz / 700) for hertz in (60.0, config.sample_rate / 2))
    corners = 700 * (10 ** (torch.linspace(low, high, config.bins + 2) / 2595) - 1)
    hertz = torch.linspace(0, config.sample_rate / 2, config.fft // 2 + 1)[:, None]
    rising = (hertz - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - hertz) / (corners[2:] - corners[1:-1])
    return torch.minimum(rising, falling).clamp_min(0).to(device)


@dataclass(frozen=True, kw_only=True)
class ThumbnailConfig:
    """Sizes of a small copy of the picture, cut into squares."""

    size: int = 32
    patch_size: int = 4

    @property
    def width(self) -> int:
        """Features of a token: its pixels and its position."""
        return 3 * self.patch_size**2 + 2

    @property
    def tokens(self) -> int:
        return (self.size // self.patch_size) ** 2


class ThumbnailEncoder(nn.Module):
    """Uses pixels as picture features, in place of CLIP's."""

    def __init__(self, config: ThumbnailConfig):
        super().__init__()
        self.config = config

    @torch.no_grad()
    def forward(self, pixels_CHW: Tensor) -> Tensor:
        """Picture [3, H, W] in [-1, 1] -> [L, D]."""
        config = self.config
        small = F.interpolate(pixels_CHW[None].float(), (config.size, config.size), mode="bilinear", antialias=True)
        tokens_LD = F.unfold(small, config.patch_size, stride=config.patch_size)[0].T
        places = torch.linspace(-1, 1, config.size // config.patch_size, device=small.device)
        return torch.cat([tokens_LD, torch.cartesian_prod(places, places)], dim=1)


@dataclass(frozen=True, kw_only=True)
class NoTextConfig:
    width: int = 8


class NoText(nn.Module):
    """For a model trained without text: every prompt gives the same row of zeros."""

    def __init__(self, config: NoTextConfig):
        super().__init__()
        self.config = config

    def forward(self, ids_L: Tensor, mask_L: Tensor) -> Tensor:
        """Zeros [1, D] for any ids."""
        return torch.zeros(1, self.config.width, device=ids_L.device)


def no_tokens(text: str) -> tuple[Tensor, Tensor]:
    """Ids and mask [1, 1] for NoText, the same for any prompt."""
    return torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.long)
