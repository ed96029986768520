"""The live door: a WebSocket for one session that listens, idles and can be interrupted.

GET /live: the client sends
    {"prompt": text, "size": text, "seed": number, "steps": number, "webrtc": true or false}, each of which may be left out; then
    the picture file (JPEG, PNG or WebP) as one binary message. From then on, in any order,
    sound in binary messages, float32 little-endian mono, and in text messages
    {"sound": "microphone", "rate": 48000}: what the next sound is: a microphone's, of which noise is dropped, or "speech", at this rate
    {"end": true}: the utterance is complete
    {"text": "..."}: speak this text
    {"file": true}: the next binary message is a sound file to be spoken
    {"interrupt": true}, {"prompt": "..."}, {"seed": 1}
    {"offer": "SDP"}: send the video by WebRTC; {"video": "mp4"}: by this WebSocket
    {"finish": true}.
The server sends {"box", "pool", "width", "height", "fps", "sample_rate", "text", "webrtc"}, the latter two whether it can speak text and
offers WebRTC; {"mime"} and fragmented MP4 in binary messages unless the first message had "webrtc"; {"figures": {...}} every second;
{"answer": "SDP"}; {"problem": "one line"} for what could not be done, after which the session goes on; {"error": "one line"} when it ends
for a reason, {"ended": true} after "finish".
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np
from aiohttp import WSMsgType, web

from livetalk_core.media.audio import LiveResampler
from livetalk_core.pool.pool import Pool
from livetalk_core.provenance.manifest import id_text
from livetalk_core.provenance.watermark import Watermark, new_id
from livetalk_core.serve.begin import begin_session
from livetalk_core.serve.ending import Ending, Shared
from livetalk_core.serve.inbox import TEXT_CHARACTERS, WISHES, Inbox, check_prompt, read_json, read_samples
from livetalk_core.serve.mp4 import Mp4
from livetalk_core.serve.player import Player
from livetalk_core.serve.refusal import Refused, explain, one_line
from livetalk_core.serve.report import Report
from livetalk_core.serve.session import LiveSession
from livetalk_core.serve.spoken import can_speak_text, decode_sound, speak_text
from livetalk_core.serve.tasks import run_together, send_within
from livetalk_core.serve.voice import VoiceGate
from livetalk_core.serve.webrtc import WebRTC, can_webrtc

RATES = range(8000, 192001)


class LiveConnection:
    """One client and its session."""

    def __init__(self, shared: Shared, pool: Pool, place: dict[str, object], socket: web.WebSocketResponse, transport: asyncio.Transport):
        self.shared, self.limits, self.pool, self.place = shared, shared.limits, pool, place
        self.socket, self.transport = socket, transport
        self.inbox = Inbox(socket, shared.limits)
        self.gate: VoiceGate | None = None
        self.resample: Callable[[np.ndarray], np.ndarray] = np.asarray
        self.file_next = False
        self.session: LiveSession | None = None
        self.player: Player | None = None
        self.webrtc: WebRTC | None = None
        self.wants_mp4 = asyncio.Event()

    async def run(self) -> None:
        await Ending(shared=self.shared, socket=self.socket, transport=self.transport).hold(self.talk())

    async def talk(self) -> None:
        wishes = await self.inbox.wishes(WISHES | {"webrtc": bool})
        picture = await self.inbox.picture()
        opening = asyncio.ensure_future(self.in_thread(begin_session, self.pool, picture, wishes, self.limits, self.shared.metrics))
        try:
            self.session = await asyncio.shield(opening)
            await self.play(wishes)
        finally:
            await asyncio.wait([opening])  # even if this was cancelled meanwhile
            if opening.exception() is None:
                await asyncio.shield(self.in_thread(opening.result().close))

    async def play(self, wishes: dict[str, object]) -> None:
        session, report = self.session, Report(self.session, self.shared.metrics)
        mark = Watermark(new_id()) if self.limits.watermark else None
        self.player = Player(session, mark)
        shape = {"width": session.plan.width, "height": session.plan.height, "fps": session.plan.fps, "sample_rate": 16000}
        told = {} if mark is None else {"watermark": id_text(mark.mark_id)}
        await self.send(self.place | shape | {"text": can_speak_text(), "webrtc": can_webrtc()} | told)
        if not wishes.get("webrtc"):
            self.wants_mp4.set()
        try:
            await run_together(self.obey(), beside=(self.player.run(), self.send_mp4(), report.run(self.send)))
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
            return await self.say(self.in_thread(decode_sound, data, self.limits.speech_s))
        samples_N = self.resample(read_samples(data, self.limits.queued_s))
        self.inbox.num_samples += len(samples_N)
        ended = False
        if self.gate is not None:
            samples_N, ended = self.gate.push(samples_N)
        if len(samples_N):
            self.session.say(samples_N)
        if ended:
            self.session.end_speech()

    async def say(self, made: Awaitable[np.ndarray]) -> None:
        """Speech that is complete."""
        self.session.say(await made)
        self.session.end_speech()

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
                await self.say(self.in_thread(speak_text, text))
            case {"file": True}:
                self.file_next = True
            case {"prompt": str(prompt)}:
                check_prompt(prompt, self.limits.prompt_characters)
                pixels_CHW = self.session.reference.pixels_CHW
                self.session.change(await self.in_thread(self.pool.reference, pixels_CHW, prompt))
            case {"seed": int(seed)}:
                self.session.change(seed=seed)
            case {"sound": "microphone" | "speech" as kind, **rest}:
                self.listen(kind, rest.get("rate", 16000))
            case {"offer": str(offer)}:
                await self.hang_up()
                self.webrtc = WebRTC(self.player)
                await self.send({"answer": await self.webrtc.answer(offer)})
            case {"video": "mp4"}:
                self.wants_mp4.set()
            case _:
                raise Refused("wishes", f"{', '.join(map(str, wish))[:40]!r} is not something that a live session does; see docs/live.md")
        return False

    def listen(self, kind: str, rate: object) -> None:
        """What the next sound is. ValueError for a rate that no sound has."""
        if type(rate) is not int or rate not in RATES:
            raise ValueError(f"rate={rate!r} must be {RATES[0]} to {RATES[-1]} samples a second")
        self.gate = VoiceGate() if kind == "microphone" else None
        self.resample = np.asarray if rate == 16000 else LiveResampler(rate, 16000).push

    async def send(self, message: dict[str, object]) -> None:
        await send_within(self.limits.unread_s, self.socket.send_json(message))

    async def send_bytes(self, data: bytes) -> None:
        await send_within(self.limits.unread_s, self.socket.send_bytes(data))

    def in_thread(self, work: Callable, *arguments: object) -> Awaitable:
        return asyncio.get_running_loop().run_in_executor(self.shared.threads, work, *arguments)
