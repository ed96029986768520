"""Chunks and latents of one stream on disk, for a stream that several nodes consume: made once, read as often as wanted."""

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
    """A folder with a file per chunk. It goes when the object goes; ComfyUI empties the place at its start in any case."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.complete = False
        self.num_chunks = 0
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)

    def add(self, chunk: Chunk, latents_CTHW: Tensor) -> None:
        import torch

        torch.save((chunk, latents_CTHW.cpu()), self.folder / f"{self.num_chunks:06}.pt")
        self.num_chunks += 1

    def chunks(self) -> Iterator[Chunk]:
        return (self.read(index)[0] for index in range(self.num_chunks))

    def latents(self) -> Iterator[Tensor]:
        """[C, t, h, w] per chunk, motion latents first."""
        return (self.read(index)[1] for index in range(self.num_chunks))

    def read(self, index: int) -> tuple[Chunk, Tensor]:
        import torch

        return torch.load(self.folder / f"{index:06}.pt", weights_only=False)
