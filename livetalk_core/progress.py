"""The progress bar of a video in the making: frames, frames per second, time left."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

from livetalk_core.types import Chunk


class Progress:
    """Shows a bar on a terminal, and one line a chunk elsewhere is left out: logs stay short."""

    def __init__(self) -> None:
        self.frames = 0
        self.start = time.perf_counter()
        self.bar: tqdm | None = None

    def __enter__(self) -> Progress:
        self.start = time.perf_counter()
        return self

    def show(self, chunk: Chunk, total: int) -> None:
        """Count a chunk's frames towards the total."""
        if self.bar is None:
            self.bar = tqdm(total=total, unit="frame", file=sys.stderr, initial=0)
            first = time.perf_counter() - self.start
            self.bar.write(f"first frames after {first:.2f} s", file=sys.stderr)
        self.frames += len(chunk.frames_THWC)
        self.bar.update(len(chunk.frames_THWC))

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.close()
