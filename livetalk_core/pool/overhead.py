"""What a pool adds to the work itself: the way of a command, and of a chunk's picture."""

from __future__ import annotations

import os
import statistics
import time

from livetalk_core.pool.pool import Pool

PICTURE = (33, 416, 720, 3)
ROUNDS = 100


def measure(pool: Pool) -> dict[str, float | int]:
    """Median milliseconds of a command to all workers and back, and of one that brings 33 x 416 x 720 x 3 bytes."""
    return {
        "workers": pool.placement.num_workers,
        "command_ms": median_ms(pool, ()),
        "picture_ms": median_ms(pool, PICTURE),
        "load_average": os.getloadavg()[0],
        "cores": len(os.sched_getaffinity(0)),
    }


def median_ms(pool: Pool, shape: tuple[int, ...]) -> float:
    """Of many rounds after a few, which draw the picture and make the memory."""
    seconds = []
    for _ in range(ROUNDS + 5):
        start = time.perf_counter()
        pool.ping(shape)
        seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds[5:])
