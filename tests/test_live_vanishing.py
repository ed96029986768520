"""A hundred clients that connect to a door and vanish at any moment leave nothing behind; one that does not read harms no other."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import os
import threading
from dataclasses import replace
from socket import SO_RCVBUF, SO_SNDBUF, SOL_SOCKET

import numpy as np
import pytest
import torch

aiohttp = pytest.importorskip("aiohttp")
pytest.importorskip("prometheus_client")
from serving import LIMITS, NearPool, picture_file, run, until  # noqa: E402
from test_live_door import Client, LivePool, figures  # noqa: E402

from livetalk_core.serve import player, service  # noqa: E402
from livetalk_core.serve.conversation import Conversation  # noqa: E402
from livetalk_core.serve.live import LiveConnection  # noqa: E402
from livetalk_core.serve.session import LiveSession  # noqa: E402

PICTURE = picture_file()
CLIENTS = 100


async def begin_live(socket, stage: int, webrtc: bool = False) -> None:
    """Go so far into a session as `stage` says: 0 is only the connection."""
    if stage > 0:
        await socket.send_json({"webrtc": True} if webrtc else {})
    if stage > 1:
        await socket.send_bytes(PICTURE)
    if stage > 2:
        await socket.receive()
    if stage > 3:
        await socket.send_bytes(np.full(8000, 0.3, "<f4").tobytes())


async def begin_webrtc(socket, stage: int) -> None:
    await begin_live(socket, min(stage, 3), webrtc=True)
    if stage > 3:
        aiortc = pytest.importorskip("aiortc")
        connection = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
        for kind in ("video", "audio"):
            connection.addTransceiver(kind, direction="recvonly")
        await connection.setLocalDescription(await connection.createOffer())
        await socket.send_json({"offer": connection.localDescription.sdp})
        while "answer" not in (told := json.loads((await socket.receive()).data)):
            assert "offer" not in told.get("problem", "")
        await connection.close()


async def begin_flashtalk(socket, stage: int) -> None:
    if stage > 0:
        await socket.send_json({"type": "init", "ref_image": base64.b64encode(PICTURE).decode()})
    if stage > 2:
        await socket.receive()
    if stage > 3:
        await socket.send_bytes(b"AUDI" + np.zeros(17920, "<i2").tobytes())


DOORS = {
    "/talk": (begin_live, NearPool),
    "/live": (begin_live, LivePool),
    "/live webrtc": (begin_webrtc, LivePool),
    "/v1/audio2video/flashtalk": (begin_flashtalk, NearPool),
}


def counts() -> dict[str, int]:
    """What a server could leave behind."""
    gc.collect()
    sessions = [thing for thing in gc.get_objects() if type(thing) in KINDS]
    threads = [thread for thread in threading.enumerate() if thread.name == "livetalk-session"]
    tasks = [task for task in asyncio.all_tasks() if not task.done()]
    return {"sessions": len(sessions), "threads": len(threads), "tasks": len(tasks), "files": len(os.listdir("/proc/self/fd"))}


def no_more(now: dict[str, int], before: dict[str, int]) -> bool:
    """Less is well: what earlier tests of this process left is collected meanwhile."""
    return all(now[name] <= before[name] for name in now)


KINDS = (LiveSession, Conversation, player.Player)


@pytest.mark.parametrize("door", DOORS)
def test_a_hundred_clients_that_vanish_leave_nothing_behind(door):
    begin, pool = DOORS[door]

    async def vanish(site, stage):
        async with aiohttp.ClientSession() as session:
            address = site.address.replace("/talk", door.split()[0])
            socket = await session.ws_connect(address, max_msg_size=0)
            await begin(socket, stage)
            socket._response.connection.transport.abort()

    async def whole(site):
        found = []
        for start, end in ((0, 5), (5, 5 + CLIENTS)):
            for k in range(start, end):
                await vanish(site, k % 5)
            await site.service.admission.empty.wait()
            await until(lambda: not found or no_more(counts(), found[0]), every_s=0.5)  # to count takes long in a large process
            found.append(counts())
        return found, (await site.get("/metrics"))[1]

    found, metrics = run(whole, [pool()], replace(LIMITS, answer_s=1))
    assert no_more(found[1], found[0]) and found[1]["threads"] == 0, "no more after a hundred than after five"
    assert found[1]["sessions"] <= 2 * (door == "/live webrtc"), "what is left of a WebRTC connection does not grow with their number"
    assert "livetalk_failures_total 0.0" in metrics and f'livetalk_streams_ended_total{{how="left"}} {CLIENTS + 5:.1f}' in metrics


class Narrow(LiveConnection):
    """One in whose way the system keeps little, so that it is soon noticed that nobody reads."""

    def __init__(self, shared, pool, place, socket, transport):
        super().__init__(shared, pool, place, socket, transport)
        transport.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_SNDBUF, 4096)


def test_a_live_client_that_reads_nothing_costs_bounded_memory_is_let_go_and_harms_no_other(monkeypatch):
    kept = []
    put = player.Outlet.put
    monkeypatch.setattr(player.Outlet, "put", lambda self, shot: (put(self, shot), kept.append(self.shots.qsize()))[0])
    monkeypatch.setattr(player, "FPS", 500)  # its clock, so that seconds of video pass soon
    monkeypatch.setitem(service.DOORS, "/live", Narrow)

    async def whole(site):
        address = site.address.replace("/talk", "/live")
        deaf = await site.session.ws_connect(address, max_msg_size=0)
        transport = deaf._response.connection.transport
        transport.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_RCVBUF, 4096)
        await begin_live(deaf, 3)
        transport.pause_reading()
        other = await site.session.ws_connect(address, max_msg_size=0)
        await begin_live(other, 2)
        client = Client(other)
        reading = asyncio.ensure_future(client.read())
        await until(lambda: site.service.admission.num_streams == 1)
        shown = figures(client)["shown_frames"]
        await until(lambda: figures(client)["shown_frames"] > shown + 50 and not client.find("error"))
        await other.send_json({"finish": True})
        await reading
        deaf._response.connection.transport.abort()
        return client, (await site.get("/metrics"))[1]

    client, metrics = run(whole, [LivePool()], replace(LIMITS, unread_s=1.0, answer_s=100.0))
    assert max(kept) <= player.MOST_WAITING and client.told[-1] == {"ended": True}
    assert 'livetalk_refused_total{reason="unread"} 1.0' in metrics


def test_a_hundred_generators_of_livekit_end_with_their_readers():
    pytest.importorskip("livekit.agents")
    from livetalk_core.serve.livekit import LiveTalkGenerator

    async def read_some(session):
        frames = LiveTalkGenerator(session).__aiter__()
        await frames.__anext__()
        await frames.aclose()

    check_readers(read_some)


def test_a_hundred_processors_of_pipecat_end_with_their_pipelines():
    pytest.importorskip("pipecat")
    from pipecat.frames.frames import EndFrame, OutputImageRawFrame
    from pipecat.pipeline.pipeline import Pipeline
    from pipecat.pipeline.runner import PipelineRunner
    from pipecat.pipeline.task import PipelineParams, PipelineTask
    from pipecat.processors.frame_processor import FrameProcessor

    from livetalk_core.serve.pipecat import LiveTalkProcessor

    class Watcher(FrameProcessor):
        async def process_frame(self, frame, direction):
            await super().process_frame(frame, direction)
            if isinstance(frame, OutputImageRawFrame):
                await self.task.queue_frame(EndFrame())
                return
            await self.push_frame(frame, direction)

    async def read_some(session):
        watcher = Watcher()
        watcher.task = PipelineTask(Pipeline([LiveTalkProcessor(session), watcher]), params=PipelineParams())
        await PipelineRunner(handle_sigint=False).run(watcher.task)

    check_readers(read_some)


def check_readers(read_some) -> None:
    """Let a hundred readers come to sessions of their own, one after the other."""

    async def whole():
        pool, found = LivePool(), []
        reference = pool.reference(torch.zeros(3, 32, 48))
        for start, end in ((0, 5), (5, 5 + CLIENTS)):
            for _ in range(start, end):
                session = LiveSession(pool, reference).start()
                await read_some(session)
                await asyncio.to_thread(session.close)
                del session
                pool.opened.clear()
            await asyncio.sleep(0)
            found.append(counts())
        return found

    found = asyncio.run(whole())
    assert no_more(found[1], found[0] | {"sessions": found[0]["sessions"] + 2}) and found[1]["threads"] == 0
