"""The routes of one server: its pools behind the network. One WebSocket is one stream, which stays on its pool to its end.

GET /health: 200 when a pool takes streams, else 503. Needs no token.
GET /state: what each pool is doing, and how many streams it has, for a balancer to choose by.
GET /metrics: counts for Prometheus.
GET /: a page on which a person can try a live session. Needs no token itself.
GET /live: a WebSocket with a live session (live.py).
GET /v1/audio2video/flashtalk: a WebSocket for OmniRT's and OpenTalking's clients (flashtalk.py).
GET /talk: a WebSocket. The client sends
    {"prompt": text, "size": text, "seed": number, "steps": number}, each of which may be left out; then
    the picture file (JPEG, PNG or WebP) as one binary message; then
    sound, float32 little-endian mono at 16 kHz, in binary messages of any length, as it comes or as fast as the server reads it; then
    {"finish": true}.
The server sends {"box", "pool", "mime", "width", "height", "fps", "sample_rate"}, then fragmented MP4 in binary messages, then
{"ended": true}. What breaks a limit (limits.py), and what fails, ends the stream with {"error": "one line"}. A request that is turned away
before that is answered with such a line too: 401 without the token, 403 or 421 for another site's page, 429 and 503 when there is no place.
A message of more than twice the largest picture is not read: the WebSocket closes with code 1009.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from aiohttp import web

from livetalk_core.pool.pool import Pool
from livetalk_core.serve.access import Access
from livetalk_core.serve.admission import Admission
from livetalk_core.serve.connection import Connection
from livetalk_core.serve.ending import GOODBYE_S, Shared
from livetalk_core.serve.flashtalk import FlashTalkConnection
from livetalk_core.serve.limits import ClientLimits
from livetalk_core.serve.live import LiveConnection
from livetalk_core.serve.metrics import CONTENT_TYPE, Metrics
from livetalk_core.serve.page import PAGE, show_page
from livetalk_core.serve.push import Push
from livetalk_core.serve.readiness import Readiness
from livetalk_core.serve.refusal import Refused
from livetalk_core.sizes import Size

THREADS_A_STREAM = 2
"""One makes pieces, one encodes them."""
Door = type[Connection] | type[LiveConnection] | type[FlashTalkConnection]
DOORS: dict[str, Door] = {
    "/talk": Connection,
    "/live": LiveConnection,
    "/v1/audio2video/flashtalk": FlashTalkConnection,
}
"""Paths of WebSockets, and who speaks there."""
OPEN = {"/health", *PAGE}
"""Paths that need no token."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Service:
    """Streams from the network. `warm_sizes`: what pools must have met before they take streams. `box`: its name for clients.

    `push_url`: where live sessions are pushed to (push.py); empty: nowhere.
    """

    def __init__(
        self,
        pools: list[Pool],
        limits: ClientLimits = ClientLimits(),  # noqa: B008 (frozen)
        access: Access = Access(),  # noqa: B008 (frozen)
        box: str = "livetalk",
        warm_sizes: tuple[Size, ...] = (),
        push_url: str = "",
    ) -> None:
        self.pools, self.limits, self.access, self.box = pools, limits, access, box
        self.readiness = Readiness(pools, warm_sizes)
        self.admission = Admission(pools, limits, self.readiness.is_ready)
        self.metrics, self.closing = Metrics(), asyncio.Event()
        self.push = Push(push_url) if push_url else None
        self.threads = ThreadPoolExecutor(THREADS_A_STREAM * limits.sessions, "livetalk-serve")

    def application(self) -> web.Application:
        application = web.Application(middlewares=[self.guard])
        paths = {"/health": self.health, "/state": self.state, "/metrics": self.show_metrics}
        doors = {path: partial(self.enter, door) for path, door in DOORS.items()}
        pages = {path: partial(show_page, name) for path, name in PAGE.items()}
        application.add_routes([web.get(path, handler) for path, handler in (paths | doors | pages).items()])
        return application

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Turn away who may not come in, in one line."""
        try:
            if request.path not in OPEN:
                self.access.check(request)
            return await handler(request)
        except Refused as refused:
            self.metrics.refused.labels(reason=refused.reason).inc()
            headers = {"WWW-Authenticate": "Bearer"} if refused.status == 401 else {}
            return web.json_response({"error": str(refused)}, status=refused.status, headers=headers)

    async def health(self, request: web.Request) -> web.Response:
        ready = any(map(self.readiness.is_ready, self.pools))
        status = "draining" if self.admission.draining else "ready" if ready else "starting"
        return web.json_response({"status": status}, status=200 if status == "ready" else 503)

    async def state(self, request: web.Request) -> web.Response:
        pools = [
            {"kind": pool.state.kind, "ready": self.readiness.is_ready(pool), "sessions": self.admission.on_pool[pool]}
            for pool in self.pools
        ]
        return web.json_response({"box": self.box, "pools": pools, "max_sessions": self.limits.sessions})

    async def show_metrics(self, request: web.Request) -> web.Response:
        for index, pool in enumerate(self.pools):
            self.metrics.streams.labels(pool=index).set(self.admission.on_pool[pool])
            self.metrics.ready.labels(pool=index).set(self.readiness.is_ready(pool))
        return web.Response(body=self.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def enter(self, door: Door, request: web.Request) -> web.StreamResponse:
        """One stream through this door, from its first message to its last."""
        most = 2 * self.limits.picture_bytes  # a picture that is too large is told so, up to this
        socket = web.WebSocketResponse(max_msg_size=most, timeout=GOODBYE_S, autoping=False, compress=False)
        if not socket.can_prepare(request):
            raise Refused("protocol", "this address speaks WebSocket; connect with ws:// or wss://", 426)
        shared = Shared(limits=self.limits, metrics=self.metrics, threads=self.threads, closing=self.closing, push=self.push)
        with self.admission.place(request.remote or "") as pool:
            await socket.prepare(request)
            place = {"box": self.box, "pool": self.pools.index(pool)}
            await door(shared, pool, place, socket, request.transport).run()
        return socket

    def close(self) -> None:
        """End the pools; streams that are still open fail."""
        for pool in self.pools:
            pool.close()
        self.threads.shutdown()
