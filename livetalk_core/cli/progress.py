"""The progress bar of a video in the making: frames, frames per second, time left."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

from livetalk_core.cli.say import Steady, say
from livetalk_core.types import Chunk


class Progress:
    """Counts frames on a bar on stderr, and says when the first ones were there."""

    def __init__(self) -> None:
        self.frames = 0
        self.seconds = 0.0
        self.bar: tqdm | None = None

    def __enter__(self) -> Progress:
        self.start = time.perf_counter()
        return self

    def begin_at(self, frames: int) -> None:
        """So many frames were made by an earlier run."""
        say(f"going on after {frames} frames", sys.stderr)
        self.frames = frames

    def show(self, chunk: Chunk, total: int) -> None:
        """Count a piece's frames towards the total."""
        if self.bar is None:
            say(f"first frames after {time.perf_counter() - self.start:.2f} s", sys.stderr)
            self.bar = tqdm(
                total=total,
                initial=self.frames,
                unit=" frames",
                file=Steady(sys.stderr),
                mininterval=0,
                miniters=1,
                smoothing=0,
                bar_format=FORMAT,
            )
            self.bar.start_t -= time.perf_counter() - self.start
        self.frames += len(chunk.frames_THWC)
        self.bar.update(len(chunk.frames_THWC))

    def __exit__(self, *error: object) -> None:
        self.seconds = time.perf_counter() - self.start
        if self.bar is not None:
            self.bar.close()


FORMAT = "{percentage:3.0f}%|{bar:30}| {n_fmt}/{total_fmt} frames, {rate_noinv_fmt}, {remaining} left"
