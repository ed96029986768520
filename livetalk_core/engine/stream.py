"""One stream in this process: sound in, pieces of chunks out, in turns with the engine's other streams."""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from livetalk_core.stream.session import Session
from livetalk_core.stream.window import LiveWindows, WholeWindows
from livetalk_core.types import AudioWindow, Chunk


class Stream:
    """One stream in this process."""

    def __init__(
        self,
        session: Session,
        windows: LiveWindows | WholeWindows,
        turn: threading.Lock,
        on_first: Callable[[AudioWindow], None] = lambda window: None,
        encode: Callable[[str], Tensor] | None = None,
        streams: weakref.WeakSet[Stream] | None = None,
    ):
        """`on_first` is called with the first window, before its chunk is made. `encode` makes a prompt's rows. `streams`: all open
        streams of the engine."""
        self.encode, self.streams = encode, weakref.WeakSet() if streams is None else streams
        self.streams.add(self)
        self.session, self.windows, self.turn, self.on_first = session, windows, turn, on_first
        self.calls: deque[Iterator[AudioWindow]] = deque()
        """Windows still to be made. If a reader stops early, a later call gives the rest."""
        self.ahead: tuple[AudioWindow, float] | None = None
        """The next window, made while the device was busy with the chunk before, and its seconds."""
        self.pieces: Iterator[Chunk] = iter(())
        self.begun = self.ended = False

    def push(self, samples_PN: Tensor) -> Iterator[Chunk]:
        """Add 16 kHz sound, [people, N] or [N] float32; yields the chunks it completes, in pieces."""
        yield from self.run(self.windows.push(samples_PN))

    def finish(self, num_frames: int | None = None) -> Iterator[Chunk]:
        """No more sound: yields what is left, to `num_frames` in all (default: what the seconds pushed come to)."""
        self.ended = True
        yield from self.run(self.windows.finish(num_frames))

    @torch.no_grad()
    def set_prompt(self, text: str) -> None:
        """Change the prompt from the next chunk on. Waits for the text encoder; chunks are made meanwhile. May be called by any thread."""
        self.session.set_prompt(self.encode(text))

    def run(self, windows: Iterator[AudioWindow]) -> Iterator[Chunk]:
        self.calls.append(windows)
        while True:
            with self.turn:
                piece = self.next_piece()
                if piece is None and self.begun and not self.ended and set(self.streams) == {self}:
                    self.session.prepare()  # the device has nothing else to do
            if piece is None:
                return
            yield piece

    def next_piece(self) -> Chunk | None:
        """The next piece of this chunk, or the first of the next one."""
        piece = next(self.pieces, None)
        if piece is not None:
            return piece
        window, seconds = self.ahead or timed(self.next_window)
        self.ahead = None
        if window is None:
            return None
        if not self.begun:
            self.begun = True
            self.on_first(window)
        self.pieces = self.session.step(window, self.look_ahead)
        piece = next(self.pieces)
        return replace(piece, seconds={"audio": seconds} | piece.seconds)

    def look_ahead(self) -> None:
        """Make the next window of this call already, if its sound is there, while the device works on this chunk."""
        window, seconds = timed(lambda: next(self.calls[0], None) if self.calls else None)
        self.ahead = None if window is None else (window, seconds)

    def next_window(self) -> AudioWindow | None:
        while self.calls:
            window = next(self.calls[0], None)
            if window is not None:
                return window
            self.calls.popleft()
        return None

    def close(self) -> None:
        """The stream no longer counts as open; its memory is freed with the object."""
        self.streams.discard(self)
        self.pieces, self.session.begun = iter(()), None


def timed(make: Callable[[], AudioWindow | None]) -> tuple[AudioWindow | None, float]:
    """A window, and the seconds that it took on the host."""
    start = time.perf_counter()
    return make(), time.perf_counter() - start
