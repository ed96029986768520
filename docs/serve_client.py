"""A client of `livetalk serve`: sends a picture and any sound file, and writes the video that comes back.

    python serve_client.py ws://127.0.0.1:8765/talk portrait.png speech.mp3 talking.mp4
"""

import asyncio
import json
import sys
from pathlib import Path

import aiohttp
import numpy as np

from livetalk_core.media.audio import read_audio

MINUTE = 60 * 16000


async def talk(url: str, picture: Path, speech: Path, video: Path) -> None:
    async with aiohttp.ClientSession() as session, session.ws_connect(url, max_msg_size=0) as socket:
        await socket.send_json({"size": "auto", "seed": 1})
        await socket.send_bytes(picture.read_bytes())
        sender = asyncio.create_task(send(socket, speech))
        with video.open("wb") as file:
            async for message in socket:
                if message.type == aiohttp.WSMsgType.BINARY:
                    file.write(message.data)
                    continue
                print(message.data)  # what the stream is; at the end {"ended": true} or {"error": "..."}
                if {"ended", "error"} & json.loads(message.data).keys():
                    break
        sender.cancel()


async def send(socket: aiohttp.ClientWebSocketResponse, speech: Path) -> None:
    """A minute of sound in each message. A live client sends sound as it is spoken."""
    samples = np.concatenate(list(read_audio(speech, 16000)))
    for start in range(0, len(samples), MINUTE):
        await socket.send_bytes(samples[start : start + MINUTE].astype("<f4").tobytes())
    await socket.send_json({"finish": True})


if __name__ == "__main__":
    asyncio.run(talk(sys.argv[1], *map(Path, sys.argv[2:5])))
