"""Whether pools may take streams: every size they will be asked for has been met, and one that failed has been started again."""

from __future__ import annotations

import asyncio
import logging

from livetalk_core.engine.warm import warm_up
from livetalk_core.pool.pool import Pool
from livetalk_core.sizes import Size

log = logging.getLogger(__name__)

WATCH_S = 2.0
"""How often pools are looked after."""


class Readiness:
    """The pools, and which of them still have to meet their `sizes`."""

    def __init__(self, pools: list[Pool], sizes: tuple[Size, ...] = ()) -> None:
        self.pools, self.sizes = pools, sizes
        self.cold = set(pools) if sizes else set()

    def is_ready(self, pool: Pool) -> bool:
        return pool not in self.cold and pool.state.kind in ("ready", "busy")

    async def make_ready(self) -> None:
        """Warm what is cold, all pools at once. Raises what the pools raise."""
        await asyncio.gather(*(self.warm(pool) for pool in self.cold))

    async def warm(self, pool: Pool) -> None:
        """Start a pool if it is not running, and let it meet every size."""
        await asyncio.to_thread(pool.start)
        for width, height in self.sizes:
            seconds = await asyncio.to_thread(warm_up, pool, f"{width}x{height}")
            log.info("pool %d is warm at %dx%d after %.1f s", self.pools.index(pool), width, height, seconds)
        self.cold.discard(pool)

    async def watch(self) -> None:
        """Start failed pools again, and warm them, for ever."""
        await asyncio.gather(*map(self.watch_one, self.pools))

    async def watch_one(self, pool: Pool) -> None:
        while True:
            if pool.state.kind in ("failed", "closed"):
                await self.revive(pool)
            await asyncio.sleep(WATCH_S)

    async def revive(self, pool: Pool) -> None:
        log.error("pool %d: %s; starting it again", self.pools.index(pool), pool.state.text)
        self.cold.add(pool)
        try:
            await self.warm(pool)
        except Exception:
            log.exception("pool %d could not be started", self.pools.index(pool))
