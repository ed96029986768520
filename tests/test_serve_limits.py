"""What a client may ask for: too much is refused in one line, and late or silent clients are let go."""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import threading
import zlib
from contextlib import suppress
from dataclasses import fields, replace
from socket import SO_RCVBUF, SOL_SOCKET

import numpy as np
import pytest
import torch

aiohttp = pytest.importorskip("aiohttp")
pytest.importorskip("prometheus_client")
from aiohttp import WSMessage  # noqa: E402
from made import GRAY, HEAD, small_face  # noqa: E402
from PIL import Image  # noqa: E402
from serving import LIMITS, NearPool, hear, picture_file, run, say, sound, until  # noqa: E402

from livetalk_core.cli.serve import add_serve, limits_of  # noqa: E402
from livetalk_core.media.image import crop_cover  # noqa: E402
from livetalk_core.presets import nano, tiny  # noqa: E402
from livetalk_core.serve.inbox import Inbox  # noqa: E402
from livetalk_core.serve.limits import ClientLimits  # noqa: E402
from livetalk_core.serve.picture import read_picture  # noqa: E402
from livetalk_core.serve.refusal import Gone, Refused, explain  # noqa: E402
from livetalk_core.serve.sound_queue import SoundQueue  # noqa: E402
from livetalk_core.types import NoRoom  # noqa: E402

PICTURE = picture_file()
LONG = sound(2.0)
NUMBER = "9" * 4000


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims to be so large, with almost nothing in it."""

    def part(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    size = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", size) + part(b"IDAT", zlib.compress(bytes(1000))) + part(b"IEND", b"")


def many_scans() -> bytes:
    """A JPEG whose last scan is repeated."""
    file = io.BytesIO()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * 200 + data[-2:]


def gif() -> bytes:
    return picture_file(kind="GIF")


def refusal(messages, limits=LIMITS) -> tuple[str, str]:
    """The reason and the line with which a client that sends these messages is refused."""

    async def visit(site):
        socket = await site.connect()
        for message in messages:
            await (socket.send_bytes(message) if isinstance(message, bytes) else socket.send_str(message))
        line = None
        async for message in socket:
            if message.type == aiohttp.WSMsgType.TEXT:
                line = json.loads(message.data)
        await site.service.admission.empty.wait()
        _, metrics = await site.get("/metrics")
        reasons = [row.split('"')[1] for row in metrics.splitlines() if row.startswith("livetalk_refused_total")]
        return reasons, line

    reasons, line = run(visit, limits=limits)
    assert set(line) == {"error"} and "\n" not in line["error"] and len(line["error"]) < 410
    assert len(reasons) == 1
    return reasons[0], line["error"]


@pytest.mark.parametrize(
    "messages, reason, line",
    [
        (["[]"], "wishes", "the first message must be one"),
        (["{"], "wishes", "must be a JSON object"),
        (["[" * 20000], "wishes", "must be a JSON object"),
        (['{"seed": ' + NUMBER + "}"], "wishes", "seed=99999999999999999999... must be 0 to 2^63 - 1"),
        (['{"seed": -1}'], "wishes", "seed=-1 must be 0 to 2^63 - 1"),
        (['{"seed": "x"}'], "wishes", "the first message may hold"),
        (['{"seed": NaN}'], "wishes", "the first message may hold"),
        (['{"steps": true}'], "wishes", "the first message may hold"),
        (['{"speed": 1}'], "wishes", "the first message may hold"),
        ([json.dumps({"prompt": "x" * 100_000})], "wishes", "the most is 28384"),
        ([json.dumps({"prompt": "x" * 2001})], "prompt", "the prompt has 2001 characters; the most is 2000"),
        ([r'{"prompt": "\ud800"}'], "prompt", "half a character"),
        (['{"steps": 1000000000}'], "steps", "steps=1000000000 must be 1 to 8"),
        (['{"steps": 0}'], "steps", "steps=0 must be 1 to 8"),
        ([PICTURE], "wishes", "the first message must be one"),
        (["{}", "{}"], "picture", "the second message must be binary: a picture file"),
        (["{}", LONG], "picture", "is not a picture that can be read; send JPEG, PNG, WEBP"),
        (["{}", b""], "picture", "is not a picture that can be read"),
        (["{}", gif()], "picture", "is not a picture that can be read"),
        (["{}", PICTURE[:-40]], "picture", "is cut short or broken"),
        (["{}", bytes(17_000_000)], "picture", "the picture file has 17.0 MB; the most is 16 MB"),
        (["{}", png_header(10_000, 10_000)], "picture", "has 10000x10000 pixels; the most is 40 megapixels"),
        (["{}", png_header(60_000, 60_000)], "picture", "has 60000x60000 pixels"),
        (["{}", png_header(40, 16_000)], "picture", "is cut short or broken"),
        (["{}", many_scans()], "picture", "has more than 100 scans"),
        (["{}", picture_file(8, 8)], "picture", "each side must be 32 or more"),
        (['{"size": "16000x16000"}', PICTURE], "size", "size '16000x16000' is not offered; choose auto, 64, 48x32, or one of"),
        (['{"size": "960"}', PICTURE], "size", "size '960' is not offered"),
        (['{"size": "50x32"}', PICTURE], "size", "size '50x32' is not offered"),
        ([json.dumps({"size": "1x" * 2000}), PICTURE], "size", "is not offered"),
        (['{"prompt": "refuse"}', PICTURE], "input", "prompt='refuse' must be another; see ..."),
        (["{}", PICTURE, LONG[:-1]], "sound", "must be whole samples"),
        (["{}", PICTURE, bytes(4 * 16000 * 61)], "sound", "one message has 61.0 s of sound; the most is 60 s"),
        (["{}", PICTURE, np.full(9, np.nan, "<f4").tobytes()], "sound", "a sample of nan must be from -1 to 1"),
        (["{}", PICTURE, np.full(9, np.inf, "<f4").tobytes()], "sound", "a sample of inf must be from -1 to 1"),
        (["{}", PICTURE, np.full(9, 32767, "<f4").tobytes()], "sound", "divide integer samples by their full scale"),
        (["{}", PICTURE, "{}"], "wishes", 'at its end {"finish": true}'),
        (["{}", PICTURE, "not JSON"], "wishes", "must be a JSON object"),
        (["{}", PICTURE] + [b""] * 1000, "messages", "1001 messages for so little sound"),
    ],
)  # fmt: skip
def test_too_much_is_refused_in_one_line(messages, reason, line):
    found, text = refusal(messages)
    assert (found, line in text) == (reason, True), text
    assert "/home" not in text and "/tmp" not in text


def test_a_picture_that_would_be_scaled_to_very_many_pixels_is_refused():
    limits = replace(LIMITS, allow_size=("960",))
    with pytest.raises(Refused, match="32x9000 pixels is too long and thin; crop it nearer to 512x1920"):
        read_picture(picture_file(32, 9000), "960", tiny(), limits)
    assert read_picture(picture_file(32, 9000), "48x32", tiny(), limits).shape == (3, 32, 48)


def test_a_small_face_in_a_clients_picture_is_cropped_to():
    """A server has no --crop, and a face of few pixels would not talk."""
    pytest.importorskip("cv2")
    head, data = Image.open(HEAD), io.BytesIO()
    small_face().save(data, "png")
    gray = (read_picture(data.getvalue(), "128x128", nano(), replace(LIMITS, allow_size=("128",))) - wide_gray()).abs().amax(0) < 0.02
    assert gray.float().mean() < 0.3
    data = io.BytesIO()
    head.save(data, "png")
    whole = crop_cover(head.convert("RGB"), 128, 128)
    assert torch.equal(read_picture(data.getvalue(), "128x128", nano(), replace(LIMITS, allow_size=("128",))), whole), "a large face"


def wide_gray() -> torch.Tensor:
    return torch.tensor(GRAY).view(3, 1, 1) / 127.5 - 1


@pytest.mark.parametrize(
    "messages, limits, line",
    [
        ([], {"first_s": 0.01}, "the first message did not come within 0.01 s"),
        (["{}"], {"picture_s": 0.01}, "the picture did not come within 0.01 s"),
        (["{}", PICTURE], {"silence_s": 0.01}, "more sound did not come within 0.01 s"),
    ],
)
def test_a_client_that_keeps_the_stream_waiting_is_let_go(messages, limits, line):
    assert refusal(messages, replace(LIMITS, **limits)) == ("slow", line)


def test_a_stream_without_room_is_told_so_and_no_failure():
    reason, line = refusal([json.dumps({"prompt": "no room"}), PICTURE])
    assert (reason, line) == ("memory", "no memory for another stream: it needs 6.6 GiB free on each GPU; end a stream first")
    assert explain(NoRoom(line)).status == 503


def test_a_client_that_leaves_while_its_prompt_is_encoded_frees_its_place():
    async def visit(site):
        socket = await site.connect()
        await socket.send_json({"prompt": "wait for ever"})
        await socket.send_bytes(PICTURE)
        await until(lambda: site.service.admission.num_streams == 1)
        await socket.close()
        await site.service.admission.empty.wait()
        return True

    assert run(visit)


def test_a_stream_has_its_end():
    assert refusal(["{}", PICTURE, LONG], replace(LIMITS, session_s=0.2)) == ("session", "a stream may last 0.2 s; open a new one")


def test_an_error_of_the_server_is_told_without_details():
    async def visit(site):
        socket = await site.connect()
        await socket.send_json({"prompt": "break"})
        await socket.send_bytes(PICTURE)
        return (await hear(socket))[1], await site.get("/metrics")

    line, (_, metrics) = run(visit)
    assert line == {"error": "something failed in this server, and its log says what; open a new stream"}
    assert "livetalk_failures_total 1.0" in metrics and 'how="failed"} 1.0' in metrics


class ScriptedSocket:
    """A client whose messages come as listed, and None is a wait in vain."""

    def __init__(self, *messages):
        self.messages, self.pings = list(messages), 0

    async def receive(self, timeout):
        message = self.messages.pop(0)
        if message is None:
            raise asyncio.TimeoutError
        return WSMessage(message, b"", None)

    async def ping(self):
        self.pings += 1


def test_a_silent_client_is_asked_whether_it_is_there_and_let_go_when_it_does_not_answer():
    kinds = aiohttp.WSMsgType
    there = ScriptedSocket(None, kinds.PONG, None, kinds.PONG, kinds.BINARY)
    message = asyncio.run(Inbox(there, LIMITS).message(1000, "sound"))
    assert message.type == kinds.BINARY and there.pings == 2
    with pytest.raises(Gone):
        asyncio.run(Inbox(ScriptedSocket(None, None), LIMITS).message(1000, "sound"))


def test_a_client_that_answers_nothing_leaves_nothing_behind():
    async def visit(site):
        await site.connect()  # and never reads, so that no ping is answered
        await until(lambda: site.service.admission.num_streams == 0)
        return await site.get("/metrics")

    assert 'how="left"} 1.0' in run(visit, limits=replace(LIMITS, answer_s=0.01))[1]


async def stop_reading(site, seconds: float):
    """A client that reads nothing more, and sends so much sound; ended by aborting its transport."""
    socket, _ = await site.begin(PICTURE, size="80x48", seed=1)
    transport = socket._response.connection.transport
    transport.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_RCVBUF, 4096)
    transport.pause_reading()

    async def send():
        with suppress(ConnectionError):
            for _ in range(round(seconds)):
                await socket.send_bytes(sound(1.0))

    return transport, asyncio.create_task(send())


def test_a_client_that_does_not_read_stops_its_own_stream_and_no_other():
    pool = NearPool()

    async def visit(site):
        transport, sending = await stop_reading(site, 600)
        slow = next(iter(pool.streams))
        await until(lambda: slow.index > 3)
        for seed in range(3):
            other, _ = await site.begin(PICTURE, seed=seed)
            await say(other, 2.4)
            assert (await hear(other))[1] == {"ended": True}
        assert pool.streams == {slow} and slow.index < 600 * 16000 // 17920
        transport.abort()
        await sending
        await site.service.admission.empty.wait()

    run(visit, [pool], replace(LIMITS, unread_s=1000.0))
    assert not pool.streams


def test_a_client_that_does_not_read_is_let_go():
    async def visit(site):
        transport, sending = await stop_reading(site, 600)
        await site.service.admission.empty.wait()
        transport.abort()
        await sending
        return await site.get("/metrics")

    _, metrics = run(visit, limits=replace(LIMITS, unread_s=0.3))
    assert 'livetalk_refused_total{reason="unread"} 1.0' in metrics and "livetalk_dropped_frames_total 0.0" not in metrics


def test_a_stream_that_is_opened_after_its_client_has_left_is_closed():
    pool, opening, go = NearPool(), threading.Event(), threading.Event()
    open_stream = pool.open

    def slow_open(*arguments):
        opening.set()
        assert go.wait(60)
        return open_stream(*arguments)

    pool.open = slow_open

    async def visit(site):
        socket = await site.connect()
        await socket.send_str("{}")
        await socket.send_bytes(PICTURE)
        await until(opening.is_set)
        socket._response.connection.transport.abort()
        for _ in range(100):  # the server hears of it before the stream is there
            await asyncio.sleep(0)
        go.set()
        await site.service.admission.empty.wait()

    run(visit, [pool])
    assert not pool.streams


def test_sound_waits_until_there_is_room_for_it():
    async def whole():
        queue, order = SoundQueue(100), []

        async def put(count):
            await queue.put(np.full(count, count, np.float32))
            order.append(count)

        await put(60)
        later = asyncio.create_task(put(50))
        for _ in range(5):
            await asyncio.sleep(0)
        assert order == [60] and len(queue) == 60
        assert (await queue.take(30)).tolist() == [60.0] * 30
        await later
        await queue.end()
        assert (await queue.take(1000)).tolist() == [60.0] * 30 + [50.0] * 50
        assert await queue.take(1000) is None

    asyncio.run(whole())


def test_every_limit_is_an_option_with_its_text_and_default():
    parser = argparse.ArgumentParser()
    add_serve(parser)
    assert limits_of(parser.parse_args([])) == ClientLimits()
    text = parser.format_help()
    assert all("--" + entry.name.replace("_", "-") in text for entry in fields(ClientLimits))
    limits = limits_of(parser.parse_args(["--max-steps", "4", "--allow-size", "960", "48x32", "--first-s", "0.5"]))
    assert limits == ClientLimits(max_steps=4, allow_size=("960", "48x32"), first_s=0.5)
    assert limits.choose_size("960", (100, 100), "64") == (960, 960) and limits.choose_size("48x32", (9, 9), "64") == (48, 32)
    assert limits.choose_size("auto", (50, 30), "64") == (80, 48) and limits.choose_size("720x416", (9, 9), "64") is None


@pytest.mark.parametrize(
    "given, message",
    [
        ({"max_steps": 0}, "max_steps=0 must be 1 or more"),
        ({"first_s": 0.0}, "first_s=0.0 must be above 0"),
        ({"first_s": float("nan")}, "first_s=nan must be above 0"),
        ({"allow_size": ("large",)}, "size 'large' must be WIDTHxHEIGHT"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        ClientLimits(**given)


def test_a_piece_is_encoded_while_the_next_is_made_and_a_bounded_number_waits(monkeypatch):
    """The first piece's encoding waits until the second is being made: were they one after the other, this would never end."""
    from livetalk_core.serve import video

    pool, second, write = NearPool(), threading.Event(), video.FragmentWriter.write
    made, written, ahead = [], [], []

    def begun(stream):
        made.append(stream)
        ahead.append(len(made) - len(written))
        if len(made) == 2:
            second.set()

    def waiting_write(writer, frames_THWC, samples_N):
        assert second.wait(60), "the second piece was not begun"
        write(writer, frames_THWC, samples_N)
        written.append(writer)

    pool.on_piece = begun
    monkeypatch.setattr(video.FragmentWriter, "write", waiting_write)

    async def visit(site):
        socket, _ = await site.begin(PICTURE)
        await say(socket, 11.2)
        return await hear(socket)

    _, last = run(visit, [pool])
    assert last == {"ended": True} and len(made) == len(written) == 30
    assert 2 <= max(ahead) <= 4, "one being made, one in hand, one waiting, one being encoded"
