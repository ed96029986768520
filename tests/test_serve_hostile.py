"""Hostile clients beside one that behaves: it notices nothing, and they leave nothing behind."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import random
import socket as sockets
import tempfile
import threading
import time
import tracemalloc
from collections import Counter
from dataclasses import replace

import pytest
from made import HANG_S
from PIL import Image
from test_pool import make_pool, tests_on_path  # noqa: F401 (a fixture)

pytest.importorskip("aiohttp")
pytest.importorskip("prometheus_client")
import hostile  # noqa: E402
from serving import LIMITS, NearPool, hear, picture_file, run, sound  # noqa: E402

PICTURE = picture_file()
AT_ONCE = 8
ROOMY = replace(LIMITS, sessions=300, sessions_per_address=300)
"""A place for every client: on a busy machine those that have left may still hold theirs."""
TRACED_MB = 2
"""More than this of Python's own memory after a siege would be kept for clients that are gone."""
HASTY = {"first_s": 0.2, "picture_s": 0.2, "silence_s": 0.2, "answer_s": 0.1, "unread_s": 0.2}
"""For hostile clients only, so that nobody has to wait long for those that are silent."""


async def behave(site, turns: asyncio.Queue, opened: asyncio.Event) -> bytes:
    """A stream that says a piece of speech at every turn, and ends at None: its video."""
    socket, _ = await site.begin(PICTURE, seed=11, steps=1)
    opened.set()
    hearing, count = asyncio.create_task(hear(socket)), 0
    while await turns.get() is not None:
        await socket.send_bytes(sound(0.4, seed=count))
        count += 1
    await socket.send_json({"finish": True})
    video, last = await hearing
    await socket.close()
    assert last == {"ended": True}
    return video


async def alone(site, num_turns: int) -> bytes:
    turns: asyncio.Queue = asyncio.Queue()
    for turn in [*range(num_turns), None]:
        turns.put_nowait(turn)
    return await behave(site, turns, asyncio.Event())


async def attack(site, kinds, draw: random.Random) -> Counter:
    """These kinds of hostile clients at once, to their end; how many were told each line."""
    told = await asyncio.gather(*(kind(site, random.Random(draw.random())) for kind in kinds))
    for line in filter(None, told):
        check_line(line)
    return Counter("nothing" if line is None else "error" if "error" in line else "ended" for line in told)


def check_line(line: dict) -> None:
    """One line, with nothing of this machine in it."""
    assert len(line) == 1 or "mime" in line, line
    text = str(line.get("error", ""))
    assert "\n" not in text and len(text) < 410
    assert not any(word in text for word in (tempfile.gettempdir(), os.path.expanduser("~"), "Traceback", sockets.gethostname())), text


def traces() -> float:
    gc.collect()
    return tracemalloc.get_traced_memory()[0] / 1e6


def resident_mb() -> float:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free is given back
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


async def settled(before_mb: float) -> float:
    """`traces` once what connections and threads still finish is gone, or when it does not go."""
    end = time.monotonic() + HANG_S / 4
    while traces() - before_mb >= TRACED_MB and time.monotonic() < end:
        await asyncio.sleep(0.05)
    return traces()


async def besiege(site, count: int, seed: int) -> dict:
    """`count` hostile clients, every kind as often, with a stream beside them; what is left of them."""
    draw, num_turns = random.Random(seed), -(-count // AT_ONCE)
    site.unread = []
    kinds = [hostile.KINDS[k % len(hostile.KINDS)] for k in range(count)]
    draw.shuffle(kinds)
    alone_video = await alone(site, num_turns)
    turns, opened = asyncio.Queue(), asyncio.Event()
    stream = asyncio.create_task(behave(site, turns, opened))
    await opened.wait()
    site.service.limits = replace(ROOMY, **HASTY)
    told: Counter = Counter()
    Image.init()  # the first picture that is none makes Pillow load all its readers
    tracemalloc.start()
    for turn in range(num_turns):
        told += await attack(site, kinds[turn * AT_ONCE : (turn + 1) * AT_ONCE], draw)
        turns.put_nowait(turn)
        if turn == num_turns // 4:  # what is kept once has been made by now
            before = traces(), resident_mb()
    turns.put_nowait(None)
    video = await stream
    await site.service.admission.empty.wait()
    while site.unread:  # theirs, with what they have not sent, is not the server's memory
        writer = site.unread.pop()
        writer.transport.abort()
        await asyncio.wait([asyncio.ensure_future(writer.wait_closed())])
    after = await settled(before[0]), resident_mb()
    tracemalloc.stop()
    size = {"same": video == alone_video, "video_bytes": len(video)}
    return size | {"told": told, "traced_mb": after[0] - before[0], "resident_mb": after[1] - before[1]}


async def leftovers(site) -> set[str]:
    """Tasks that are left when everybody has gone."""
    mine = asyncio.current_task()
    end = time.monotonic() + HANG_S
    while True:
        tasks = {task.get_coro().__qualname__ for task in asyncio.all_tasks() if task is not mine}
        strange = {name for name in tasks if not name.startswith(("Readiness.", "run.<locals>", "RequestHandler.start"))}
        if not strange or time.monotonic() > end:
            return strange
        await asyncio.sleep(0.01)


def check(found: dict, count: int) -> None:
    print(found)
    assert found["same"] and found["video_bytes"] > 10_000, "the stream beside them came out as alone"
    assert found["told"].total() == count and found["told"]["error"] > count // 3
    assert found["traced_mb"] < TRACED_MB and found["resident_mb"] < 50
    assert found["left"] == set()


@pytest.mark.parametrize("count, seed", [(3 * len(hostile.KINDS), 4), pytest.param(200, 5, marks=pytest.mark.slow)])
def test_hostile_clients_harm_no_other_stream_and_leave_nothing_behind(count, seed):
    pool, threads = NearPool(), threading.active_count()

    async def visit(site):
        found = await besiege(site, count, seed)
        return found | {"left": await leftovers(site)}

    check(run(visit, [pool], ROOMY), count)
    assert not pool.streams and threading.active_count() == threads


@pytest.mark.slow
def test_hostile_clients_do_no_harm_to_a_pool_of_workers(tests_on_path):  # noqa: F811 (a fixture)
    pool = make_pool(1, "livetalk_core.engine.load:load_member", model="tiny", device="cpu")
    pool.start()
    try:

        async def visit(site):
            found = await besiege(site, 4 * len(hostile.KINDS), seed=6)
            return found | {"left": await leftovers(site), "failure": pool.workers.failure}

        found = run(visit, [pool], ROOMY)
        stats = pool.stats()
    finally:
        pool.close()
    check(found, 4 * len(hostile.KINDS))
    assert found["failure"] is None and stats["sessions"] == 0
