"""The door for OmniRT's and OpenTalking's clients: the FlashTalk protocol of this very model, on the path that they use.

GET /v1/audio2video/flashtalk: a WebSocket. The client sends
    {"type": "init", "ref_image": base64 of a PNG or JPEG, "prompt": text, "seed": number, ...}; other keys are left unread; then
    "AUDI" and int16 little-endian mono PCM at 16 kHz, a chunk at a time, and
    {"type": "config_update", ...} or {"type": "close"}.
The server answers init_ok with the counts of its plan; "VIDX", a uint32 count and that many JPEG frames, each after its uint32 length, for
each chunk of sound; {"type": "config_ok"}, {"type": "closed"}; {"type": "error", "message": "one line"} for what went wrong. After a wrong
message the session goes on; after a failure it is closed.
The client keeps the clock here and asks for every chunk, idle ones included, so this door drives a stream and not a live session.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import struct

import numpy as np
import torch
from aiohttp import WSMsgType, web
from PIL import Image

from livetalk_core.pool.pool import Pool, PoolStream
from livetalk_core.serve.begin import reference_of
from livetalk_core.serve.ending import Ending, LastLine, Shared
from livetalk_core.serve.inbox import Inbox, check_prompt, read_json
from livetalk_core.serve.making import Making
from livetalk_core.serve.refusal import Refused, explain, one_line
from livetalk_core.serve.tasks import send_within
from livetalk_core.types import StreamSettings

SOUND, VIDEO = b"AUDI", b"VIDX"
JPEG_QUALITY = 90


def error_message(text: str) -> LastLine:
    return {"type": "error", "message": text}


class FlashTalkConnection:
    """One client and its stream."""

    def __init__(self, shared: Shared, pool: Pool, place: dict[str, object], socket: web.WebSocketResponse, transport: asyncio.Transport):
        self.shared, self.limits, self.pool = shared, shared.limits, pool
        self.socket, self.transport = socket, transport
        self.inbox = Inbox(socket, shared.limits)
        self.making = Making(shared.threads)
        self.stream: PoolStream | None = None

    async def run(self) -> None:
        ending = Ending(
            shared=self.shared, socket=self.socket, transport=self.transport, error=error_message, end=lambda: {"type": "closed"}
        )
        await ending.hold(self.talk())

    async def talk(self) -> None:
        """Messages until the client closes."""
        try:
            while True:
                message = await self.inbox.message(self.limits.silence_s, "a message")
                try:
                    if await self.obey(message.data, message.type == WSMsgType.BINARY):
                        return
                except (Refused, ValueError) as error:
                    await self.send(error_message(one_line(str(explain(error)))))
        finally:
            if self.stream is not None:
                self.stream.close()

    async def obey(self, data: str | bytes, binary: bool) -> bool:
        """Answer one message; whether it was the last."""
        if binary:
            await self.speak(read_pcm(data))
            return False
        match read_json(data, 2 * self.limits.picture_bytes):
            case {"type": "init", "ref_image": str(picture), **wishes}:
                await self.init(picture, wishes)
            case {"type": "config_update"}:
                await self.send({"type": "config_ok"})
            case {"type": "close"}:
                return True
            case other:
                raise Refused("wishes", f"type {str(other.get('type'))[:40]!r} must be init with ref_image, config_update or close")
        return False

    async def init(self, picture: str, wishes: dict[str, object]) -> None:
        """Open a stream, in place of one that was open."""
        prompt, seed = wishes.get("prompt"), wishes.get("seed", StreamSettings.seed)
        if type(seed) is not int or not isinstance(prompt, str | None):
            raise Refused("wishes", "seed must be a whole number, and prompt a text")
        check_prompt(prompt or "", self.limits.prompt_characters)
        try:
            data = base64.b64decode(picture, validate=True)
        except binascii.Error:
            raise Refused("picture", "ref_image must be base64 of a PNG or JPEG file") from None
        settings = StreamSettings(seed=seed, steps=min(self.pool.preset.steps, self.limits.max_steps))
        plan = await self.making.in_thread(self.open, data, prompt, settings)
        counts = {"frame_num": plan.chunk_frames, "motion_frames_num": plan.motion_frames, "slice_len": plan.new_frames, "fps": plan.fps}
        await self.send({"type": "init_ok", **counts, "height": plan.height, "width": plan.width, "chunk_samples": plan.new_samples})

    def open(self, picture: bytes, prompt: str | None, settings: StreamSettings):
        """Open a stream; its plan."""
        reference = reference_of(self.pool, picture, {"prompt": prompt}, self.limits, self.making.check)
        if self.stream is not None:
            self.stream.close()
        self.stream = self.pool.open(reference, settings, 1, self.making.check)
        return self.pool.plan(reference.pixels_CHW.shape[2], reference.pixels_CHW.shape[1])

    async def speak(self, samples_N: np.ndarray) -> None:
        """Answer sound with the frames that it completes: none if that is less than a chunk."""
        if self.stream is None:
            raise Refused("wishes", "sound came before init")
        if len(samples_N) > self.limits.queued_s * 16000:
            raise Refused("sound", f"one message may have {self.limits.queued_s:g} s of sound; send a chunk at a time")
        self.inbox.num_samples += len(samples_N)
        message = await self.making.in_thread(self.make, torch.from_numpy(samples_N))
        await send_within(self.limits.unread_s, self.socket.send_bytes(message))

    def make(self, samples_N: torch.Tensor) -> bytes:
        """The answer to sound."""
        frames = [jpeg(frame_HWC) for piece in self.stream.push(samples_N) for frame_HWC in piece.frames_THWC.numpy()]
        return VIDEO + struct.pack("<I", len(frames)) + b"".join(struct.pack("<I", len(frame)) + frame for frame in frames)

    async def send(self, message: LastLine) -> None:
        await send_within(self.limits.unread_s, self.socket.send_json(message))


def read_pcm(data: bytes) -> np.ndarray:
    """Samples [N] float32 of an AUDI message."""
    if not data.startswith(SOUND) or len(data) % 2:
        raise Refused("sound", "a binary message must be AUDI and then whole int16 samples, little-endian, mono at 16 kHz")
    return np.frombuffer(data, "<i2", offset=len(SOUND)).astype(np.float32) / 32768


def jpeg(frame_HWC: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame_HWC).save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()
