"""How a client's stream ends: it is told why in one line, and its connection is closed, whether it reads or not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from livetalk_core.serve.limits import ClientLimits
from livetalk_core.serve.push import Push
from livetalk_core.serve.refusal import Gone, Refused, explain, one_line
from livetalk_core.serve.tasks import run_together, send_within, timeout

if TYPE_CHECKING:  # a session in ComfyUI ends in the same way, and has no metrics
    from livetalk_core.serve.metrics import Metrics

GOODBYE_S = 5
"""For the last line, and for the client to close the connection too."""
LastLine = dict[str, object]


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What all connections of a server share."""

    limits: ClientLimits
    metrics: Metrics
    threads: Executor
    closing: asyncio.Event
    """Set when all streams are to end."""
    push: Push | None = None
    """Where live sessions are pushed to."""


def plain_error(text: str) -> LastLine:
    return {"error": text}


@dataclass(frozen=True, kw_only=True)
class Ending:
    """One client's connection. `error`: how its protocol writes an error; `end`: how it writes a good end."""

    shared: Shared
    socket: web.WebSocketResponse
    transport: asyncio.Transport
    error: Callable[[str], LastLine] = plain_error
    end: Callable[[], LastLine] = lambda: {"ended": True}

    async def hold(self, talk: Coroutine, before_goodbye: Callable[[], None] = lambda: None) -> None:
        """Run a stream to its end. Whatever goes wrong is told in one line, and ends this stream only."""
        how, last_line = await self.outcome(talk)
        before_goodbye()
        self.shared.metrics.ended.labels(how=how).inc()
        await say_goodbye(self.socket, self.transport, last_line)

    async def outcome(self, talk: Coroutine) -> tuple[str, LastLine | None]:
        """How the stream ended, and what the client is told of it."""
        try:
            await run_together(talk, beside=(self.expire(),))
        except (Gone, ConnectionError):
            return "left", None
        except Exception as error:
            refused = explain(error)
            if refused.reason == "failure":
                self.shared.metrics.failures.inc()
                return "failed", self.error(str(refused))
            self.shared.metrics.refused.labels(reason=refused.reason).inc()
            return "refused", self.error(one_line(str(refused)))
        return "finished", self.end()

    async def expire(self) -> None:
        """Ends when this stream's time is over, or the server's."""
        try:
            async with timeout(self.shared.limits.session_s):
                await self.shared.closing.wait()
        except asyncio.TimeoutError:
            raise Refused("session", f"a stream may last {self.shared.limits.session_s:g} s; open a new one", 408) from None
        raise Refused("draining", "this server is shutting down; open a new stream elsewhere", 503)


async def say_goodbye(socket: web.WebSocketResponse, transport: asyncio.Transport | None, last_line: LastLine | None) -> None:
    """Send the last line and close the connection, whether the client reads it or not."""
    with suppress(Refused, ConnectionError):
        if last_line is not None and not socket.closed:
            await send_within(GOODBYE_S, socket.send_json(last_line))
        await send_within(2 * GOODBYE_S, socket.close())
    if transport is not None:
        transport.abort()  # else what was not read would keep it open
