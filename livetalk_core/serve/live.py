"""The live door: a WebSocket for one session that listens, idles and can be interrupted. docs/live.md has its messages.

{"error": "one line"} ends the session; what cannot be done is told and does not (conversation.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from aiohttp import web

from livetalk_core.pool.pool import Pool
from livetalk_core.serve.begin import begin_session
from livetalk_core.serve.conversation import Conversation
from livetalk_core.serve.ending import Ending, Shared
from livetalk_core.serve.inbox import WISHES, Inbox
from livetalk_core.serve.making import Making
from livetalk_core.serve.mark import new_mark
from livetalk_core.serve.picture import missing_face
from livetalk_core.serve.player import Player
from livetalk_core.serve.report import Report
from livetalk_core.serve.session import LiveSession
from livetalk_core.serve.webrtc import can_webrtc
from livetalk_core.types import Reference


class LiveConnection:
    """One client and its session."""

    def __init__(self, shared: Shared, pool: Pool, place: dict[str, object], socket: web.WebSocketResponse, transport: asyncio.Transport):
        self.shared, self.limits, self.pool, self.place = shared, shared.limits, pool, place
        self.socket, self.transport = socket, transport
        self.inbox = Inbox(socket, shared.limits)
        self.making = Making(shared.threads)

    async def run(self) -> None:
        await Ending(shared=self.shared, socket=self.socket, transport=self.transport).hold(self.talk())

    async def talk(self) -> None:
        wishes = await self.inbox.wishes(WISHES | {"webrtc": bool})
        picture = await self.inbox.picture()
        given = (self.pool, picture, wishes, self.limits, self.shared.metrics, self.making.check)
        opening = asyncio.ensure_future(self.in_thread(begin_session, *given))
        try:
            await self.play(await asyncio.shield(opening), picture, wishes)
        finally:
            self.making.gone.set()
            await asyncio.wait([opening])  # even if this was cancelled meanwhile
            if opening.exception() is None:
                await asyncio.shield(self.in_thread(opening.result().close))

    async def play(self, session: LiveSession, picture: bytes, wishes: dict[str, object]) -> None:
        report = Report(session, self.shared.metrics)
        mark, told = new_mark(self.limits)
        conversation = Conversation(session, self.inbox, self.limits, self.shared.threads, partial(self.encode, session), mark)
        await conversation.send(self.place | conversation.about() | {"webrtc": can_webrtc()} | told)
        if (problem := await self.in_thread(missing_face, picture)) is not None:
            await conversation.send({"problem": problem})
        if not wishes.get("webrtc"):
            conversation.wants_mp4.set()
        try:
            await conversation.run(beside=(self.push(conversation.player), report.run(conversation.send)))
        finally:
            report.count()

    def encode(self, session: LiveSession, prompt: str) -> Reference:
        return self.pool.reference(session.reference.pixels_CHW, prompt, on_step=self.making.check)

    async def push(self, player: Player) -> None:
        """Video to another server, if that is wanted and no other session is pushed."""
        if self.shared.push is not None:
            await self.shared.push.run(player.outlet, player.session.plan.width, player.session.plan.height)

    def in_thread(self, work: Callable, *arguments: object) -> Awaitable:
        return asyncio.get_running_loop().run_in_executor(self.shared.threads, work, *arguments)
