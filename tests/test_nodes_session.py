"""LiveTalk Live Session: a session outlives its prompt, one page has it at a time, and it ends with its engine."""

from __future__ import annotations

import asyncio
import json
import threading
from types import SimpleNamespace

import pytest
import torch

aiohttp = pytest.importorskip("aiohttp")
from aiohttp import web  # noqa: E402
from live_engine import CountingEngine  # noqa: E402
from made import HANG_S  # noqa: E402

from livetalk_core.serve.refusal import Refused  # noqa: E402


@pytest.fixture
def sessions(nodes, monkeypatch):
    """The pack's sessions on an engine whose chunks take no time; all are ended afterwards."""
    monkeypatch.setattr(nodes.engines, "make_engine", lambda spec: (ClosingEngine(), 1000))
    nodes.sessions.OPENED.clear()
    yield nodes.sessions
    for opened in list(nodes.sessions.OPENED.values()):
        opened.end("the test is over")


class ClosingEngine(CountingEngine):
    def __init__(self):
        super().__init__(lambda seconds: None)
        self.closed_with = None

    def close(self):
        self.closed_with = [thread.name for thread in threading.enumerate() if thread.name == "livetalk-session"]


def run_node(nodes, reference, node: str = "4", **changed):
    nodes.LiveSessionNode.hidden = SimpleNamespace(unique_id=node, extra_pnginfo={"workflow": {"id": "w"}})
    settings = {"engine": nodes.engines.EngineSpec(), "reference": reference, "seed": 1, "steps": 0} | changed
    nodes.LiveSessionNode.execute(**settings)
    return next(opened for opened in nodes.sessions.OPENED.values() if opened.node == node)


@pytest.fixture
def reference():
    return ClosingEngine().reference(torch.zeros(3, 32, 48))


def visit(sessions, talk):
    """Run `talk(session, address)` against ComfyUI's routes."""

    async def whole():
        application, routes = web.Application(), web.RouteTableDef()
        sessions.add_routes(SimpleNamespace(routes=routes))
        application.add_routes(routes)
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            async with aiohttp.ClientSession() as session:
                return await asyncio.wait_for(talk(session, f"http://127.0.0.1:{runner.addresses[0][1]}"), HANG_S)
        finally:
            await runner.cleanup()

    return asyncio.run(whole())


async def read_until(socket, word: str) -> dict:
    """The next JSON message that has this word; binary messages become {"bytes": length}."""
    async for message in socket:
        told = json.loads(message.data) if message.type == aiohttp.WSMsgType.TEXT else {"bytes": len(message.data)}
        if word in told:
            return told
    raise AssertionError(f"closed without {word}")


def test_a_page_sees_and_hears_the_session_of_a_node_that_has_returned(nodes, sessions, reference):
    opened = run_node(nodes, reference)

    async def talk(client, address):
        (listed,) = await (await client.get(f"{address}/livetalk/sessions")).json()
        async with client.ws_connect(f"{address}/livetalk/session/{listed['session']}/talk") as socket:
            about = await read_until(socket, "width")
            mime = await read_until(socket, "mime")
            await read_until(socket, "bytes")
            await socket.send_bytes((torch.ones(32000) / 2).numpy().tobytes())
            while not (await read_until(socket, "figures"))["figures"]["utterances"]:
                pass
            await socket.send_json({"dance": True})
            problem = await read_until(socket, "problem")
            await socket.send_json({"finish": True})
            await read_until(socket, "ended")
        return listed, about, mime, problem

    listed, about, mime, problem = visit(sessions, talk)
    assert (listed["node"], listed["workflow"], about["width"], about["height"]) == ("4", "w", 48, 32)
    assert mime["mime"].startswith("video/mp4") and "'dance' is not something" in problem["problem"]
    assert opened.why is None and not opened.watched, "it goes on when its page leaves"


def test_a_second_page_is_told_so_and_the_first_one_goes_on(nodes, sessions, reference):
    opened = run_node(nodes, reference)

    async def talk(client, address):
        where = f"{address}/livetalk/session/{opened.id}/talk"
        async with client.ws_connect(where) as first, client.ws_connect(where) as second:
            await read_until(first, "bytes")
            error = await read_until(second, "error")
            before = (await read_until(first, "figures"))["figures"]["shown_frames"]
            while (await read_until(first, "figures"))["figures"]["shown_frames"] <= before:
                pass
        async with client.ws_connect(f"{address}/livetalk/session/nonsense/talk") as lost:
            return error, await read_until(lost, "error")

    error, lost = visit(sessions, talk)
    assert "another page has this session; close it there" in error["error"] and "run the node again" in lost["error"]


def test_it_ends_when_its_engine_is_closed_and_the_page_is_told(nodes, sessions, reference, host):
    opened = run_node(nodes, reference)
    engine = opened.session.engine

    async def talk(client, address):
        async with client.ws_connect(f"{address}/livetalk/session/{opened.id}/talk") as socket:
            await read_until(socket, "bytes")
            await asyncio.to_thread(host.unload_all)
            return await read_until(socket, "error")

    assert visit(sessions, talk)["error"] == "ComfyUI unloaded the model; run the node again"
    assert engine.closed_with == [] and not sessions.OPENED and not opened.session.thread.is_alive()
    assert not nodes.engines.SLOTS[opened.wanted.spec].before_close
    again = run_node(nodes, reference)
    assert again.id != opened.id and again.session.engine is not engine, "the next run loads the model again"


def test_its_button_ends_it_and_frees_its_threads(nodes, sessions, reference):
    opened = run_node(nodes, reference)

    async def talk(client, address):
        await client.post(f"{address}/livetalk/session/{opened.id}/end")
        return await (await client.post(f"{address}/livetalk/session/{opened.id}/end")).json()

    assert visit(sessions, talk) == {} and not sessions.OPENED and not opened.session.thread.is_alive()
    with pytest.raises(Refused, match="ended here"):
        opened.check()


def test_the_same_inputs_leave_it_open_and_others_open_a_new_one(nodes, sessions, reference):
    opened = run_node(nodes, reference)
    assert run_node(nodes, reference) is opened
    other = run_node(nodes, reference, seed=2)
    assert other is not opened and opened.why and not opened.session.thread.is_alive()
    assert run_node(nodes, reference, node="5").why is None and other.why is None, "another node has a session of its own"
    assert len(sessions.OPENED) == 2


def test_one_that_no_page_shows_goes_after_an_hour(nodes, sessions, reference, monkeypatch):
    opened = run_node(nodes, reference)
    opened.left_at -= sessions.UNWATCHED_S + 1
    assert run_node(nodes, reference, node="5").why is None and "60 minutes" in opened.why


def test_two_speakers_are_refused_with_the_way_out(nodes, sessions, reference):
    vars(reference)["speaker_masks_KHW"] = torch.ones(3, 32, 48)
    with pytest.raises(ValueError, match="one speaker; leave the masks out"):
        run_node(nodes, reference)


def test_the_parts_of_the_page_are_served_and_nothing_else(nodes, sessions):
    async def talk(client, address):
        return [(await client.get(f"{address}/livetalk/session/{name}")).status for name in ("player.js", "microphone.js", "index.html")]

    assert visit(sessions, talk) == [200, 200, 404]
