"""Films: files with one drawn talking clip each. The VAE, the shards and the mouth reader use them, so each is drawn once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from livetalk_core.models.patch_vae import FRAMES, PATCH
from livetalk_core.talker.viseme import MouthTrack
from livetalk_core.train.draws import Draws
from livetalk_core.train.sample import Clip

TRUTH = ("opening", "width", "rounding", "closure", "teeth", "tongue")
"""Rows of a film's `truth` tensor: the drawn mouth in each frame."""
AROUND_FRAMES = 8
"""Frames of sound made before and after the pictures of a talker's film or clip."""


def film_tensors(
    frames_THWC: np.ndarray, samples_N: np.ndarray, reference_HWC: np.ndarray, mouth_HW: Tensor, truth: MouthTrack, lids_T: Tensor
) -> dict[str, Tensor]:
    """A talker's film as it is stored. Frames, truth and lids have AROUND_FRAMES more at both ends, which are left out; sound has them too
    and keeps them."""
    inside = slice(AROUND_FRAMES, -AROUND_FRAMES)
    return {
        "frames": torch.from_numpy(frames_THWC[inside].copy()),
        "sound": torch.from_numpy((samples_N.clip(-1, 1) * 32767).round().astype(np.int16)),
        "reference": torch.from_numpy(reference_HWC),
        "mouth": mouth_HW.to(torch.uint8),
        "lids": lids_T[inside].clone(),
        "truth": torch.from_numpy(truth.cut(AROUND_FRAMES, len(truth) - AROUND_FRAMES).rows(TRUTH)),
    }


@dataclass(frozen=True, kw_only=True)
class PixelClip:
    """Frames uint8 [3, 4 k + 1, H, W], and a bool mask [H, W] of the mouth."""

    frames_CTHW: Tensor
    mouth_HW: Tensor
    error_CTHW: Tensor | None = None
    """The error of a DiT's latents for these frames, float32; None for none."""


@dataclass(frozen=True)
class Film:
    """One clip on disk; each tensor is read when needed."""

    path: Path
    errors: Path | None = None
    """File with a DiT's error on this clip, see errors.py."""

    def to(self, device: torch.device) -> Film:
        return self

    def read(self, name: str) -> Tensor:
        with safe_open(self.path, framework="pt") as file:
            return file.get_tensor(name)

    def read_if(self, name: str) -> Tensor | None:
        """A tensor that not every film has."""
        with safe_open(self.path, framework="pt") as file:
            return file.get_tensor(name) if name in file.keys() else None  # noqa: SIM118 (this is no dictionary)

    def cut(self, draws: Draws, frames: int, size: int) -> PixelClip:
        """A random square crop of some frames; half the time it contains the middle of the mouth. ValueError if larger than the film."""
        mouth_HW = self.read("mouth").bool()
        with safe_open(self.path, framework="pt") as file:
            whole = file.get_slice("frames")
            count, height, width, _ = whole.get_shape()
            if frames > count or size > min(height, width):
                raise ValueError(
                    f"{self.path.name} has {count} frames of {width}x{height}, too few for crops of {frames} frames of {size}x{size}; use "
                    "smaller frames and size"
                )
            first = draws.choice("frame", count - frames + 1)
            frames_THWC = whole[first : first + frames]
        rows, columns = (slice(at, at + size) for at in place_square(draws, mouth_HW, size))
        return PixelClip(frames_CTHW=frames_THWC[:, rows, columns].permute(3, 0, 1, 2), mouth_HW=mouth_HW[rows, columns])

    def cut_error(self, draws: Draws, size: int) -> PixelClip:
        """A square crop of the chunk with a recorded DiT error, aligned to latents; half the time it contains the mouth."""
        with safe_open(self.errors, framework="pt") as file:
            first, error_CTHW = int(file.get_tensor("first_frame")), file.get_tensor("error").float()
        with safe_open(self.path, framework="pt") as file:
            frames_THWC = file.get_slice("frames")[first : first + FRAMES * (error_CTHW.shape[1] - 1) + 1]
        mouth_HW = self.read("mouth").bool()
        top, left = (at // PATCH for at in place_square(draws, mouth_HW, size))
        error_CTHW = error_CTHW[:, :, top : top + size // PATCH, left : left + size // PATCH]
        rows, columns = (slice(PATCH * at, PATCH * at + size) for at in (top, left))
        pixels_CTHW = frames_THWC[:, rows, columns].permute(3, 0, 1, 2)
        return PixelClip(frames_CTHW=pixels_CTHW, mouth_HW=mouth_HW[rows, columns], error_CTHW=error_CTHW)


def place_square(draws: Draws, mouth_HW: Tensor, size: int, at_mouth: float = 0.5) -> tuple[int, int]:
    """Top and left of a random square; with the probability `at_mouth` it contains the middle of the mouth."""
    top, left = (draws.choice(side, length - size + 1) for side, length in zip(("top", "left"), mouth_HW.shape, strict=True))
    if draws.number("mouth") < at_mouth and mouth_HW.any():
        middle = mouth_HW.nonzero().float().mean(0).round().int().tolist()
        top, left = (
            min(max(0, at - draws.choice(side, size)), length - size)
            for side, at, length in zip(("above", "before"), middle, mouth_HW.shape, strict=True)
        )
    return top, left


class FilmSet:
    """The films of a folder, by number; with a folder `errors`, only the films that have a file there."""

    def __init__(self, folder: Path, errors: Path | None = None):
        self.paths = sorted(folder.glob("*.safetensors"))
        if not self.paths:
            raise FileNotFoundError(f"{folder} holds no films (*.safetensors); draw some with: livetalk train nano")
        self.errors = errors
        if errors:
            first, self.paths = self.paths[0].name, [path for path in self.paths if (errors / path.name).exists()]
            if not self.paths:
                raise FileNotFoundError(
                    f"{errors} has no error file for a film in {folder}, such as {first}; livetalk train nano makes them"
                )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Film:
        path = self.paths[index]
        return Film(path, self.errors and self.errors / path.name)

    @property
    def buckets(self) -> list[str]:
        return ["all"] * len(self)


def film_clips(films: FilmSet, caption: str, lead: int) -> Iterator[Clip]:
    """The films as clips; their sound begins `lead` frames before the pictures."""
    for path in films.paths:
        film = Film(path)
        yield Clip(
            key=path.stem,
            frames_THWC=film.read("frames"),
            sound_N=film.read("sound").float() / 32767,
            lead=lead,
            reference_HWC=film.read("reference"),
            caption=caption,
            mouth_HW=film.read("mouth").bool(),
            lids_T=film.read_if("lids"),
        )
