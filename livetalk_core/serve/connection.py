"""One client's stream over a WebSocket, from its first message to its last line."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

from aiohttp import web
from torch import Tensor

from livetalk_core.pool.pool import Pool, PoolStream
from livetalk_core.serve.ending import Ending, Shared
from livetalk_core.serve.inbox import Inbox
from livetalk_core.serve.making import Making
from livetalk_core.serve.mark import new_mark
from livetalk_core.serve.pace import Pace
from livetalk_core.serve.picture import read_picture
from livetalk_core.serve.sound_queue import SoundQueue
from livetalk_core.serve.tasks import run_together, send_within
from livetalk_core.serve.video import VideoSender
from livetalk_core.types import Chunk, Reference, StreamSettings


class Connection:
    """One client and its stream. Whatever goes wrong is told in one line, and ends this stream only."""

    def __init__(self, shared: Shared, pool: Pool, place: dict[str, object], socket: web.WebSocketResponse, transport: asyncio.Transport):
        self.shared, self.limits, self.pool, self.place = shared, shared.limits, pool, place
        self.socket, self.transport = socket, transport
        self.inbox = Inbox(socket, shared.limits)
        self.sound = SoundQueue(round(shared.limits.queued_s * 16000))
        self.pace = Pace(shared.metrics)
        self.making = Making(shared.threads)
        self.in_thread = self.making.in_thread

    async def run(self) -> None:
        ending = Ending(shared=self.shared, socket=self.socket, transport=self.transport)
        await ending.hold(self.talk(), self.pace.end)

    async def talk(self) -> None:
        """Wishes, picture, then sound in and video out at once."""
        wishes = await self.inbox.wishes()
        picture = await self.inbox.picture()
        await run_together(self.stream(wishes, picture), beside=(self.read(),))

    async def read(self) -> None:
        """Sound, until the client says that it is over; then only whether it leaves."""
        async for samples_N in self.inbox.sound():
            self.pace.heard()
            await self.sound.put(samples_N)
        await self.sound.end()
        await self.inbox.rest()

    async def stream(self, wishes: dict[str, object], picture: bytes) -> None:
        reference, settings = await self.in_thread(self.prepare, wishes, picture)
        height, width = reference.pixels_CHW.shape[1:]
        opened: list[PoolStream] = []  # even if this is cancelled while the thread opens it
        try:
            await self.in_thread(lambda: opened.append(self.pool.open(reference, settings, 1, self.making.check)))
            mark, told = new_mark(self.limits)
            video = await self.in_thread(VideoSender, width, height, self.send, self.in_thread, self.pace, mark)
            shape = {"mime": video.mime_type, "width": width, "height": height, "fps": 25, "sample_rate": 16000}
            await self.socket.send_json(self.place | shape | told)
            await run_together(self.make(opened[0], video, self.pool.plan(width, height).new_samples), video.run())
        finally:
            for stream in opened:
                stream.close()

    def prepare(self, wishes: dict[str, object], picture: bytes) -> tuple[Reference, StreamSettings]:
        """The picture, cropped and encoded, and the stream's settings."""
        chosen = {"steps": min(self.pool.preset.steps, self.limits.max_steps)} | wishes
        settings = StreamSettings(**{name: chosen[name] for name in ("seed", "steps") if name in chosen})
        pixels_CHW = read_picture(picture, wishes.get("size", self.limits.size), self.pool.preset, self.limits)
        return self.pool.reference(pixels_CHW, wishes.get("prompt"), on_step=self.making.check), settings

    async def make(self, stream: PoolStream, video: VideoSender, chunk_samples: int) -> None:
        """Have pieces made of the sound, at most as fast as the client takes them."""
        while (samples_N := await self.next_sound(chunk_samples)) is not None:
            await self.make_pieces(stream.push(samples_N), video)
        await self.make_pieces(stream.finish(), video)
        await video.put(None)

    async def next_sound(self, most: int) -> Tensor | None:
        if not len(self.sound):
            self.pace.waited()
        return await self.sound.take(most)

    async def make_pieces(self, pieces: Iterator[Chunk], video: VideoSender) -> None:
        while True:
            start = time.monotonic()
            piece = await self.in_thread(next, pieces, None)
            if piece is None:
                return
            self.pace.worked(piece, time.monotonic() - start)
            await video.put(piece)
            del piece  # its frames may lie in memory that the pool wants back

    async def send(self, data: bytes) -> None:
        await send_within(self.limits.unread_s, self.socket.send_bytes(data))
