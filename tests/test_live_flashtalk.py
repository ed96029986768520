"""The FlashTalk door: with the client class of the package opentalking where it is installed, and message by message without it."""

from __future__ import annotations

import base64
import json
import struct

import numpy as np
import pytest

aiohttp = pytest.importorskip("aiohttp")
pytest.importorskip("prometheus_client")
from serving import NearPool, picture_file, run  # noqa: E402

PICTURE = picture_file()
INIT = {"type": "init", "ref_image": base64.b64encode(PICTURE).decode(), "prompt": "A person.", "seed": 5, "cfg_scale": 3.0}
CHUNK = b"AUDI" + np.zeros(17920, "<i2").tobytes()


def visit(talk):
    async def whole(site):
        address = site.address.replace("/talk", "/v1/audio2video/flashtalk")
        answer = await talk(address, site)
        await site.service.admission.empty.wait()
        return answer

    pool = NearPool()
    answer = run(whole, [pool])
    assert not pool.streams, "no stream is left open"
    return answer


async def ask(socket, *messages):
    """What is answered to each message: JSON, or the sizes of the JPEG frames."""
    answers = []
    for message in messages:
        await (socket.send_bytes(message) if isinstance(message, bytes) else socket.send_str(message))
        answer = await socket.receive()
        answers.append(json.loads(answer.data) if answer.type == aiohttp.WSMsgType.TEXT else jpegs(answer.data))
    return answers


def jpegs(data: bytes) -> list[bytes]:
    assert data[:4] == b"VIDX"
    (count,), at, frames = struct.unpack("<I", data[4:8]), 8, []
    for _ in range(count):
        (length,) = struct.unpack("<I", data[at : at + 4])
        frames.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    assert at == len(data) and all(frame.startswith(b"\xff\xd8") for frame in frames)
    return frames


def test_a_session_by_the_protocol_gives_a_chunk_of_frames_for_a_chunk_of_sound():
    async def talk(address, site):
        async with site.session.ws_connect(address, max_msg_size=0) as socket:
            return await ask(socket, json.dumps(INIT), *[CHUNK] * 3, '{"type": "config_update", "config": {}}', '{"type": "close"}')

    init, *chunks, config, closed = visit(talk)
    assert init == {
        "type": "init_ok", "frame_num": 33, "motion_frames_num": 5, "slice_len": 28, "fps": 25, "height": 32, "width": 48,
        "chunk_samples": 17920,
    }  # fmt: skip
    assert [len(frames) for frames in chunks] == [28, 28, 28] and config == {"type": "config_ok"} and closed == {"type": "closed"}


def test_malformed_messages_are_answered_in_the_protocols_error_form_and_the_session_goes_on():
    wrong = [
        CHUNK,
        '{"type": "init"}',
        '{"type": "init", "ref_image": "%%%"}',
        json.dumps(INIT | {"ref_image": base64.b64encode(b"no picture").decode()}),
        json.dumps(INIT | {"seed": "x"}),
        json.dumps(INIT | {"seed": -1}),
        json.dumps(INIT | {"prompt": "refuse"}),
        json.dumps(INIT | {"prompt": 7}),
        "[]",
        '{"type": "dance"}',
        b"AUDX" + b"\0" * 8,
        b"AUDI\0",
        b"AUDI" + np.zeros(16000 * 61, "<i2").tobytes(),
    ]

    async def talk(address, site):
        async with site.session.ws_connect(address, max_msg_size=0) as socket:
            return await ask(socket, *wrong, json.dumps(INIT), b"AUDI", CHUNK, '{"type": "close"}')

    answers = visit(talk)
    for answer in answers[: len(wrong)]:
        assert answer["type"] == "error" and answer["message"] and "\n" not in answer["message"]
    init, nothing, frames, closed = answers[len(wrong) :]
    assert init["type"] == "init_ok" and nothing == [] and len(frames) == 28 and closed == {"type": "closed"}


def test_the_client_class_of_opentalking_makes_five_chunks():
    client_module = pytest.importorskip("opentalking.providers.synthesis.flashtalk.ws_client")

    async def talk(address, site):
        client = client_module.FlashTalkWSClient(address)
        await client.init_session(PICTURE, seed=5)
        counts = [len(await client.generate(np.zeros(client.audio_chunk_samples, np.int16))) for _ in range(5)]
        await client.close()
        again = client_module.FlashTalkWSClient(address)
        with pytest.raises(RuntimeError, match="init failed: .*not a picture"):
            await again.init_session(b"no picture")
        await again.close()
        return counts

    assert visit(talk) == [28] * 5
