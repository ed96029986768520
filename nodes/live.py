"""Live video for browsers: one channel per running preview, any number of viewers, a bounded queue per viewer.

The prompt's thread publishes fragments and the web server's event loop sends them. A slow viewer loses the oldest fragments and
never slows the run. Every fragment starts with a key frame, so playback resumes at the next one.
"""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
import weakref
from collections import deque
from dataclasses import dataclass, field

from . import host
from .speech import FPS

QUEUE = 192
"""Most fragments queued for one viewer: about 70 s of video."""
HISTORY = 48
"""Last fragments kept by a channel, for viewers that join late or reconnect: about 18 s of video."""
MAX_CHANNELS = 8
"""Channels kept, including ended ones; the oldest is dropped first."""
EVENT = "livetalk.live"
"""Event sent to every page when a channel opens."""


@dataclass(frozen=True, kw_only=True)
class Fragment:
    """Bytes for the player, and the statistics shown under the picture. Number 0 is the init segment."""

    number: int
    stats: dict
    data: bytes


class Viewer:
    """One browser's queue."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.waiting: deque[Fragment] = deque(maxlen=QUEUE)
        self.changed = asyncio.Event()

    def offer(self, fragment: Fragment | None) -> None:
        """Queue a fragment, from any thread; a full queue drops its oldest. None only wakes the sender."""
        if fragment is not None:
            self.waiting.append(fragment)
        self.loop.call_soon_threadsafe(self.changed.set)


@dataclass(kw_only=True, eq=False)
class Channel:
    """One run of one preview node."""

    node: str
    workflow: str
    total: int
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    mime: str = ""
    init: Fragment | None = None
    ended: bool = False
    num_published: int = 0
    crop: host.TempFile | None = None
    """The video's crop of the picture, shown until there are frames. Its file goes when the run ends."""
    file: weakref.ref[host.TempFile] | None = None
    """The finished video, as long as something needs it."""
    history: deque[Fragment] = field(default_factory=lambda: deque(maxlen=HISTORY))
    viewers: set[Viewer] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def describe(self) -> dict:
        file = None if self.file is None else self.file()
        names = ("node", "workflow", "mime", "ended")
        files = {"crop": self.crop and host.view_of(self.crop), "file": file and view_of_video(file)}
        return {"channel": self.id, **{name: vars(self)[name] for name in names}, **files}

    def keep(self, file: host.TempFile) -> None:
        """Pages that come later show the finished video."""
        self.file = weakref.ref(file)

    def publish(self, data: bytes, stats: dict) -> None:
        """Send a fragment to all viewers, from any thread, without waiting for them."""
        with self.lock:
            fragment = Fragment(number=self.num_published, stats=stats, data=data)
            self.num_published += 1
            if self.init is None:
                self.init = fragment
                return
            self.history.append(fragment)
            for viewer in self.viewers:
                viewer.offer(fragment)

    def end(self) -> None:
        with self.lock:
            self.ended = True
            for viewer in self.viewers:
                viewer.offer(None)

    def join(self, viewer: Viewer, after: int) -> None:
        """Queue the kept fragments numbered above `after` for a viewer, then all later ones."""
        with self.lock:
            self.viewers.add(viewer)
            for fragment in self.history:
                if fragment.number > after:
                    viewer.offer(fragment)
            viewer.offer(None)

    def leave(self, viewer: Viewer) -> None:
        with self.lock:
            self.viewers.discard(viewer)


def view_of_video(file: host.TempFile) -> dict:
    """How a page asks for a finished video, and what it writes below it."""
    return {**host.view_of(file), "pace": file.pace}


CHANNELS: dict[str, Channel] = {}


def open_channel(node: str, workflow: str, total: int) -> Channel:
    """A new channel; the oldest are dropped when there are more than MAX_CHANNELS."""
    channel = Channel(node=node, workflow=workflow, total=total)
    CHANNELS[channel.id] = channel
    for name in list(CHANNELS)[:-MAX_CHANNELS]:
        CHANNELS.pop(name).end()
    return channel


class Broadcast:
    """Publishes a stream's chunks on a channel. `announce` is called once, when the channel can be watched."""

    def __init__(self, channel: Channel, announce) -> None:
        self.channel, self.announce = channel, announce
        self.writer = None
        self.start = time.perf_counter()
        self.first_s: float | None = None
        self.num_frames = 0
        self.pace: dict | None = None
        """The statistics after the last piece."""

    def send(self, chunk) -> None:
        """Publish a piece of a chunk as one fragment."""
        from livetalk_core.media.fragments import FragmentWriter

        self.num_frames += len(chunk.frames_THWC)
        self.first_s = time.perf_counter() - self.start if self.first_s is None else self.first_s
        if self.writer is None:
            height, width = chunk.frames_THWC.shape[1:3]
            self.writer = FragmentWriter(lambda data: self.channel.publish(data, self.stats()), width=width, height=height)
            self.channel.mime = self.writer.mime_type
            self.announce(self.channel)
        self.writer.write(chunk.frames_THWC, chunk.samples)
        self.pace = self.stats()

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
        self.channel.end()

    def stats(self) -> dict:
        """Frames done, time to the first frame, frames per second since the start, and the real-time factor."""
        elapsed = time.perf_counter() - self.start
        rate = self.num_frames / elapsed
        return {"frames": self.num_frames, "total": self.channel.total, "ttff_s": self.first_s, "fps": rate, "rtf": FPS / rate}


def add_routes(server) -> None:
    """Serve the list of channels, and a WebSocket per channel. Does nothing without a server."""
    if server is None:
        return
    from aiohttp import web

    @server.routes.get("/livetalk/live")
    async def list_channels(request):
        return web.json_response([channel.describe() for channel in CHANNELS.values() if channel.init or channel.file or not channel.ended])

    @server.routes.get("/livetalk/live/{channel}")
    async def watch(request):
        channel = CHANNELS.get(request.match_info["channel"])
        if channel is None or channel.init is None:
            return web.json_response({"error": "this live stream has ended"}, status=404)
        after = request.query.get("after", "0")
        socket = web.WebSocketResponse(heartbeat=20)
        await socket.prepare(request)
        await serve(socket, channel, int(after) if after.isdecimal() else 0)
        return socket


async def serve(socket, channel: Channel, after: int) -> None:
    """Send queued fragments until the channel ends or the viewer disconnects: statistics as JSON, then the bytes."""
    viewer = Viewer(asyncio.get_running_loop())
    channel.join(viewer, after)
    reader = asyncio.ensure_future(read_until_closed(socket, viewer))
    try:
        await socket.send_json({"mime": channel.mime})
        await send(socket, channel.init)
        while not socket.closed:
            await viewer.changed.wait()
            viewer.changed.clear()
            while viewer.waiting and not socket.closed:
                await send(socket, viewer.waiting.popleft())
            if channel.ended and not viewer.waiting:
                await socket.send_json({"ended": True})
                break
    except (ConnectionError, asyncio.CancelledError):
        pass
    finally:
        channel.leave(viewer)
        reader.cancel()
        await socket.close()


async def send(socket, fragment: Fragment) -> None:
    await socket.send_json({"number": fragment.number, **fragment.stats})
    await socket.send_bytes(fragment.data)


async def read_until_closed(socket, viewer: Viewer) -> None:
    """Viewers send nothing; reading detects that one has disconnected."""
    async for _ in socket:
        pass
    viewer.changed.set()
