"""A pool's overhead: the round trip of a command, and the time to bring back a chunk's frames."""

from __future__ import annotations

import os
import statistics
import time

from livetalk_core.pool.pool import Pool

PICTURE = (33, 416, 720, 3)
ROUNDS = 100


def measure(pool: Pool) -> dict[str, float | int]:
    """Median milliseconds of a command to all workers and back, without data and with 33 x 416 x 720 x 3 bytes."""
    return {
        "workers": pool.placement.num_workers,
        "command_ms": median_ms(pool, ()),
        "picture_ms": median_ms(pool, PICTURE),
        "load_average": os.getloadavg()[0],
        "cores": len(os.sched_getaffinity(0)),
    }


def median_ms(pool: Pool, shape: tuple[int, ...]) -> float:
    """Median of many rounds, after a few that make the picture and the memory."""
    seconds = []
    for _ in range(ROUNDS + 5):
        start = time.perf_counter()
        pool.ping(shape)
        seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds[5:])
