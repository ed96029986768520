"""Tasks that end together, and sends that a client must take in time."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Coroutine

if sys.version_info >= (3, 11):
    from asyncio import timeout
else:
    from async_timeout import timeout  # aiohttp brings it

from livetalk_core.serve.refusal import Refused


async def run_together(*works: Coroutine, beside: tuple[Coroutine, ...] = ()) -> None:
    """Run all until `works` are done, or one of any fails: its error is raised. When this returns, all have ended."""
    wanted = {asyncio.ensure_future(work) for work in works}
    running = wanted | {asyncio.ensure_future(work) for work in beside}
    everything = set(running)
    try:
        while wanted & running:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    finally:
        for task in everything:
            task.cancel()
        await asyncio.gather(*everything, return_exceptions=True)


async def send_within(seconds: float, sending: Awaitable[None]) -> None:
    """Refused for a client that has not taken what was sent before by then."""
    try:
        async with timeout(seconds):  # wait_for loses a cancellation that comes just when it is done (until Python 3.12)
            await sending
    except asyncio.TimeoutError:
        raise Refused("unread", f"the video was not read for {seconds:g} s", 408) from None
