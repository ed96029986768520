"""Clients that do what no client should: each is drawn from a seed, and gives what the server told it last, if anything."""

from __future__ import annotations

import asyncio
import io
import json
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

import aiohttp
import numpy as np
from PIL import Image
from serving import UPGRADE, Site, picture_file, sound

PICTURE = picture_file()
Told = dict | None
TEXT, BINARY, PING = 1, 2, 9


async def last_line(socket: aiohttp.ClientWebSocketResponse) -> Told:
    """Read to the end; the last text."""
    told = None
    with suppress(ConnectionError, aiohttp.ClientError):
        async for message in socket:
            if message.type == aiohttp.WSMsgType.TEXT:
                told = json.loads(message.data)
    return told


async def send_all(site: Site, messages: list[str | bytes]) -> Told:
    """A WebSocket client that sends these and reads what comes."""
    socket = await site.connect()
    with suppress(ConnectionError, aiohttp.ClientError):
        for message in messages:
            await (socket.send_bytes(message) if isinstance(message, bytes) else socket.send_str(message))
    told = await last_line(socket)
    await socket.close()
    return told


def json_wishes(draw: random.Random) -> str:
    """Sizes, steps, types and lengths that are not offered."""
    anything = [
        None,
        True,
        -1,
        10**9,
        10**400,
        1.5,
        float("nan"),
        "",
        "x" * draw.randrange(100_000),
        [],
        {},
        "16000x16000",
        "-1x-1",
        "\x00",
    ]
    names = ["size", "steps", "seed", "prompt", "speed", "__class__", ""]
    wishes = {draw.choice(names): draw.choice(anything) for _ in range(draw.randrange(1, 4))}
    return json.dumps(wishes)


def broken_json(draw: random.Random) -> str:
    whole = json.dumps({"prompt": "x" * 50, "steps": 4})
    return draw.choice([whole[: draw.randrange(len(whole))], "[" * 50_000, '{"a":' * 3000, "null", "9" * 9000, '"', "{}{}", "\u2028" * 100])


def broken_picture(draw: random.Random) -> bytes:
    good = bytearray(picture_file(64, 64, draw.choice(["PNG", "JPEG", "WEBP", "GIF", "BMP"])))
    if draw.random() < 0.5:
        return bytes(good[: draw.randrange(len(good))])
    for _ in range(20):
        good[draw.randrange(len(good))] = draw.randrange(256)
    return bytes(good)


def bomb(draw: random.Random) -> bytes:
    """Few bytes that would be very many pixels."""
    file = io.BytesIO()
    Image.new("1", (draw.choice([7000, 12_000]), 7000)).save(file, "PNG")
    return file.getvalue()


def odd_sound(draw: random.Random) -> bytes:
    samples = np.zeros(draw.randrange(1, 500), "<f4")
    samples[draw.randrange(len(samples))] = draw.choice([np.nan, np.inf, -np.inf, 1e38, 32767])
    return draw.choice([samples.tobytes(), bytes(draw.randrange(1000) * 4 + 1), bytes(4 * 16000 * 100)])


async def bad_wishes(site, draw):
    return await send_all(site, [json_wishes(draw), PICTURE, sound(0.1)])


async def bad_json(site, draw):
    return await send_all(site, [broken_json(draw), PICTURE])


async def bad_picture(site, draw):
    return await send_all(site, ["{}", draw.choice([broken_picture, bomb])(draw), sound(0.1)])


async def bad_sound(site, draw):
    return await send_all(site, ["{}", PICTURE, sound(0.5), odd_sound(draw), sound(0.5)])


async def wrong_order(site, draw):
    messages = ["{}", PICTURE, sound(1.2), '{"finish": true}', draw.randbytes(100), "{}"]
    draw.shuffle(messages)
    return await send_all(site, messages)


async def garbage(site, draw):
    kinds = [draw.randbytes(draw.randrange(5000)), "".join(map(chr, draw.choices(range(0x800), k=200)))]
    return await send_all(site, draw.choices(kinds, k=5))


async def silence(site, draw):
    """It stops after some of its messages, and answers pings."""
    return await send_all(site, ["{}", PICTURE, sound(0.5)][: draw.randrange(4)])


async def flood(site, draw):
    """Very many messages with nothing in them."""
    return await send_all(site, ["{}", PICTURE] + [draw.choice([b"", b"\0\0\0\0"])] * 3000)


async def words_after_the_end(site, draw):
    return await send_all(site, ["{}", PICTURE, sound(0.2), '{"finish": true}'] + ["x"] * 2000)


async def ping_flood(site, draw):
    return await raw(site, draw, [frame(PING, b"x")] * 3000)


async def vanish(site, draw):
    """It leaves without a word, in the middle of anything."""
    socket = await site.connect()
    for message in ["{}", PICTURE, sound(3.0)][: draw.randrange(4)]:
        await (socket.send_bytes(message) if isinstance(message, bytes) else socket.send_str(message))
    if draw.random() < 0.5:
        with suppress(asyncio.TimeoutError):
            await socket.receive(timeout=0.01 * draw.randrange(1, 20))
    connection = socket._response.connection
    if connection is not None and connection.transport is not None:
        connection.transport.abort()


async def slow_reader(site, draw):
    """It takes nothing of what it asked for, and does not leave."""
    return await raw(site, draw, [frame(TEXT, b"{}"), frame(BINARY, PICTURE), *[frame(BINARY, sound(5.0))] * 3], read=False)


async def half_open(site, draw):
    """A connection without a whole request, or without a word after it, which stays."""
    return await raw(site, draw, [], upgrade=draw.choice([b"", b"GET /talk HTTP/1.1\r\nHost: loc", None]), read=False)


async def broken_frames(site, draw):
    kinds = [
        frame(3, b"x"),
        frame(TEXT, b"\xff\xfe"),
        b"\x01\x05hello",
        frame(PING, b"x" * 126),
        frame(BINARY, b"", length=2**62),
        frame(8, b"x"),
    ]
    return await raw(site, draw, [draw.choice(kinds), draw.randbytes(300)])


async def never_ending_message(site, draw):
    """Parts of a message whose last part does not come."""
    return await raw(site, draw, [frame(BINARY, bytes(1000), final=False), *[frame(0, bytes(1000), final=False)] * draw.randrange(100)])


async def huge_message(site, draw):
    return await send_all(site, ["{}", bytes(draw.choice([17_000_000, 33_000_000]))])


async def odd_request(site, draw):
    lines = [
        b"GET /talk HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        b"GET " + b"/" * 9000 + b" HTTP/1.1\r\n\r\n",
        b"POST /talk HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n",
    ]
    return await raw(site, draw, [], upgrade=draw.choice(lines), read=False)


def frame(kind: int, data: bytes, final: bool = True, length: int | None = None) -> bytes:
    """A WebSocket frame of a client, masked with zeros."""
    length = len(data) if length is None else length
    size = (
        bytes([0x80 | length])
        if length < 126
        else b"\xfe" + length.to_bytes(2, "big")
        if length < 65536
        else b"\xff" + length.to_bytes(8, "big")
    )
    return bytes([kind | (0x80 if final else 0)]) + size + bytes(4) + data


async def raw(site: Site, draw: random.Random, frames: list[bytes], upgrade: bytes | None = None, read: bool = True) -> Told:
    """A client on a bare socket: it reads to the last line and closes, or reads nothing and stays."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(site.web.rsplit(":", 1)[1]))
    lines = [f"{name}: {value}" for name, value in UPGRADE.items()]
    request = "\r\n".join(["GET /talk HTTP/1.1", "Host: localhost", *lines, "", ""]).encode()
    with suppress(ConnectionError):
        writer.write(request if upgrade is None else upgrade)
        for data in frames:
            writer.write(data)
        heard = b""
        while read and b'"}' not in heard and (data := await reader.read(65536)):
            heard += data
        if not read:
            writer.transport.pause_reading()
            site.unread.append(writer)
            return None
        writer.close()
        if b'{"error"' in heard:
            return json.loads(heard[heard.index(b'{"error"') : heard.rindex(b'"}') + 2])
    return None


KINDS: list[Callable[[Site, random.Random], Awaitable[Told]]] = [
    bad_wishes, bad_json, bad_picture, bad_sound, wrong_order, garbage, silence, flood, words_after_the_end, ping_flood, vanish,
    slow_reader, half_open, broken_frames, never_ending_message, huge_message, odd_request,
]  # fmt: skip
