"""Pushes a live session to a streaming server: RTMP as FLV, or MPEG-TS over SRT, UDP or TCP, as the build of PyAV can.

One session at a time is pushed: the first that begins, and after its end the next. A process of its own encodes and sends, since PyAV
stands still, with all of its process, while the other server does not answer. If that server is away, it is tried again.
"""

from __future__ import annotations

import asyncio
import logging
import struct
import sys
from collections.abc import Callable
from contextlib import suppress

import av
from av.error import FFmpegError

from livetalk_core.serve.player import Outlet
from livetalk_core.serve.sending import FORMATS, NUMBER
from livetalk_core.serve.tasks import timeout
from livetalk_core.serve.timeline import Shot

log = logging.getLogger(__name__)

AGAIN_S = 5
"""Between two attempts, and at most until a process has sent its last frames."""


def check_url(url: str) -> str:
    """The URL. ValueError for one that nothing can be pushed to."""
    scheme = url.partition("://")[0]
    if scheme not in FORMATS:
        raise ValueError(f"--push {url} must begin with one of {', '.join(f'{scheme}://' for scheme in FORMATS)}")
    if not knows(scheme):
        raise ValueError(f"--push {url}: the installed PyAV cannot send {scheme}://; use rtmp://, or build PyAV on an FFmpeg with {scheme}")
    return url


def knows(scheme: str) -> bool:
    """Whether PyAV's FFmpeg has this protocol. It does not list them, so an address is opened where nothing answers."""
    try:
        av.open(f"{scheme}://127.0.0.1:1", timeout=0.05).close()
    except av.error.ProtocolNotFoundError:
        return False
    except FFmpegError:
        pass
    return True


class Push:
    """Where sessions are pushed to. `url`: checked by `check_url`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.free = asyncio.Semaphore(1)

    async def run(self, outlet: Callable[[], Outlet], width: int, height: int) -> None:
        """Push one session, for ever, once no other is pushed. `outlet` makes a reader of its frames."""
        async with self.free:
            frames = outlet()
            while True:
                why = await self.once(frames, width, height)
                log.warning("--push %s: %s; trying again in %d s", self.url, why, AGAIN_S)
                await asyncio.sleep(AGAIN_S)

    async def once(self, frames: Outlet, width: int, height: int) -> str:
        """Push until the other server goes away; why it did."""
        command = (sys.executable, "-m", "livetalk_core.serve.sending", self.url, str(width), str(height))
        sender = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
        telling = asyncio.ensure_future(sender.stderr.read())
        try:
            with suppress(ConnectionError):
                while True:
                    sender.stdin.write(packed(await frames.get()))
                    await sender.stdin.drain()
            return (await telling).decode(errors="replace").strip()[-200:] or "the connection ended"
        finally:
            await asyncio.shield(finish(sender))
            telling.cancel()


async def finish(sender: asyncio.subprocess.Process) -> None:
    """Let the process send what it has, and end it."""
    with suppress(ConnectionError, asyncio.TimeoutError):
        sender.stdin.close()
        async with timeout(AGAIN_S):
            await sender.wait()
    if sender.returncode is None:
        sender.kill()
        await sender.wait()


def packed(shot: Shot) -> bytes:
    """A frame for the process: its number, its pixels, its sound."""
    return struct.pack(NUMBER, shot.number) + shot.frame_HWC.tobytes() + shot.samples_N.tobytes()
