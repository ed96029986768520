"""The progress bar of a video: frames, frames per second, time left."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

from livetalk_core.cli.say import SafeStream, say
from livetalk_core.types import Chunk


class Progress:
    """Shows a progress bar on stderr, and the time to the first frames."""

    def __init__(self) -> None:
        self.frames = 0
        self.seconds = 0.0
        self.bar: tqdm | None = None

    def __enter__(self) -> Progress:
        self.start = time.perf_counter()
        return self

    def begin_at(self, frames: int) -> None:
        """Start the bar at the frames made by an earlier run."""
        say(f"resuming after {frames} frames", sys.stderr)
        self.frames = frames

    def show(self, chunk: Chunk, total: int) -> None:
        """Add a piece's frames to the bar."""
        if self.bar is None:
            say(f"first frames after {time.perf_counter() - self.start:.2f} s", sys.stderr)
            self.bar = tqdm(
                total=total,
                initial=self.frames,
                unit=" frames",
                file=SafeStream(sys.stderr),
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
