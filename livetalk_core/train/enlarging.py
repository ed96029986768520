"""Training of the enlarger: it learns to make a film's full-size frames from the small ones that a trained model makes of it.

The small frames are the film's halved ones after the VAE, in part with a DiT's errors on their latents (see errors.py). So the enlarger
sees what it will see in use, and learns to put things where the small frames have them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from livetalk_core.models.enlarger import TIMES, Enlarger, halve
from livetalk_core.stream.session import DECODE_GROUPS, to_uint8
from livetalk_core.train.config import Enlarging
from livetalk_core.train.draws import Draws
from livetalk_core.train.errors import find_error
from livetalk_core.train.export import write_tensors
from livetalk_core.train.films import Film, FilmSet, place_square
from livetalk_core.train.learner import LearnerStage
from livetalk_core.train.sample import to_signed
from livetalk_core.train.shards import ShardSet
from livetalk_core.train.tokenizer import reconstruction_loss
from livetalk_core.types import StreamSettings, VideoVAE

WITH_ERRORS = 0.5
"""Share of the films whose small frames have a DiT's errors."""


def halve_films(large: FilmSet, folder: Path) -> int:
    """Write the missing films at half the size, with the same sound and truth. Returns their number."""
    for path in large.paths:
        small = folder / path.name
        if not small.exists():
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (this is no dictionary)
            halved = {name: halve_pixels(tensors[name]) for name in ("frames", "reference")}
            mouth_HW = (halve(tensors["mouth"].float()[None])[0] > 0).to(torch.uint8)
            write_tensors(tensors | halved | {"mouth": mouth_HW}, small)
    return len(large)


def halve_pixels(pixels: Tensor) -> Tensor:
    """uint8 [..., H, W, 3] -> [..., H / 2, W / 2, 3]."""
    halved = halve(pixels.movedim(-1, -3).float()).round().to(torch.uint8)
    return halved.movedim(-3, -1).contiguous()


def write_small_frames(net: nn.Module, vae: VideoVAE, data: ShardSet, folder: Path, schedule: StreamSettings, seed: int = 0) -> int:
    """Write the missing small frames of each sample's first or, with a DiT's errors, of a random chunk. Returns the number of samples."""
    for number in range(len(data)):
        sample = data[number]
        path = folder / f"{sample.key}.safetensors"
        if not path.exists():
            draws, chunk, error = Draws.of(seed, "small frames", number), 0, 0.0
            if draws.number("error") < WITH_ERRORS:
                chunk, error = find_error(net, sample, schedule, draws)
            write_tensors(
                {
                    "first_frame": torch.tensor(chunk * sample.plan.new_frames),
                    "frames": decoded(vae, sample.latents_KCTHW[chunk] + error),
                },
                path,
            )
    return len(data)


@torch.no_grad()
def decoded(vae: VideoVAE, latents_CTHW: Tensor) -> Tensor:
    """uint8 [T, H, W, 3]."""
    return torch.cat([to_uint8(piece_CTHW.float()) for piece_CTHW in vae.decode(latents_CTHW, DECODE_GROUPS)])


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Frames of one crop, float32 in [-1, 1] on the stage's device."""

    small_TCHW: Tensor
    large_TCHW: Tensor
    picture_CHW: Tensor
    mouth_HW: Tensor
    """float32 [2 H, 2 W]: 1 at the mouth, or what else the film's mask covers."""


class EnlargedFilm:
    """A film and the small frames of one of its chunks, read when needed."""

    def __init__(self, path: Path, small: Path):
        self.path, self.small = path, small

    def to(self, device: torch.device) -> EnlargedFilm:
        return self

    def cut(self, draws: Draws, frames: int, size: int) -> Pair:
        """Random frames of the chunk, in a square crop of `size` small pixels that half the time contains the mouth. ValueError if the
        film is smaller."""
        film = Film(self.path)
        mouth_HW, reference_HWC = film.read("mouth"), film.read("reference")
        if (least := min(mouth_HW.shape) // TIMES) < size:
            raise ValueError(f"size={size} must be at most {least}: the small frames of {self.path.name} have no more pixels")
        top, left = place_square(draws, halve(mouth_HW.float()[None])[0] > 0, size)
        small_rows, small_columns = slice(top, top + size), slice(left, left + size)
        rows, columns = (slice(TIMES * part.start, TIMES * part.stop) for part in (small_rows, small_columns))
        small, large = [], []
        with safe_open(self.small, framework="pt") as low, safe_open(self.path, framework="pt") as high:
            first, lows, highs = int(low.get_tensor("first_frame")), low.get_slice("frames"), high.get_slice("frames")
            for i in range(frames):
                frame = draws.choice(f"frame {i}", lows.get_shape()[0])
                small.append(lows[frame : frame + 1, small_rows, small_columns])
                large.append(highs[first + frame : first + frame + 1, rows, columns])
        return Pair(
            small_TCHW=signed(torch.cat(small)),
            large_TCHW=signed(torch.cat(large)),
            picture_CHW=signed(reference_HWC[None, rows, columns])[0],
            mouth_HW=mouth_HW[rows, columns].float(),
        )

    def whole(self) -> tuple[Tensor, Tensor, Tensor]:
        """The chunk's small frames and large ones, and the picture, in [-1, 1]."""
        film, small = Film(self.path), Film(self.small)
        first, small_THWC = int(small.read("first_frame")), small.read("frames")
        large_THWC = film.read("frames")[first : first + len(small_THWC)]
        return signed(small_THWC), signed(large_THWC), signed(film.read("reference")[None])[0]


def signed(pixels_THWC: Tensor) -> Tensor:
    """uint8 [T, H, W, 3] -> float32 [T, 3, H, W] in [-1, 1]."""
    return to_signed(pixels_THWC).transpose(0, 1)


class EnlargedFilmSet(FilmSet):
    """The films of a folder that have small frames in another, by number. FileNotFoundError if none has."""

    def __init__(self, folder: Path, small: Path):
        super().__init__(folder)
        self.small, self.paths = small, [path for path in self.paths if (small / path.name).exists()]
        if not self.paths:
            raise FileNotFoundError(f"{small} has no small frames of a film in {folder}; livetalk train nano makes them")

    def __getitem__(self, index: int) -> EnlargedFilm:
        return EnlargedFilm(self.paths[index], self.small / self.paths[index].name)


class EnlargeStage(LearnerStage):
    """Updates an enlarger on square crops of single frames."""

    config: Enlarging

    def loss(self, batch: Sequence[tuple[EnlargedFilm, Draws]], number: int = 0) -> Tensor:
        config, place = self.config, next(self.learner.net.parameters()).device
        pairs = [film.cut(draws, config.frames, config.size) for film, draws in batch]
        small, large = (torch.cat([vars(pair)[name] for pair in pairs]).to(place) for name in ("small_TCHW", "large_TCHW"))
        picture, mouth = (
            torch.stack([vars(pair)[name] for pair in pairs]).repeat_interleave(config.frames, 0).to(place)
            for name in ("picture_CHW", "mouth_HW")
        )
        return enlarging_loss(self.learner.net, small, large, picture, mouth, config)


def enlarging_loss(net: Enlarger, small: Tensor, large: Tensor, picture: Tensor, mouth_BHW: Tensor, config: Enlarging) -> Tensor:
    """The reconstruction loss of the enlarged frames, and of where the picture was moved, so that flow is learned from the first step."""
    made = net(small, picture)
    weight = 1 + config.mouth_weight * mouth_BHW[:, None, None]
    loss = reconstruction_loss(made.frames_BCHW.float()[:, :, None], large[:, :, None], weight, config.edge_weight)
    return loss + config.flow_weight * (made.moved_BCHW.float() - large).abs().mean()
