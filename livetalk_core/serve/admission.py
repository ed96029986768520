"""Who gets a stream, and on which pool: counts by pool and by address."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from livetalk_core.pool.pool import Pool
from livetalk_core.serve.limits import ClientLimits
from livetalk_core.serve.refusal import Refused


class Admission:
    """Places for streams, each on the ready pool that has the fewest, for as long as it lasts."""

    def __init__(self, pools: list[Pool], limits: ClientLimits, is_ready: Callable[[Pool], bool]) -> None:
        self.pools, self.limits, self.is_ready = pools, limits, is_ready
        self.on_pool: dict[Pool, int] = {pool: 0 for pool in pools}
        self.from_address: Counter[str] = Counter()
        self.draining = False
        self.empty = asyncio.Event()
        self.empty.set()

    @property
    def num_streams(self) -> int:
        return sum(self.on_pool.values())

    @contextmanager
    def place(self, address: str) -> Iterator[Pool]:
        """A place, and the pool it is on. Refused where there is none."""
        pool = self.choose(address)
        self.on_pool[pool] += 1
        self.from_address[address] += 1
        self.empty.clear()
        try:
            yield pool
        finally:
            self.on_pool[pool] -= 1
            self.from_address[address] -= 1
            self.from_address += Counter()  # forgets addresses without streams
            if not self.num_streams:
                self.empty.set()

    def choose(self, address: str) -> Pool:
        if self.draining:
            raise Refused("draining", "this server takes no new streams; try another", 503)
        if self.num_streams >= self.limits.sessions:
            raise Refused("full", f"all {self.limits.sessions} streams of this server are taken; try another", 503)
        if self.from_address[address] >= self.limits.sessions_per_address:
            most = self.limits.sessions_per_address
            raise Refused("address", f"your address has its {most} streams already; end one of them first", 429)
        ready = [pool for pool in self.pools if self.is_ready(pool)]
        if not ready:
            raise Refused("starting", "the model is being started; try again in a while", 503)
        return min(ready, key=lambda pool: self.on_pool[pool])
