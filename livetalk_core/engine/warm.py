"""Warm-up: makes a short stream and drops it, so that no compiling or measuring happens during real streams."""

from __future__ import annotations

import logging
import time

import torch

from livetalk_core.sizes import BUCKETS, parse_size
from livetalk_core.types import StreamSettings

log = logging.getLogger(__name__)

CHUNKS = 3
"""The first has one motion latent, the second more; the third meets no new shape, so a pool measures it for its deadlines."""


def warm_up(engine, size: str = "auto") -> float:
    """Make three silent chunks of a gray picture of WIDTHxHEIGHT, or of a bucket's or the model's first size. Returns the seconds."""
    start = time.perf_counter()
    bucket = engine.preset.bucket if size == "auto" else size
    width, height = BUCKETS[bucket][0] if bucket in BUCKETS else parse_size(size)
    stream = engine.open(engine.reference(torch.zeros(3, height, width)), StreamSettings(steps=engine.preset.steps))
    for _ in range(CHUNKS):
        for _ in stream.push(torch.zeros(engine.plan(width, height).new_samples)):
            pass
    stream.close()
    taken = time.perf_counter() - start
    log.info("warm at %dx%d after %.1f s", width, height, taken)
    return taken
