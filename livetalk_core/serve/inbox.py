"""What a client sends, in its order: wishes, a picture, sound, the end. Each message is checked before anything is made of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import numpy as np
from aiohttp import WSMessage, WSMsgType, web

from livetalk_core.serve.limits import ClientLimits
from livetalk_core.serve.refusal import Gone, Refused
from livetalk_core.serve.sound_queue import SAMPLE_BYTES
from livetalk_core.serve.tasks import send_within

WISHES = {"prompt": str, "size": str, "seed": int, "steps": int}
TEXT_CHARACTERS = 16384
"""Of a JSON message, beside the prompt."""
SAMPLE_RATE = 16000
SAMPLES_A_MESSAGE = 40
"""On average, or they are counted as a flood: 400 messages for a second of sound."""
LOUDEST = 4.0
"""Full scale is 1, and sound that was amplified may pass it. Integer samples pass it by far."""
LEFT = (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED)


class Inbox:
    """One client's messages. What breaks a rule raises Refused; a client that has left raises Gone."""

    def __init__(self, socket: web.WebSocketResponse, limits: ClientLimits) -> None:
        self.socket, self.limits = socket, limits
        self.num_messages = self.num_samples = 0

    async def wishes(self, known: dict[str, type] = WISHES) -> dict[str, object]:
        message = await self.message(self.limits.first_s, "the first message")
        return read_wishes(message.data, self.limits, known)

    async def picture(self) -> bytes:
        message = await self.message(self.limits.picture_s, "the picture")
        if message.type != WSMsgType.BINARY:
            raise Refused("picture", "the second message must be binary: a picture file")
        return message.data

    async def sound(self) -> AsyncIterator[np.ndarray]:
        """Samples [N], until the client says that it is over."""
        while True:
            message = await self.message(self.limits.silence_s, "more sound")
            if message.type != WSMsgType.BINARY:
                check_finish(message.data)
                return
            samples_N = read_samples(message.data, self.limits.queued_s)
            self.num_samples += len(samples_N)
            yield samples_N

    async def rest(self) -> None:
        """Nothing is expected any more, so this ends with Gone when the client leaves."""
        while True:
            await self.message(self.limits.session_s, "the end")

    async def message(self, seconds: float, wanted: str) -> WSMessage:
        """The next message that is no ping or pong. A silent client is asked now and then whether it is still there."""
        loop = asyncio.get_running_loop()
        deadline, asked = loop.time() + seconds, False
        while True:
            patience = min(self.limits.answer_s, deadline - loop.time())
            try:
                message = await self.socket.receive(timeout=max(0.001, patience))
            except asyncio.TimeoutError:
                if loop.time() >= deadline:
                    raise Refused("slow", f"{wanted} did not come within {seconds:g} s", 408) from None
                if asked:
                    raise Gone from None
                asked = True
                await send_within(self.limits.unread_s, self.socket.ping())
                continue
            asked = False
            self.count(message)
            if message.type == WSMsgType.PING:
                await send_within(self.limits.unread_s, self.socket.pong(message.data))
            elif message.type != WSMsgType.PONG:
                return message

    def count(self, message: WSMessage) -> None:
        """Refused for a client that floods, or breaks the rules of WebSockets; Gone for one that has left."""
        if message.type in LEFT:
            raise Gone
        if message.type == WSMsgType.ERROR:
            raise Refused("protocol", f"the connection broke a rule of WebSockets: {message.data}")
        self.num_messages += 1
        if self.num_messages > self.limits.spare_messages + self.num_samples // SAMPLES_A_MESSAGE:
            raise Refused("messages", f"{self.num_messages} messages for so little sound; send longer ones, of 20 ms or more")


def read_wishes(text: object, limits: ClientLimits, known: dict[str, type] = WISHES) -> dict[str, object]:
    """The client's first message. Refused for anything but known names with values of their type and range."""
    wishes = read_json(text, TEXT_CHARACTERS + 6 * limits.prompt_characters)  # a character may be written as \uXXXX
    if any(name not in known or type(value) is not known[name] for name, value in wishes.items()):
        words = {str: "text", int: "number", bool: "true or false"}
        may = ", ".join(f"{name} ({words[kind]})" for name, kind in known.items())
        raise Refused("wishes", f"the first message may hold: {may}")
    check_prompt(wishes.get("prompt", ""), limits.prompt_characters)
    if not 1 <= wishes.get("steps", 1) <= limits.max_steps:
        raise Refused("steps", f"steps={short(wishes['steps'])} must be 1 to {limits.max_steps}")
    if not 0 <= wishes.get("seed", 0) < 2**63:
        raise Refused("wishes", f"seed={short(wishes['seed'])} must be 0 to 2^63 - 1")
    return wishes


def check_prompt(prompt: str, most: int) -> None:
    if len(prompt) > most:
        raise Refused("prompt", f"the prompt has {len(prompt)} characters; the most is {most}")
    if any("\ud800" <= character <= "\udfff" for character in prompt):
        raise Refused("prompt", "the prompt has half a character (a surrogate alone); send whole ones")


def short(value: int) -> str:
    text = str(value)
    return text if len(text) <= 20 else text[:20] + "..."


def check_finish(text: object) -> None:
    if read_json(text, TEXT_CHARACTERS) != {"finish": True}:
        raise Refused("wishes", 'after the picture come sound, in binary messages, and at its end {"finish": true}')


def read_json(text: object, most: int) -> dict[str, object]:
    """A JSON object of at most so many characters."""
    if isinstance(text, str) and len(text) > most:
        raise Refused("wishes", f"a JSON message of {len(text)} characters; the most is {most}")
    try:
        value = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise Refused("wishes", "a text message must be a JSON object, and the first message must be one")
    return value


def read_samples(data: bytes, most_s: float) -> np.ndarray:
    """Samples [N] of a binary message."""
    if len(data) % SAMPLE_BYTES:
        raise Refused("sound", f"sound of {len(data)} bytes must be whole samples: float32, little-endian, mono at 16 kHz, 4 bytes each")
    samples_N = np.frombuffer(data, "<f4")
    if len(samples_N) > most_s * SAMPLE_RATE:
        seconds = len(samples_N) / SAMPLE_RATE
        raise Refused("sound", f"one message has {seconds:.1f} s of sound; the most is {most_s:g} s, so send several")
    loudest = np.abs(samples_N).max(initial=0)
    if not loudest <= LOUDEST:  # so that NaN is refused too
        raise Refused("sound", f"a sample of {loudest:.6g} must be from -1 to 1; divide integer samples by their full scale")
    return samples_N
