"""Finished pieces on their way to a client: encoded in a thread while the next one is made, and sent in order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from livetalk_core.media.fragments import FragmentWriter
from livetalk_core.provenance.watermark import Watermark
from livetalk_core.serve.pace import Pace
from livetalk_core.types import Chunk

PIECES_WAITING = 1
"""Between the making and the encoding of pieces: a client that does not read soon stops its own stream, and no other."""

InThread = Callable[..., Awaitable]
"""Does a work in a thread: `await in_thread(work, *arguments)`."""


class VideoSender:
    """One stream's video. `send` returns when the client has room for more."""

    def __init__(
        self,
        width: int,
        height: int,
        send: Callable[[bytes], Awaitable[None]],
        in_thread: InThread,
        pace: Pace,
        mark: Watermark | None = None,
    ) -> None:
        self.send, self.in_thread, self.pace, self.mark = send, in_thread, pace, mark
        self.fragments: list[bytes] = []
        self.writer = FragmentWriter(self.fragments.append, width=width, height=height)
        self.pieces: asyncio.Queue[Chunk | None] = asyncio.Queue(PIECES_WAITING)

    @property
    def mime_type(self) -> str:
        return self.writer.mime_type

    async def put(self, piece: Chunk | None) -> None:
        """The next piece, as soon as there is room for it; None after the last."""
        await self.pieces.put(piece)

    async def run(self) -> None:
        """Send what is put, until None."""
        await self.flush()
        while (piece := await self.pieces.get()) is not None:
            await self.in_thread(self.encode, piece)
            num_frames = len(piece.frames_THWC)
            del piece  # its frames may lie in memory that the pool wants back
            await self.flush()
            self.pace.sent(num_frames)
        await self.in_thread(self.writer.close)
        await self.flush()

    def encode(self, piece: Chunk) -> None:
        frames_THWC = piece.frames_THWC if self.mark is None else self.mark(piece.frames_THWC)
        self.writer.write(frames_THWC, piece.samples.numpy())

    async def flush(self) -> None:
        while self.fragments:
            await self.send(self.fragments.pop(0))
