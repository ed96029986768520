"""A live session's video as fragmented MP4, for where WebRTC cannot go."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import numpy as np

from livetalk_core.media.fragments import FragmentWriter
from livetalk_core.serve.player import Outlet
from livetalk_core.serve.timeline import FPS, Shot

LEAST, MOST = 3, FPS
"""Frames of a fragment. Fewer than three would be mostly key frames; more wait only for a slow reader."""


class Mp4:
    """One viewer's video. The sends return when the viewer has room for more; `in_thread` works beside the event loop."""

    def __init__(
        self,
        width: int,
        height: int,
        send_json: Callable[[dict[str, object]], Awaitable[None]],
        send_bytes: Callable[[bytes], Awaitable[None]],
        in_thread: Callable[..., Awaitable],
    ) -> None:
        self.send_json, self.send_bytes, self.in_thread = send_json, send_bytes, in_thread
        self.fragments: list[bytes] = []
        self.writer = FragmentWriter(self.fragments.append, width=width, height=height)

    async def run(self, outlet: Outlet) -> None:
        """Send what the outlet gives, for ever."""
        await self.send_json({"mime": self.writer.mime_type})
        while True:
            await self.flush()
            await self.in_thread(self.write, await outlet.batch(LEAST, MOST))

    def write(self, shots: list[Shot]) -> None:
        self.writer.write(np.stack([shot.frame_HWC for shot in shots]), np.concatenate([shot.samples_N for shot in shots]))

    async def flush(self) -> None:
        while self.fragments:
            await self.send_bytes(self.fragments.pop(0))
