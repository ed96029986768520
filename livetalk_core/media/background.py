"""Encodes video in a thread, so that the next frames are made meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Queue

from torch import Tensor

from livetalk_core.media.video import VideoWriter

MOST_PIECES = 3
"""Pieces that may wait for the encoder; then `write` waits, so that memory is bounded."""


class BackgroundWriter:
    """A VideoWriter in a thread. As a context manager: leaving waits until all frames are written.

    `change` is done to the frames in the thread, before they are encoded. An error of either is raised by the next `write`, or on leaving,
    unless another error is already under way.
    """

    def __init__(self, writer: VideoWriter, most: int = MOST_PIECES, change: Callable[[Tensor], Tensor] | None = None) -> None:
        self.writer, self.change, self.error = writer, change, None
        self.waiting: Queue[Tensor | None] = Queue(most)
        self.thread = threading.Thread(target=self.run, name="livetalk-encode", daemon=True)
        self.thread.start()

    def write(self, frames_THWC: Tensor) -> None:
        """As VideoWriter.write, but later. The frames must not change afterwards."""
        if self.error is not None:
            raise self.error
        self.waiting.put(frames_THWC)

    def run(self) -> None:
        while (frames_THWC := self.waiting.get()) is not None:
            try:
                if self.error is None:
                    self.writer.write(frames_THWC if self.change is None else self.change(frames_THWC))
            except Exception as error:
                self.error = error

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self.waiting.put(None)
        self.thread.join()
        if kind is None and self.error is not None:
            raise self.error
