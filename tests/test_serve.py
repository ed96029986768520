"""A server with two pools of workers: each stream stays on its pool, and a failure ends only its own streams."""

from __future__ import annotations

import io
import json
import os
import signal
from dataclasses import replace

import av
import pytest
from test_pool import make_pool, tests_on_path  # noqa: F401 (a fixture)

pytest.importorskip("aiohttp")
pytest.importorskip("prometheus_client")
from serving import UPGRADE, hear, picture_file, run, say, until  # noqa: E402

from livetalk_core.serve.limits import ClientLimits  # noqa: E402

LIMITS = ClientLimits(size="48x32", max_steps=1000)
PICTURE = picture_file()


@pytest.fixture(scope="module")
def pools(tests_on_path):  # noqa: F811 (a fixture)
    """Two pools on one machine, one worker each; the second's steps are slow."""
    made = [make_pool(1), make_pool(1, step_s=0.1)]
    for pool in made:
        pool.start()
    yield made
    for pool in made:
        pool.close()


def first_values(video: bytes) -> list[int]:
    """One pixel's gray of every frame."""
    with av.open(io.BytesIO(video)) as container:
        return [int(frame.to_ndarray(format="rgb24")[16, 24, 0]) for frame in container.decode(video=0)]


def test_a_stream_comes_back_as_video_with_all_its_frames(pools):
    async def visit(site):
        socket, place = await site.begin(PICTURE, seed=100, steps=1)
        await say(socket, 2.4)
        return place, *(await hear(socket))

    place, video, last = run(visit, pools, LIMITS)
    assert place | {"mime": ""} == {"box": "livetalk", "pool": 0, "mime": "", "width": 48, "height": 32, "fps": 25, "sample_rate": 16000}
    values = first_values(video)
    assert place["mime"].startswith("video/mp4") and last == {"ended": True} and len(values) == 60
    assert all(abs(value - 101 - k // 28) <= 2 for k, value in enumerate(values)), "each chunk has the color of its stream and turn"


def test_streams_are_spread_over_the_pools_and_each_stays_on_its_own(pools):
    async def visit(site):
        streams = [await site.begin(PICTURE, seed=seed, steps=1) for seed in (50, 100, 150)]
        state = json.loads((await site.get("/state"))[1])
        for socket, _ in streams:
            await say(socket, 2.4)
        return state, [place["pool"] for _, place in streams], [await hear(socket) for socket, _ in streams]

    state, placed, heard = run(visit, pools, LIMITS)
    assert placed == [0, 1, 0] and [pool["sessions"] for pool in state["pools"]] == [2, 1]
    assert {pool["kind"] for pool in state["pools"]} <= {"ready", "busy"}
    for seed, (video, last) in zip((50, 100, 150), heard, strict=True):
        assert last == {"ended": True}
        assert all(abs(value - seed - 1 - k // 28) <= 2 for k, value in enumerate(first_values(video))), "motion state was its own"


def test_a_full_server_sends_the_next_stream_elsewhere(pools):
    async def visit(site):
        socket, _ = await site.begin(PICTURE)
        answer = await site.get("/talk", headers=UPGRADE)
        await socket.close()
        await site.service.admission.empty.wait()
        again, place = await site.begin(PICTURE)
        await again.close()
        return *answer, place

    status, answer, place = run(visit, pools, replace(LIMITS, sessions=1))
    assert status == 503 and json.loads(answer)["error"] == "all 1 streams of this server are taken; try another"
    assert "mime" in place


def test_a_client_that_leaves_stops_its_chunk_and_frees_its_place(pools):
    async def visit(site):
        socket, place = await site.begin(PICTURE, steps=1000)
        await say(socket, 2.4)
        await until(lambda: pools[place["pool"]].state.kind == "busy")
        await socket.close()
        await site.service.admission.empty.wait()
        return place["pool"]

    pool = pools[run(visit, pools, LIMITS)]
    assert pool.stats()["sessions"] == 0 and pool.state.kind == "ready"


def test_a_worker_that_dies_ends_its_streams_the_next_one_works_and_the_pool_comes_back(pools):
    async def visit(site):
        socket, place = await site.begin(PICTURE, steps=1000)
        await say(socket, 2.4)
        pool = pools[place["pool"]]
        await until(lambda: pool.state.kind == "busy")
        os.kill(pool.workers.members[0].process.pid, signal.SIGKILL)
        failed = await hear(socket)
        again, _ = await site.begin(PICTURE, steps=1)
        await say(again, 1.2)
        heard = await hear(again)
        await until(lambda: pool.state.kind == "ready")
        return failed, heard, await site.get("/metrics")

    (_, failed), (video, last), (_, metrics) = run(visit, pools, LIMITS)
    assert failed == {"error": "worker 0 of this server failed; open a new stream"}
    assert last == {"ended": True} and len(first_values(video)) == 30
    assert "livetalk_failures_total 1.0" in metrics
