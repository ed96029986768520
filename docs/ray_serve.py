"""Several boxes with Ray Serve: one replica a box, each owning that box's pool. From this folder, on the cluster's head:

    pip install "ray[serve]" "livetalk[live]"      # on every box
    LIVETALK_BOXES=2 LIVETALK_GPUS=8 serve run ray_serve:app

A client asks Ray's HTTP address which box to use and gets that box's own addresses: "url" for /talk, "live" for /live, "page" to try it on.
From there on it speaks with the box as with `livetalk serve`, so its stream, whose motion latents live in the pool, stays where it began.
Ray spreads the questions over the boxes and replaces a replica that is gone; the ranks are the pool's own processes, never Ray's.
With LIVETALK_GPUS=0, each box is one process on the CPU with the small model that comes with the package.
"""

import asyncio
import os
from contextlib import AsyncExitStack

import ray
from ray import serve

from livetalk_core.cli.serve import sizes_to_warm
from livetalk_core.open import EngineOptions, open_pool
from livetalk_core.pool.pool import Pool
from livetalk_core.serve.access import Access
from livetalk_core.serve.limits import ClientLimits
from livetalk_core.serve.server import listening
from livetalk_core.serve.service import Service

BOXES, GPUS = int(os.environ.get("LIVETALK_BOXES", "2")), int(os.environ.get("LIVETALK_GPUS", "8"))
MODEL = os.environ.get("LIVETALK_MODEL", "/models/SoulX-FlashTalk-14B" if GPUS else "nano")
TOKEN = os.environ.get("LIVETALK_TOKEN", "")


def make_pool() -> Pool:
    """A pool of the GPUs that Ray has given this replica; with LIVETALK_GPUS=0, one process on the CPU."""
    return open_pool(EngineOptions(model=MODEL, gpus=GPUS) if GPUS else EngineOptions(model=MODEL, workers=1))


@serve.deployment(num_replicas=BOXES, ray_actor_options={"num_gpus": GPUS, "num_cpus": 1})
class Box:
    """One box."""

    def __init__(self) -> None:
        self.pool = make_pool()
        address = ray.util.get_node_ip_address()
        limits = ClientLimits(sessions=8)
        sizes = sizes_to_warm(limits, self.pool.preset.bucket) if GPUS else ()
        self.service = Service([self.pool], limits, Access(token=TOKEN, hosts=(address,)), box=address, warm_sizes=sizes)
        self.url, self.opening, self.listening = "", asyncio.Lock(), AsyncExitStack()

    async def __call__(self, request: object) -> dict[str, str]:
        """Where to speak with this box."""
        async with self.opening:
            if not self.url:
                self.url = await self.listening.enter_async_context(listening(self.service, self.service.box, 0))
        base = self.url.removesuffix("/talk")
        page = base.replace("ws", "http", 1) + "/"
        return {"url": self.url, "live": f"{base}/live", "page": page, "state": self.pool.state.kind}


app = Box.bind()
