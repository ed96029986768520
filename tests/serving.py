"""What the tests of the service share: a pool in this process, a server with it, and a client that behaves."""

from __future__ import annotations

import asyncio
import io
import json
import time
from contextlib import asynccontextmanager

import aiohttp
import numpy as np
import torch
from made import HANG_S, speech_like
from PIL import Image

from livetalk_core.pool.schedule import State
from livetalk_core.presets import tiny
from livetalk_core.serve.access import Access
from livetalk_core.serve.limits import ClientLimits
from livetalk_core.serve.server import listening
from livetalk_core.serve.service import Service
from livetalk_core.types import Chunk, NoRoom, Reference

UPGRADE = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "A" * 22 + "=="}
LIMITS = ClientLimits(size="48x32", sessions=20, sessions_per_address=20)


class NearPool:
    """A pool without workers: pictures are noise of the seed, and the sound comes back as it came in."""

    preset = tiny()

    def __init__(self):
        self.state, self.starts, self.streams = State(kind="ready"), 0, set()
        self.on_piece = lambda stream: None
        """Called in the thread that makes a piece, before it is made."""

    def start(self):
        self.state, self.starts = State(kind="ready"), self.starts + 1

    def close(self):
        self.state = State(kind="closed")

    def plan(self, width, height):
        return self.preset.plan(width, height)

    def reference(self, pixels_CHW, prompt="none", on_step=None):
        if prompt == "no room":
            raise NoRoom("no memory for another stream: it needs 6.6 GiB free on each GPU; end a stream first")
        while prompt == "wait for ever":
            on_step(0, 0)
        if prompt == "refuse":
            raise ValueError("prompt='refuse' must be another; see /home/someone/models/prompts.txt")
        if prompt == "break":
            raise RuntimeError("secret of /home/someone")
        empty = torch.zeros(1)
        return Reference(text_LD=empty, image_LD=empty, cond_CTHW=empty, first_CTHW=empty, pixels_CHW=pixels_CHW)

    def open(self, reference, settings, people, on_step):
        assert settings.steps <= 8 and reference.pixels_CHW[0].numel() <= 80 * 64, "nothing larger may reach the pool"
        stream = NearStream(self, reference, settings, on_step)
        self.streams.add(stream)
        return stream


class NearStream:
    def __init__(self, pool, reference, settings, on_step):
        self.pool, self.settings, self.on_step = pool, settings, on_step
        self.height, self.width = reference.pixels_CHW.shape[1:]
        self.sound, self.index = torch.zeros(0), 0

    def push(self, samples_N):
        assert samples_N.isfinite().all()
        self.sound = torch.cat([self.sound, samples_N])
        while len(self.sound) >= 17920:
            yield from self.chunk(28)

    def finish(self):
        if len(self.sound) >= 640:
            yield from self.chunk(len(self.sound) // 640)

    def chunk(self, num_frames):
        noise = torch.Generator().manual_seed(self.settings.seed * 1000 + self.index)
        for start in range(0, num_frames, 12):
            count = min(12, num_frames - start)
            self.pool.on_piece(self)
            self.on_step(0, self.settings.steps)
            frames_THWC = torch.randint(0, 256, (count, self.height, self.width, 3), generator=noise, dtype=torch.uint8)
            samples, self.sound = self.sound[: 640 * count], self.sound[640 * count :]
            yield Chunk(index=self.index, first_frame=self.index * 28 + start, frames_THWC=frames_THWC, samples=samples)
        self.index += 1

    def close(self):
        self.pool.streams.discard(self)


class Site:
    """A running server and a client's session with it."""

    def __init__(self, service: Service, session: aiohttp.ClientSession, address: str):
        self.service, self.session, self.address = service, session, address
        self.web = address.replace("ws", "http", 1).removesuffix("/talk")

    async def connect(self, **options) -> aiohttp.ClientWebSocketResponse:
        return await self.session.ws_connect(self.address, max_msg_size=0, **options)

    async def begin(self, picture: bytes, **wishes):
        """An open stream and what the server says of it."""
        socket = await self.connect()
        await socket.send_json(wishes)
        await socket.send_bytes(picture)
        return socket, await socket.receive_json()

    async def get(self, path: str, **options):
        async with self.session.get(self.web + path, **options) as response:
            return response.status, await response.text()


@asynccontextmanager
async def site(pools=None, limits=LIMITS, access=Access()):  # noqa: B008 (frozen)
    """A server with a NearPool, or with pools that stay open after it."""
    service = Service([NearPool()] if pools is None else pools, limits, access)
    if pools is not None:
        service.close = service.threads.shutdown
    async with listening(service, "127.0.0.1", 0) as address, aiohttp.ClientSession() as session:
        yield Site(service, session, address)


def run(visit, *arguments, **options):
    """What `visit(site)` returns, run against a server in this process."""

    async def whole():
        async with site(*arguments, **options) as here:
            return await asyncio.wait_for(visit(here), HANG_S)

    return asyncio.run(whole())


def picture_file(width: int = 48, height: int = 32, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    Image.fromarray(np.stack([x, y, 255 - x], axis=-1).astype(np.uint8)).save(file, kind)
    return file.getvalue()


def sound(seconds: float, seed: int = 0) -> bytes:
    return speech_like(seconds, seed=seed).astype("<f4").tobytes()


async def say(socket, seconds: float, pieces: int = 5) -> None:
    """Speech in so many messages, and that it is over."""
    data = sound(seconds)
    step = -(-len(data) // pieces // 4) * 4
    for start in range(0, len(data), step):
        await socket.send_bytes(data[start : start + step])
    await socket.send_json({"finish": True})


async def hear(socket) -> tuple[bytes, dict]:
    """The video, and the last line."""
    video = b""
    async for message in socket:
        if message.type == aiohttp.WSMsgType.TEXT:
            return video, json.loads(message.data)
        video += message.data
    raise AssertionError("closed without a word")


async def until(condition, every_s: float = 0.01) -> None:
    end = time.monotonic() + HANG_S
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(every_s)
