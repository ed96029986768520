"""The pieces of one stream on disk, and its latents, for a stream that several nodes consume: made once, read as often as wanted."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from livetalk_core.types import Chunk


class Spool:
    """A folder with a file per piece. It goes when the object goes; ComfyUI empties the place at its start in any case."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.complete = False
        self.num_pieces = 0
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)

    def add(self, piece: Chunk, latents: list[Tensor]) -> None:
        """The latents [C, t, h, w] of a chunk come with its first piece; the others have none."""
        import torch

        torch.save((piece, [latents_CTHW.cpu() for latents_CTHW in latents]), self.folder / f"{self.num_pieces:06}.pt")
        self.num_pieces += 1

    def chunks(self) -> Iterator[Chunk]:
        return (self.read(index)[0] for index in range(self.num_pieces))

    def latents(self) -> Iterator[Tensor]:
        """[C, t, h, w] per chunk, motion latents first."""
        for index in range(self.num_pieces):
            yield from self.read(index)[1]

    def read(self, index: int) -> tuple[Chunk, list[Tensor]]:
        import torch

        return torch.load(self.folder / f"{index:06}.pt", weights_only=False)
