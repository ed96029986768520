"""A stream's pieces and latents on disk, so that several nodes can read them and they are computed once."""

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
    """A folder with one file per piece. It is deleted with the object; ComfyUI empties its temporary folder at start anyway."""

    def __init__(self, folder: Path, limit: int) -> None:
        """With more than `limit` bytes everything is dropped: long videos are not kept as raw frames."""
        folder.mkdir(parents=True)
        self.folder, self.limit = folder, limit
        self.overflowed = False
        self.num_pieces = self.num_bytes = 0
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)

    def add(self, piece: Chunk, latents: list[Tensor]) -> None:
        """`latents`: the chunk's latents [C, t, h, w] with its first piece, else empty."""
        import torch

        if self.overflowed:
            return
        self.num_bytes += piece.frames_THWC.nbytes + sum(latents_CTHW.nbytes for latents_CTHW in latents)
        if self.num_bytes > self.limit:
            self.overflowed = True
            shutil.rmtree(self.folder, ignore_errors=True)
            return
        torch.save((piece, [latents_CTHW.cpu() for latents_CTHW in latents]), self.path(self.num_pieces))
        self.num_pieces += 1

    def is_whole(self) -> bool:
        """Whether every piece is still there."""
        return all(self.path(index).exists() for index in range(self.num_pieces))

    def chunks(self) -> Iterator[Chunk]:
        return (self.read(index)[0] for index in range(self.num_pieces))

    def latents(self) -> Iterator[Tensor]:
        """Latents [C, t, h, w] of each chunk, motion latents first."""
        for index in range(self.num_pieces):
            yield from self.read(index)[1]

    def read(self, index: int) -> tuple[Chunk, list[Tensor]]:
        import torch

        return torch.load(self.path(index), weights_only=False)

    def path(self, index: int) -> Path:
        return self.folder / f"{index:06}.pt"
