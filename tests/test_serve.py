"""A box with two pools on the network: each stream stays on its pool, and what goes wrong is told in one line."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal

import av
import pytest
from made import speech_like
from test_pool import make_pool, tests_on_path  # noqa: F401 (a fixture)

aiohttp = pytest.importorskip("aiohttp")
from aiohttp.test_utils import TestClient, TestServer  # noqa: E402

from livetalk_core.serve.service import Service  # noqa: E402


@pytest.fixture(scope="module")
def pools(tests_on_path):  # noqa: F811 (a fixture)
    """Two pools on one machine, one worker each; the second's steps are slow."""
    made = [make_pool(1), make_pool(1, step_s=0.1)]
    for pool in made:
        pool.start()
    yield made
    for pool in made:
        pool.close()


def on_server(pools, visit, max_sessions=4):
    """What the coroutine `visit(client, service)` returns, run against a server in this process."""

    async def run():
        service = Service(pools, max_sessions, origins=("https://good.example",))
        async with TestClient(TestServer(service.application())) as client:
            try:
                return await asyncio.wait_for(visit(client, service), 60)
            finally:
                service.threads.shutdown(wait=False)

    return asyncio.run(run())


async def begin(client, portrait, **wishes):
    """An open stream and what the server says of it."""
    connection = await client.ws_connect("/talk", max_msg_size=0)
    await connection.send_json({"size": "48x32"} | wishes)
    await connection.send_bytes(portrait.read_bytes())
    return connection, await connection.receive_json()


async def say(connection, seconds: float, pieces: int = 5) -> None:
    data = speech_like(seconds).astype("<f4").tobytes()
    step = -(-len(data) // pieces // 4) * 4
    for start in range(0, len(data), step):
        await connection.send_bytes(data[start : start + step])
    await connection.send_json({"finish": True})


async def hear(connection) -> tuple[bytes, dict]:
    """The video, and the last word."""
    video = b""
    async for message in connection:
        if message.type == aiohttp.WSMsgType.TEXT:
            return video, json.loads(message.data)
        video += message.data
    raise AssertionError("closed without a word")


def first_values(video: bytes) -> list[int]:
    """One pixel's gray of every frame."""
    with av.open(io.BytesIO(video)) as container:
        return [int(frame.to_ndarray(format="rgb24")[16, 24, 0]) for frame in container.decode(video=0)]


async def until(condition) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("never")


def test_a_stream_comes_back_as_video_with_all_its_frames(pools, portrait):
    async def visit(client, service):
        connection, place = await begin(client, portrait, seed=100, steps=1)
        await say(connection, 2.4)
        return place, *(await hear(connection))

    place, video, last = on_server(pools, visit)
    assert (place["pool"], place["width"], place["height"]) == (0, 48, 32) and place["mime"].startswith("video/mp4")
    values = first_values(video)
    assert last == {"ended": True} and len(values) == 60
    assert all(abs(value - 101 - k // 28) <= 2 for k, value in enumerate(values)), "each chunk has the color of its stream and turn"


def test_streams_are_spread_over_the_pools_and_each_stays_on_its_own(pools, portrait):
    async def visit(client, service):
        streams = [await begin(client, portrait, seed=seed, steps=1) for seed in (50, 100, 150)]
        state = await (await client.get("/state")).json()
        for connection, _ in streams:
            await say(connection, 2.4)
        return state, [place["pool"] for _, place in streams], [await hear(connection) for connection, _ in streams]

    state, placed, heard = on_server(pools, visit)
    assert placed == [0, 1, 0] and [pool["sessions"] for pool in state["pools"]] == [2, 1]
    assert {pool["kind"] for pool in state["pools"]} <= {"ready", "busy"}
    for seed, (video, last) in zip((50, 100, 150), heard, strict=True):
        assert last == {"ended": True}
        assert all(abs(value - seed - 1 - k // 28) <= 2 for k, value in enumerate(first_values(video))), "motion state was its own"


def test_a_full_box_sends_the_next_stream_elsewhere(pools, portrait):
    async def visit(client, service):
        connection, _ = await begin(client, portrait)
        refused = await client.get("/talk")
        answer = refused.status, await refused.json()
        await connection.close()
        await until(lambda: sum(service.sessions.values()) == 0)
        again, place = await begin(client, portrait)
        await again.close()
        return *answer, place

    status, answer, place = on_server(pools, visit, max_sessions=1)
    assert status == 503 and answer["error"] == "all 1 streams of this box are taken; try another box"
    assert "mime" in place


@pytest.mark.parametrize("origin, status", [("https://bad.example", 403), ("https://good.example", 101), (None, 101)])
def test_only_pages_that_are_allowed_may_connect(pools, origin, status):
    async def visit(client, service):
        headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "A" * 22 + "=="}
        async with client.get("/talk", headers=headers | ({"Origin": origin} if origin else {})) as response:
            return response.status

    assert on_server(pools, visit) == status


@pytest.mark.parametrize(
    "first, second, message",
    [
        ("[]", b"", "the first message must be a JSON object"),
        ('{"seed": "x"}', b"", "the first message must be a JSON object"),
        ('{"speed": 1}', b"", "the first message must be a JSON object"),
        ('{"seed": -1}', b"", "seed=-1 must be 0 to 2^63 - 1"),
        ('{"size": "50x32"}', None, "width=50 must be a multiple of 16; nearest: 48 or 64"),
        ("{}", b"no picture", "picture"),
        ('{"prompt": "refuse"}', None, "prompt='refuse' must be another"),
    ],
)
def test_a_mistake_is_told_in_one_line(pools, portrait, first, second, message):
    async def visit(client, service):
        connection = await client.ws_connect("/talk")
        await connection.send_str(first)
        await connection.send_bytes(portrait.read_bytes() if second is None else second)
        return await hear(connection)

    video, last = on_server(pools, visit)
    assert video == b"" and message in last["error"] and "\n" not in last["error"]
    assert pools[0].state.kind == "ready"


def test_a_client_that_leaves_stops_its_chunk_and_frees_its_place(pools, portrait):
    async def visit(client, service):
        connection, place = await begin(client, portrait, steps=1000)
        await say(connection, 2.4)
        await until(lambda: pools[place["pool"]].state.kind == "busy")
        await connection.close()
        await until(lambda: sum(service.sessions.values()) == 0)
        return place["pool"]

    pool = pools[on_server(pools, visit)]
    assert pool.stats()["sessions"] == 0 and pool.state.kind == "ready"


def test_a_worker_that_dies_is_named_to_its_clients_and_the_next_stream_works(pools, portrait):
    async def visit(client, service):
        connection, place = await begin(client, portrait, steps=1000)
        await say(connection, 2.4)
        pool = pools[place["pool"]]
        await until(lambda: pool.state.kind == "busy")
        os.kill(pool.workers.members[0].process.pid, signal.SIGKILL)
        failed = await hear(connection)
        again, _ = await begin(client, portrait, steps=1)
        await say(again, 1.2)
        return failed, await hear(again)

    (_, failed), (video, last) = on_server(pools, visit)
    assert "rank 0 was killed by SIGKILL" in failed["error"]
    assert last == {"ended": True} and len(first_values(video)) == 30
