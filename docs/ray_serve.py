"""Several boxes with Ray Serve: one replica a box, each owning that box's pool. From this folder, on the cluster's head:

    pip install "ray[serve]" "livetalk[serve]"     # on every box
    LIVETALK_BOXES=2 LIVETALK_GPUS=8 serve run ray_serve:app

A client asks Ray's HTTP address which box to use and gets that box's own WebSocket; from there on it speaks with the box as with
`livetalk serve`, so its stream, whose motion latents live in the pool, stays where it began. Ray spreads the questions over the boxes
and replaces a replica that is gone; the ranks are the pool's own processes, never Ray's.
"""

import asyncio
import os
from contextlib import AsyncExitStack

import ray
from ray import serve

from livetalk_core.open import EngineOptions, open_pool
from livetalk_core.pool.pool import Pool
from livetalk_core.serve.access import Access
from livetalk_core.serve.limits import ClientLimits
from livetalk_core.serve.server import listening
from livetalk_core.serve.service import Service

BOXES, GPUS = int(os.environ.get("LIVETALK_BOXES", "2")), int(os.environ.get("LIVETALK_GPUS", "8"))
MODEL, TOKEN = os.environ.get("LIVETALK_MODEL", "/models/SoulX-FlashTalk-14B"), os.environ.get("LIVETALK_TOKEN", "")


def make_pool() -> Pool:
    """A pool of the GPUs that Ray has given this replica; with LIVETALK_GPUS=0, two processes on the CPU."""
    return open_pool(EngineOptions(model=MODEL, workers=2) if GPUS == 0 else EngineOptions(model=MODEL, gpus=GPUS))


@serve.deployment(num_replicas=BOXES, ray_actor_options={"num_gpus": GPUS, "num_cpus": 1})
class Box:
    """One box."""

    def __init__(self) -> None:
        self.pool = make_pool()
        address = ray.util.get_node_ip_address()
        self.service = Service([self.pool], ClientLimits(sessions=8), Access(token=TOKEN), box=address)
        self.url, self.opening, self.listening = "", asyncio.Lock(), AsyncExitStack()

    async def __call__(self, request: object) -> dict[str, str]:
        """Where to speak with this box."""
        async with self.opening:
            if not self.url:
                self.url = await self.listening.enter_async_context(listening(self.service, self.service.box, 0))
        return {"url": self.url, "state": self.pool.state.kind}


app = Box.bind()
