"""The clock of a live session: takes a frame every 40 ms and hands it to all who show it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from livetalk_core.provenance.watermark import Watermark
from livetalk_core.serve.session import LiveSession
from livetalk_core.serve.timeline import FPS, Shot

MOST_WAITING = 2 * FPS
"""Frames that wait for one reader. The oldest go when it reads too slowly: sound and lips go together, so they stay in step."""


class Outlet:
    """Where one reader gets frames from. Memory is bounded."""

    def __init__(self) -> None:
        self.shots: asyncio.Queue[Shot] = asyncio.Queue()
        self.dropped_frames = 0

    def put(self, shot: Shot) -> None:
        if self.shots.qsize() >= MOST_WAITING:
            self.shots.get_nowait()
            self.dropped_frames += 1
        self.shots.put_nowait(shot)

    async def get(self) -> Shot:
        return await self.shots.get()

    async def batch(self, least: int, most: int) -> list[Shot]:
        """At least so many frames, and what else is there already."""
        batch = [await self.shots.get() for _ in range(least)]
        while len(batch) < most and not self.shots.empty():
            batch.append(self.shots.get_nowait())
        return batch


class Player:
    """Plays one session to any number of outlets. `mark` is put into what they get; the session goes on from unmarked frames."""

    def __init__(self, session: LiveSession, mark: Watermark | None = None) -> None:
        self.session, self.mark = session, mark
        self.outlets: list[Outlet] = []

    def outlet(self) -> Outlet:
        """A new reader; it gets frames from now on."""
        self.outlets.append(Outlet())
        return self.outlets[-1]

    async def run(self) -> None:
        """Take each frame when it is due, for ever. Frames that a busy event loop missed are taken at once, so that the clock is kept.

        Raises what ended the session.
        """
        now = asyncio.get_running_loop().time
        start, number = now(), 0
        while True:
            await asyncio.sleep(max(0.0, start + number / FPS - now()))
            shot = await self.marked(self.session.tick())
            number += 1
            for outlet in self.outlets:
                outlet.put(shot)

    async def marked(self, shot: Shot) -> Shot:
        if self.mark is None:
            return shot
        marked_THWC = await asyncio.to_thread(self.mark, shot.frame_HWC[None])
        return replace(shot, frame_HWC=marked_THWC[0].numpy())
