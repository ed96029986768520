"""Live sessions of this ComfyUI: each belongs to a node and runs in threads of its own, so the queue goes on.

A session ends by its button, with its node, when its engine is closed, or after an hour in which no page showed it. While no page shows it,
it makes nothing. docs/live.md has what page and session say to each other; it goes through ComfyUI's own port.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from . import engines, marks

if TYPE_CHECKING:
    from livetalk_core.serve.conversation import Conversation
    from livetalk_core.serve.session import LiveSession
    from livetalk_core.types import Reference

log = logging.getLogger(__name__)

EVENT = "livetalk.session"
UNWATCHED_S = 3600.0
FIGURES_S = 1.0
PARTS = ("player.js", "microphone.js")
"""Files of the service's page that the node uses too."""
MOST_MESSAGE_BYTES = 64 * 2**20
"""Of a sound file."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Wanted:
    """What a node asks for."""

    spec: engines.EngineSpec
    reference: Reference
    seed: int
    steps: int | None

    def is_as(self, other: Wanted) -> bool:
        """Whether a session for `other` serves this one too."""
        same = (self.spec, self.seed, self.steps) == (other.spec, other.seed, other.steps)
        return same and self.reference is other.reference


@dataclass(kw_only=True, eq=False)
class Opened:
    """One node's session."""

    node: str
    workflow: str
    wanted: Wanted
    session: LiveSession
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2, "livetalk-node"))
    why: str | None = None
    """Why it ended; None while it goes on."""
    watched: bool = False
    left_at: float = field(default_factory=time.monotonic)

    def describe(self) -> dict[str, str]:
        return {"session": self.id, "node": self.node, "workflow": self.workflow}

    def end(self, why: str) -> None:
        """A chunk in the making ends at its next step, and is waited for."""
        if self.why is None:
            self.why = why
            OPENED.pop(self.id, None)
            engines.SLOTS[self.wanted.spec].before_close.pop(self.id, None)
            self.session.close()
            self.threads.shutdown(wait=False)
            log.info("LiveTalk: live session of node %s ended: %s", self.node, why)

    def check(self) -> None:
        if self.why is not None:
            from livetalk_core.serve.refusal import Refused

            raise Refused("ended", self.why)


OPENED: dict[str, Opened] = {}


def open_session(node: str, workflow: str, wanted: Wanted) -> Opened:
    """The node's session; a new one if there is none, or if something else is wanted. ValueError for what cannot be played live."""
    engine = engines.engine_for(wanted.spec)
    for opened in list(OPENED.values()):
        if (opened.node, opened.workflow) == (node, workflow):
            if opened.wanted.is_as(wanted) and opened.session.failure is None:
                return opened
            opened.end("the node was run again, with other inputs")
        elif not opened.watched and time.monotonic() - opened.left_at > UNWATCHED_S:
            opened.end(f"no page showed it for {UNWATCHED_S / 60:.0f} minutes")
    opened = Opened(node=node, workflow=workflow, wanted=wanted, session=begin(engine, wanted))
    OPENED[opened.id] = opened
    engines.SLOTS[wanted.spec].before_close[opened.id] = lambda: opened.end("ComfyUI unloaded the model; run the node again")
    return opened


def begin(engine, wanted: Wanted) -> LiveSession:
    from livetalk_core.serve.session import LiveSession
    from livetalk_core.types import StreamSettings

    if wanted.reference.speaker_masks_KHW is not None:
        raise ValueError("a live session has one speaker; leave the masks out")
    settings = StreamSettings(seed=wanted.seed, steps=wanted.steps)
    return LiveSession(engine, wanted.reference, settings).start()


def add_routes(server) -> None:
    """Serve the list of sessions, a WebSocket for each, its end, and the page's parts. Does nothing without a server."""
    if server is None:
        return
    from aiohttp import web

    @server.routes.get("/livetalk/sessions")
    async def list_sessions(request):
        return web.json_response([opened.describe() for opened in OPENED.values()])

    @server.routes.get("/livetalk/session/{name}")
    async def show_part(request):
        name = request.match_info["name"]
        if name in PARTS:
            return web.FileResponse(part_folder() / name, headers={"Cache-Control": "no-cache"})
        return web.json_response({"error": "there is no such file"}, status=404)

    @server.routes.post("/livetalk/session/{session}/end")
    async def end_session(request):
        if (opened := OPENED.get(request.match_info["session"])) is not None:
            await asyncio.to_thread(opened.end, "it was ended here")
        return web.json_response({})

    @server.routes.get("/livetalk/session/{session}/talk")
    async def talk(request):
        socket = web.WebSocketResponse(max_msg_size=MOST_MESSAGE_BYTES, autoping=False)
        await socket.prepare(request)
        await see_off(socket, request.transport, hold(OPENED.get(request.match_info["session"]), socket))
        return socket


@cache
def part_folder() -> Path:
    import livetalk_core

    return Path(livetalk_core.__file__).parent / "serve" / "web"


async def see_off(socket, transport, talk: Coroutine) -> None:
    """Run a conversation to its end. Whatever goes wrong is told in one line."""
    from livetalk_core.serve.ending import say_goodbye
    from livetalk_core.serve.refusal import Gone, explain, one_line

    last_line: dict[str, object] | None = {"ended": True}
    try:
        await talk
    except (Gone, ConnectionError):
        last_line = None
    except Exception as error:
        last_line = {"error": one_line(str(explain(error)))}
    await say_goodbye(socket, transport, last_line)


async def hold(opened: Opened | None, socket) -> None:
    """One page's conversation with a session, to its end. Refused if there is none, or another page has it."""
    from livetalk_core.serve.refusal import Refused

    if opened is None:
        raise Refused("ended", "this session is over; run the node again")
    if opened.watched:
        raise Refused("taken", "another page has this session; close it there, then press Start here")
    opened.watched = True
    try:
        conversation = talk_of(opened, socket)
        await conversation.send(opened.describe() | conversation.about())
        conversation.wants_mp4.set()
        await conversation.run(beside=(tell_figures(opened, conversation),))
    except Exception:
        opened.check()  # what went wrong because it has ended is not told
        raise
    finally:
        opened.watched, opened.left_at = False, time.monotonic()


def talk_of(opened: Opened, socket) -> Conversation:
    from livetalk_core.serve.conversation import Conversation
    from livetalk_core.serve.inbox import Inbox
    from livetalk_core.serve.limits import ClientLimits

    limits = ClientLimits()
    return Conversation(
        opened.session, Inbox(socket, limits), limits, opened.threads, lambda prompt: encode(opened, prompt), marks.marking().watermark()
    )


def encode(opened: Opened, prompt: str) -> Reference:
    """The session's picture with another prompt."""
    engine, pixels_CHW = opened.session.engine, opened.session.reference.pixels_CHW
    return engine.reference(pixels_CHW, prompt)


async def tell_figures(opened: Opened, conversation: Conversation) -> None:
    """Send the figures every second. Refused once the session has ended."""
    while True:
        opened.check()
        await conversation.send({"figures": asdict(opened.session.figures())})
        await asyncio.sleep(FIGURES_S)
