"""What one client and its live session say to each other. docs/live.md has the messages.

What cannot be done is answered with {"problem": "one line"}, and the session goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Executor
from functools import partial

import numpy as np
from aiohttp import WSMsgType, web

from livetalk_core.provenance.watermark import Watermark
from livetalk_core.serve.ear import Ear
from livetalk_core.serve.errands import Errands
from livetalk_core.serve.inbox import TEXT_CHARACTERS, Inbox, check_prompt, read_json
from livetalk_core.serve.limits import ClientLimits
from livetalk_core.serve.mp4 import Mp4
from livetalk_core.serve.player import Player
from livetalk_core.serve.refusal import Refused, explain, one_line
from livetalk_core.serve.session import LiveSession
from livetalk_core.serve.spoken import can_speak_text, decode_sound, speak_text
from livetalk_core.serve.tasks import run_together, send_within
from livetalk_core.serve.webrtc import WebRTC
from livetalk_core.types import Reference


class Conversation:
    """One client of a session. `encode`: a reference of the session's picture with another prompt; it runs in a thread.

    `mark`: put into the frames that the client gets.
    """

    def __init__(
        self,
        session: LiveSession,
        inbox: Inbox,
        limits: ClientLimits,
        threads: Executor,
        encode: Callable[[str], Reference],
        mark: Watermark | None = None,
    ) -> None:
        self.session, self.inbox, self.limits, self.threads, self.encode = session, inbox, limits, threads, encode
        self.socket: web.WebSocketResponse = inbox.socket
        self.player, self.ear = Player(session, mark), Ear(session, limits.queued_s)
        self.errands, self.interruptions = Errands(self.tell), 0
        self.file_next = False
        self.webrtc: WebRTC | None = None
        self.wants_mp4 = asyncio.Event()

    def about(self) -> dict[str, object]:
        """What the client is told first."""
        plan = self.session.plan
        return {"width": plan.width, "height": plan.height, "fps": plan.fps, "sample_rate": 16000, "text": can_speak_text()}

    async def run(self, beside: tuple[Coroutine, ...] = ()) -> None:
        """Until the client finishes. Raises what ended the session, Gone when the client leaves, and what `beside` raises."""
        try:
            await run_together(self.obey(), beside=(self.player.run(), self.send_mp4(), self.errands.run(), *beside))
        finally:
            await self.hang_up()

    async def hang_up(self) -> None:
        """End the WebRTC connection, if there is one."""
        if self.webrtc is not None:
            await self.webrtc.close()

    async def send_mp4(self) -> None:
        """Video over this WebSocket, once it is wanted."""
        await self.wants_mp4.wait()
        await Mp4(self.session.plan.width, self.session.plan.height, self.send, self.send_bytes, self.in_thread).run(self.player.outlet())

    async def obey(self) -> None:
        """The client's messages, until it finishes."""
        while True:
            message = await self.inbox.message(self.limits.session_s, "a message")
            try:
                if message.type == WSMsgType.BINARY:
                    await self.hear(message.data)
                elif await self.order(read_json(message.data, TEXT_CHARACTERS + 6 * self.limits.prompt_characters)):
                    return
            except (Refused, ValueError) as error:
                await self.tell(one_line(str(explain(error))))

    async def hear(self, data: bytes) -> None:
        """Sound, or a sound file."""
        if self.file_next:
            self.file_next = False
            await self.errands.put(partial(self.say, self.interruptions, decode_sound, data, self.limits.speech_s))
        else:
            self.inbox.num_samples += self.ear.hear(data)

    async def order(self, wish: dict[str, object]) -> bool:
        """Do what one text message says; whether the session is over."""
        match wish:
            case {"finish": True}:
                return True
            case {"interrupt": True}:
                self.interruptions += 1
                self.session.interrupt()
            case {"end": True}:
                self.session.end_speech()
            case {"text": str(text)}:
                await self.errands.put(partial(self.say, self.interruptions, speak_text, text))
            case {"file": True}:
                self.file_next = True
            case {"prompt": str(prompt)}:
                check_prompt(prompt, self.limits.prompt_characters)
                await self.errands.put(partial(self.change, prompt))
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

    async def say(self, interruptions: int, make: Callable[..., np.ndarray], *arguments: object) -> None:
        """Speak what is made in a thread, unless there has been an interruption since it was asked for."""
        samples_N = await self.in_thread(make, *arguments)
        if self.interruptions == interruptions:
            self.ear.say(samples_N)

    async def change(self, prompt: str) -> None:
        self.session.change(await self.in_thread(self.encode, prompt))

    async def tell(self, problem: str) -> None:
        await self.send({"problem": problem})

    async def send(self, message: dict[str, object]) -> None:
        await send_within(self.limits.unread_s, self.socket.send_json(message))

    async def send_bytes(self, data: bytes) -> None:
        await send_within(self.limits.unread_s, self.socket.send_bytes(data))

    def in_thread(self, work: Callable, *arguments: object) -> Awaitable:
        return asyncio.get_running_loop().run_in_executor(self.threads, work, *arguments)
