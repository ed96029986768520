"""Makes training films of photographs; synthetic.py does this for drawn people and heads.py for rendered ones.

`python -m livetalk_core.train.photos PICTURES FILMS COUNT [FIRST]` adds films to a folder, one for each seed that it lacks. The pictures
must be fitted (see talker/photo/fit.py).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from livetalk_core.talker.photo.clip import make_photo_clip
from livetalk_core.talker.photo.fit import fit_path, pictures_of
from livetalk_core.train.export import write_tensors
from livetalk_core.train.films import AROUND_FRAMES, film_tensors

CAPTION = "A person is talking. Only the person is moving, the background remains static."
SIZE, FRAMES = 128, 33


def main(folder: Path, films: Path, count: int, first: int = 0) -> None:
    pictures = [path for path in pictures_of(folder) if fit_path(path).exists()]
    films.mkdir(parents=True, exist_ok=True)
    for seed in range(first, first + count):
        store_photo_film(films, pictures, seed)


def store_photo_film(films: Path, pictures: Sequence[Path], seed: int, size: int = SIZE) -> None:
    """Make the film of a seed, if it is not there yet."""
    path = photo_film_path(films, seed)
    if not path.exists():
        torch.set_num_threads(1)
        write_tensors(draw_photo_film(seed, FRAMES, size, pictures), path)


def photo_film_path(films: Path, seed: int) -> Path:
    return films / f"photo-train-{seed:05d}.safetensors"


def draw_photo_film(seed: int, frames: int, size: int, pictures: Sequence[Path], split: str = "train") -> dict[str, Tensor]:
    """The tensors of a film (see films.py)."""
    made = make_photo_clip(seed, (frames + 2 * AROUND_FRAMES) / 25, size, pictures, split)
    return film_tensors(
        made.frames_THWC, made.samples_N, made.reference_HWC, torch.from_numpy(made.mask_HW), made.truth, torch.from_numpy(made.lids_T)
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
