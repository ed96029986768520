"""The server process: it listens, warms its pools, says when it is ready, and on SIGTERM ends its streams before itself."""

from __future__ import annotations

import asyncio
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress

from aiohttp import web

from livetalk_core.serve.ending import GOODBYE_S
from livetalk_core.serve.service import Service
from livetalk_core.serve.tasks import timeout


def ready_line(address: str) -> str:
    return f"livetalk: ready at {address}"


async def run_server(
    service: Service,
    host: str,
    port: int,
    tls: ssl.SSLContext | None = None,
    drain_s: float = 30.0,
    ready: Callable[[str], str] = ready_line,
) -> None:
    """Serve until SIGTERM, then let streams finish for `drain_s`; a second SIGTERM, or Ctrl-C, ends them at once.

    `ready`: the line that is printed once streams can come, from the address of /talk.
    """
    asked_to_stop: asyncio.Queue[None] = asyncio.Queue()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked_to_stop.put_nowait, None)
    async with listening(service, host, port, tls) as address:
        print(ready(address), flush=True)
        await asked_to_stop.get()
        service.admission.draining = True
        print(f"livetalk: stopping; {service.admission.num_streams} streams may finish within {drain_s:g} s", file=sys.stderr, flush=True)
        await first_of(service.admission.empty.wait(), asked_to_stop.get(), asyncio.sleep(drain_s))


@asynccontextmanager
async def listening(service: Service, host: str, port: int, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """The address of /talk, once the pools are ready; /health answers 503 until then. At the end all streams and pools are ended."""
    # A connection without a request is closed when a first message would be due.
    runner = web.AppRunner(service.application(), access_log=None, keepalive_timeout=service.limits.first_s, shutdown_timeout=GOODBYE_S)
    await runner.setup()
    watch = None
    try:
        await web.TCPSite(runner, host, port, ssl_context=tls).start()
        await service.readiness.make_ready()
        watch = asyncio.create_task(service.readiness.watch())
        yield f"{'ws' if tls is None else 'wss'}://{host}:{runner.addresses[0][1]}/talk"
    finally:
        if watch is not None:
            watch.cancel()
        await end(service, runner)


async def end(service: Service, runner: web.AppRunner) -> None:
    """Tell all clients, end the pools, stop listening."""
    service.admission.draining = True
    service.closing.set()
    with suppress(asyncio.TimeoutError):
        async with timeout(GOODBYE_S):
            await service.admission.empty.wait()
    await asyncio.to_thread(service.close)
    await runner.cleanup()


async def first_of(*works: Coroutine) -> None:
    """Wait for one of them; the others are cancelled."""
    tasks = [asyncio.ensure_future(work) for work in works]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
