"""Begins a live session for a client, from the picture file and the wishes it sent."""

from __future__ import annotations

from collections.abc import Mapping

from livetalk_core.pool.pool import Pool
from livetalk_core.serve.limits import ClientLimits
from livetalk_core.serve.metrics import Metrics
from livetalk_core.serve.picture import read_picture
from livetalk_core.serve.session import LiveSession
from livetalk_core.types import StreamSettings


def begin_session(pool: Pool, picture: bytes, wishes: Mapping[str, object], limits: ClientLimits, metrics: Metrics) -> LiveSession:
    """A running session; wishes may have prompt, size, seed and steps. Refused or ValueError for what cannot be used. Takes seconds."""
    pixels_CHW = read_picture(picture, wishes.get("size", limits.size), pool.preset.bucket, limits)
    chosen = {"steps": min(pool.preset.steps, limits.max_steps)} | {name: wishes[name] for name in ("seed", "steps") if name in wishes}
    reference = pool.reference(pixels_CHW, wishes.get("prompt"))
    return LiveSession(pool, reference, StreamSettings(**chosen), limits.speech_s, on_chunk=metrics.chunk_s.observe).start()
