"""The live door: a WebSocket for one session that listens, idles and can be interrupted. docs/live.md has its messages.

What cannot be done is answered with {"problem": "one line"}, and the session goes on; {"error": "one line"} ends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from aiohttp import WSMsgType, web

from livetalk_core.pool.pool import Pool
from livetalk_core.serve.begin import begin_session
from livetalk_core.serve.ear import Ear
from livetalk_core.serve.ending import Ending, Shared
from livetalk_core.serve.inbox import TEXT_CHARACTERS, WISHES, Inbox, check_prompt, read_json
from livetalk_core.serve.making import Making
from livetalk_core.serve.mark import new_mark
from livetalk_core.serve.mp4 import Mp4
from livetalk_core.serve.player import Player
from livetalk_core.serve.refusal import Refused, explain, one_line
from livetalk_core.serve.report import Report
from livetalk_core.serve.session import LiveSession
from livetalk_core.serve.spoken import can_speak_text, decode_sound, speak_text
from livetalk_core.serve.tasks import run_together, send_within
from livetalk_core.serve.webrtc import WebRTC, can_webrtc


class LiveConnection:
    """One client and its session."""

    def __init__(self, shared: Shared, pool: Pool, place: dict[str, object], socket: web.WebSocketResponse, transport: asyncio.Transport):
        self.shared, self.limits, self.pool, self.place = shared, shared.limits, pool, place
        self.socket, self.transport = socket, transport
        self.inbox = Inbox(socket, shared.limits)
        self.making = Making(shared.threads)
        self.file_next = False
        self.session: LiveSession | None = None
        self.ear: Ear | None = None
        self.player: Player | None = None
        self.webrtc: WebRTC | None = None
        self.wants_mp4 = asyncio.Event()

    async def run(self) -> None:
        await Ending(shared=self.shared, socket=self.socket, transport=self.transport).hold(self.talk())

    async def talk(self) -> None:
        wishes = await self.inbox.wishes(WISHES | {"webrtc": bool})
        picture = await self.inbox.picture()
        given = (self.pool, picture, wishes, self.limits, self.shared.metrics, self.making.check)
        opening = asyncio.ensure_future(self.in_thread(begin_session, *given))
        try:
            self.session = await asyncio.shield(opening)
            await self.play(wishes)
        finally:
            self.making.gone.set()
            await asyncio.wait([opening])  # even if this was cancelled meanwhile
            if opening.exception() is None:
                await asyncio.shield(self.in_thread(opening.result().close))

    async def play(self, wishes: dict[str, object]) -> None:
        session, report = self.session, Report(self.session, self.shared.metrics)
        mark, told = new_mark(self.limits)
        self.player, self.ear = Player(session, mark), Ear(session, self.limits.queued_s)
        shape = {"width": session.plan.width, "height": session.plan.height, "fps": session.plan.fps, "sample_rate": 16000}
        await self.send(self.place | shape | {"text": can_speak_text(), "webrtc": can_webrtc()} | told)
        if not wishes.get("webrtc"):
            self.wants_mp4.set()
        try:
            await run_together(self.obey(), beside=(self.player.run(), self.send_mp4(), self.push(), report.run(self.send)))
        finally:
            report.count()
            await self.hang_up()

    async def hang_up(self) -> None:
        """End the WebRTC connection, if there is one."""
        if self.webrtc is not None:
            await self.webrtc.close()

    async def send_mp4(self) -> None:
        """Video over this WebSocket, once it is wanted."""
        await self.wants_mp4.wait()
        await Mp4(self.session.plan.width, self.session.plan.height, self.send, self.send_bytes, self.in_thread).run(self.player.outlet())

    async def push(self) -> None:
        """Video to another server, if that is wanted and no other session is pushed."""
        if self.shared.push is not None:
            await self.shared.push.run(self.player.outlet, self.session.plan.width, self.session.plan.height)

    async def obey(self) -> None:
        """The client's messages, until it finishes. What cannot be done is told, and the session goes on."""
        while True:
            message = await self.inbox.message(self.limits.session_s, "a message")
            try:
                if message.type == WSMsgType.BINARY:
                    await self.hear(message.data)
                elif await self.order(read_json(message.data, TEXT_CHARACTERS + 6 * self.limits.prompt_characters)):
                    return
            except (Refused, ValueError) as error:
                await self.send({"problem": one_line(str(explain(error)))})

    async def hear(self, data: bytes) -> None:
        """Sound, or a sound file."""
        if self.file_next:
            self.file_next = False
            self.ear.say(await self.in_thread(decode_sound, data, self.limits.speech_s))
        else:
            self.inbox.num_samples += self.ear.hear(data)

    async def order(self, wish: dict[str, object]) -> bool:
        """Do what one text message says; whether the session is over."""
        match wish:
            case {"finish": True}:
                return True
            case {"interrupt": True}:
                self.session.interrupt()
            case {"end": True}:
                self.session.end_speech()
            case {"text": str(text)}:
                self.ear.say(await self.in_thread(speak_text, text))
            case {"file": True}:
                self.file_next = True
            case {"prompt": str(prompt)}:
                check_prompt(prompt, self.limits.prompt_characters)
                pixels_CHW = self.session.reference.pixels_CHW
                encode = partial(self.pool.reference, on_step=self.making.check)
                self.session.change(await self.in_thread(encode, pixels_CHW, prompt))
            case {"seed": int(seed)}:
                self.session.change(seed=seed)
            case {"sound": "microphone" | "speech" as kind, **rest}:
                self.ear.listen(kind, rest.get("rate", 16000))
            case {"offer": str(offer)}:
                await self.hang_up()
                self.webrtc = WebRTC(self.player)
                await self.send({"answer": await self.webrtc.answer(offer)})
            case {"video": "mp4"}:
                self.wants_mp4.set()
            case _:
                raise Refused("wishes", f"{', '.join(map(str, wish))[:40]!r} is not something that a live session does; see docs/live.md")
        return False

    async def send(self, message: dict[str, object]) -> None:
        await send_within(self.limits.unread_s, self.socket.send_json(message))

    async def send_bytes(self, data: bytes) -> None:
        await send_within(self.limits.unread_s, self.socket.send_bytes(data))

    def in_thread(self, work: Callable, *arguments: object) -> Awaitable:
        return asyncio.get_running_loop().run_in_executor(self.shared.threads, work, *arguments)
