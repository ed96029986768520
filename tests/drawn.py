"""Toy talkers for the tests of evaluation: a dark ellipse on a plain face, as high as the mouth is open."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from livetalk_core.evaluate.clips import TrueClip
from livetalk_core.evaluate.reader import MouthReader, ReaderTraining, load_reader, train_reader
from livetalk_core.train.export import write_tensors
from livetalk_core.train.films import TRUTH, FilmSet

SHORT = ReaderTraining(epochs=8, batch=32, every=2)


def toy_truth(frames: int, seed: int) -> Tensor:
    """[6, T] in the truth's ranges, smooth."""
    rng = np.random.default_rng([seed, 3])
    low, high = np.array([[0, -0.6, 0, 0, 0, 0], [1, 0.8, 1, 0, 0, 0]])
    tracks = [np.convolve(rng.random(frames + 4), np.ones(5) / 5, "valid") for _ in TRUTH]
    scaled = [low[k] + (high[k] - low[k]) * np.clip(2 * track - 0.5, 0, 1) for k, track in enumerate(tracks)]
    return torch.from_numpy(np.stack(scaled)).float()


def toy_frame(opening: float, width: float, seed: int, size: int = 128) -> np.ndarray:
    """uint8 [size, size, 3]: a face of the seed's color with a mouth somewhere below the middle."""
    rng = np.random.default_rng([seed, 5])
    back, skin = rng.integers(30, 120, 3), rng.integers(140, 230, 3)
    x, y = np.meshgrid(np.arange(size) * 128 / size, np.arange(size) * 128 / size)
    at_x, at_y = 64 + rng.uniform(-4, 4), 88 + rng.uniform(-4, 4)
    face = (x - 64) ** 2 / 40**2 + (y - 70) ** 2 / 50**2 < 1
    mouth = (x - at_x) ** 2 / (12 + 4 * width) ** 2 + (y - at_y) ** 2 / (2 + 8 * opening) ** 2 < 1
    frame = np.where(face[..., None], skin, back)
    return np.where(mouth[..., None], (60, 20, 25), frame).astype(np.uint8)


def toy_frames(truth_6T: Tensor, seed: int, size: int = 128) -> Tensor:
    return torch.from_numpy(np.stack([toy_frame(float(o), float(w), seed, size) for o, w in truth_6T[:2].T]))


def toy_clip(seed: int, frames: int = 45, size: int = 128) -> TrueClip:
    """A clip whose sound is as loud as its mouth is open."""
    truth_6T = toy_truth(frames, seed)
    noise_N = torch.randn(640 * frames, generator=torch.Generator().manual_seed(seed))
    mouth_HW = torch.zeros(size, size, dtype=torch.bool)
    mouth_HW[size * 9 // 16 : size * 13 // 16, size * 3 // 8 : size * 5 // 8] = True
    return TrueClip(
        name=f"toy {seed}",
        frames_THWC=toy_frames(truth_6T, seed, size),
        samples_N=(0.1 * noise_N * truth_6T[0].repeat_interleave(640)).clamp(-1, 1),
        truth_KT=truth_6T[:3],
        reference_HWC=torch.from_numpy(toy_frame(0.3, 0.1, seed, size)),
        mouth_HW=mouth_HW,
        shut_THWC=torch.from_numpy(toy_frame(0, 0, seed, size)).repeat(frames, 1, 1, 1),
    )


def write_toy_films(folder: Path, count: int, frames: int = 24, size: int = 128) -> Path:
    for seed in range(count):
        truth_6T = toy_truth(frames, seed)
        write_tensors({"frames": toy_frames(truth_6T, seed, size), "truth": truth_6T}, folder / f"toy-{seed:03d}.safetensors")
    return folder


@cache
def toy_readers() -> tuple[MouthReader, MouthReader, tuple[str, ...]]:
    """A mouth reader of toy talkers, the same one from its file, and the messages of its training."""
    said: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "reader.safetensors"
        reader = train_reader(FilmSet(write_toy_films(Path(folder) / "films", 40)), path, SHORT, said.append)
        return reader, load_reader(path), tuple(said)
