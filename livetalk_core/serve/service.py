"""A box's pools behind the network: one WebSocket is one stream, so whatever stands before several boxes keeps a stream on its box.

GET /state: what each pool is doing, and how many streams it has, for a balancer to choose by.
GET /talk: a WebSocket. The client sends its wishes as JSON (`prompt`, `size`, `seed`, `steps`), the picture file as one binary message,
then sound as float32 little-endian mono at 16 kHz in binary messages of any length, and {"finish": true}. The server sends its box, pool
and the video's type as JSON, then fragmented MP4 in binary messages, then {"ended": true}; or {"error": ...} in one line.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import torch
from aiohttp import WSMessage, WSMsgType, web

from livetalk_core.media.fragments import FragmentWriter
from livetalk_core.media.image import crop_cover, load_picture
from livetalk_core.pool.pool import Pool, PoolClosed, WorkerFailure
from livetalk_core.sizes import BUCKETS, choose_size, parse_size
from livetalk_core.types import Chunk, Reference, StreamSettings

log = logging.getLogger(__name__)

MESSAGE_BYTES = 32 << 20
WAITING_BLOCKS = 64
"""Messages of sound that may wait; then the client is not read until some are used."""
WISHES = {"prompt": str, "size": str, "seed": int, "steps": int}
Errors = (ValueError, FileNotFoundError, WorkerFailure, PoolClosed)


class Gone(Exception):
    """The client has left, so its chunk is stopped."""


class Service:
    """Streams from the network, each on the pool that has the fewest, for as long as it lasts."""

    def __init__(self, pools: list[Pool], max_sessions: int, origins: tuple[str, ...] = (), size: str = "auto") -> None:
        self.pools, self.max_sessions, self.origins, self.size = pools, max_sessions, origins, size
        self.sessions = {pool: 0 for pool in pools}
        self.threads = ThreadPoolExecutor(2 * max_sessions, "livetalk-serve")

    def application(self) -> web.Application:
        application = web.Application()
        application.add_routes([web.get("/state", self.state), web.get("/talk", self.talk)])
        return application

    async def state(self, request: web.Request) -> web.Response:
        pools = [vars(pool.state) | {"sessions": self.sessions[pool]} for pool in self.pools]
        return web.json_response({"box": socket.gethostname(), "pools": pools, "max_sessions": self.max_sessions})

    async def talk(self, request: web.Request) -> web.StreamResponse:
        """One stream, from its first message to its last."""
        if not self.may_connect(request):
            return web.json_response({"error": "pages of other sites may not connect; start with --origin to allow one"}, status=403)
        if sum(self.sessions.values()) >= self.max_sessions:
            return web.json_response({"error": f"all {self.max_sessions} streams of this box are taken; try another box"}, status=503)
        connection = web.WebSocketResponse(max_msg_size=MESSAGE_BYTES, heartbeat=20)
        pool = min(self.pools, key=lambda pool: self.sessions[pool])
        self.sessions[pool] += 1
        try:
            await connection.prepare(request)
            await Connection(self, pool, connection).run()
        finally:
            self.sessions[pool] -= 1
        return connection

    def may_connect(self, request: web.Request) -> bool:
        """Browsers say which page asks; a page from elsewhere must have been allowed. Other programs say nothing."""
        origin = request.headers.get("Origin")
        return origin is None or origin in self.origins or urlsplit(origin).netloc == request.host

    def close(self) -> None:
        for pool in self.pools:
            pool.close()
        self.threads.shutdown()


class Connection:
    """One client and its stream."""

    def __init__(self, service: Service, pool: Pool, connection: web.WebSocketResponse) -> None:
        self.service, self.pool, self.connection = service, pool, connection
        self.sound: asyncio.Queue[torch.Tensor | None] = asyncio.Queue(WAITING_BLOCKS)
        self.gone = threading.Event()
        self.pieces: list[bytes] = []

    async def run(self) -> None:
        """Open, talk, finish; a mistake or a failure is told in one line."""
        reader: asyncio.Task | None = None
        try:
            wishes = {"size": self.service.size} | read_wishes(await self.connection.receive())
            picture = (await self.connection.receive()).data
            reference, settings = await self.in_thread(prepare, self.pool, wishes, picture)
            stream = await self.in_thread(lambda: self.pool.open(reference, settings, 1, self.check))
            reader = asyncio.create_task(self.read())
            try:
                await self.send_stream(stream, reference)
                await self.connection.send_json({"ended": True})
            finally:
                stream.close()
        except Errors as error:
            with suppress(ConnectionError):
                await self.connection.send_json({"error": " ".join(str(error).split())})
        except (Gone, ConnectionError):
            log.info("a client left its stream")
        finally:
            if reader is not None:
                reader.cancel()
            await self.connection.close()

    async def send_stream(self, stream, reference: Reference) -> None:
        height, width = reference.pixels_CHW.shape[1:]
        writer = FragmentWriter(self.pieces.append, width=width, height=height)
        place = {"box": socket.gethostname(), "pool": self.service.pools.index(self.pool)}
        await self.connection.send_json(
            place | {"mime": writer.mime_type, "width": width, "height": height, "fps": 25, "sample_rate": 16000}
        )
        await self.flush()
        block = await self.sound.get()
        while block is not None:
            await self.send_chunks(stream.push(block), writer)
            block = await self.sound.get()
        if self.gone.is_set():
            raise Gone
        await self.send_chunks(stream.finish(), writer)
        writer.close()
        await self.flush()

    async def send_chunks(self, chunks: Iterator[Chunk], writer: FragmentWriter) -> None:
        """Only when the client has taken a piece is its next one asked for."""
        while (chunk := await self.in_thread(next, chunks, None)) is not None:
            await self.in_thread(writer.write, chunk.frames_THWC, chunk.samples.numpy())
            await self.flush()

    async def flush(self) -> None:
        while self.pieces:
            await self.connection.send_bytes(self.pieces.pop(0))

    async def read(self) -> None:
        """Sound, until the client says that it is over, or leaves."""
        try:
            async for message in self.connection:
                if message.type != WSMsgType.BINARY:
                    break
                await self.sound.put(torch.from_numpy(np.frombuffer(message.data[: len(message.data) // 4 * 4], "<f4").copy()))
            else:
                self.gone.set()
        finally:
            await self.sound.put(None)
        async for _ in self.connection:
            pass
        self.gone.set()

    def check(self, step: int, steps: int) -> None:
        if self.gone.is_set():
            raise Gone

    async def in_thread(self, work, *arguments):
        return await asyncio.get_running_loop().run_in_executor(self.service.threads, work, *arguments)


def read_wishes(message: WSMessage) -> dict[str, object]:
    """The client's first message. ValueError for anything but known names with values of their type."""
    try:
        wishes = json.loads(message.data)
    except (TypeError, ValueError):
        wishes = None
    if not isinstance(wishes, dict) or any(name not in WISHES or type(value) is not WISHES[name] for name, value in wishes.items()):
        raise ValueError("the first message must be a JSON object with some of: prompt (text), size (text), seed (number), steps (number)")
    return wishes


def prepare(pool: Pool, wishes: dict[str, object], picture: object) -> tuple[Reference, StreamSettings]:
    """The picture, cropped and encoded, and the stream's settings."""
    if not isinstance(picture, bytes):
        raise ValueError("the second message must be binary: a picture file")
    settings = StreamSettings(**{name: wishes[name] for name in ("seed", "steps") if name in wishes})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture"
        path.write_bytes(picture)
        image = load_picture(path).image
    size = wishes["size"]
    bucket = pool.preset.bucket if size == "auto" else size
    width, height = choose_size(*image.size, bucket) if bucket in BUCKETS else parse_size(size)
    plan = pool.plan(width, height)
    return pool.reference(crop_cover(image, plan.width, plan.height), wishes.get("prompt")), settings


def run_service(service: Service, host: str, port: int) -> None:
    """Serve until interrupted; then end the pools."""
    application = service.application()

    async def end(_: web.Application) -> None:
        service.close()

    application.on_cleanup.append(end)
    web.run_app(application, host=host, port=port, print=lambda text: print(text, flush=True))
