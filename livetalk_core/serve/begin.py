"""Begins a live session for a client, from the picture file and the wishes it sent."""

from __future__ import annotations

from collections.abc import Mapping

from livetalk_core.pool.pool import Pool
from livetalk_core.pool.schedule import OnStep
from livetalk_core.serve.limits import ClientLimits
from livetalk_core.serve.metrics import Metrics
from livetalk_core.serve.picture import read_picture
from livetalk_core.serve.session import LiveSession
from livetalk_core.types import Reference, StreamSettings


def begin_session(
    pool: Pool, picture: bytes, wishes: Mapping[str, object], limits: ClientLimits, metrics: Metrics, on_step: OnStep
) -> LiveSession:
    """A running session; wishes may have prompt, size, seed and steps. Refused or ValueError for what cannot be used. Takes seconds;
    `on_step` is called meanwhile and may raise to stop."""
    chosen = {"steps": min(pool.preset.steps, limits.max_steps)} | {name: wishes[name] for name in ("seed", "steps") if name in wishes}
    reference = reference_of(pool, picture, wishes, limits, on_step)
    return LiveSession(pool, reference, StreamSettings(**chosen), limits.speech_s, on_chunk=metrics.chunk_s.observe).start()


def reference_of(pool: Pool, picture: bytes, wishes: Mapping[str, object], limits: ClientLimits, on_step: OnStep) -> Reference:
    """The picture, cropped to the size wished for, and the prompt, encoded. Refused or ValueError for what cannot be used."""
    pixels_CHW = read_picture(picture, wishes.get("size", limits.size), pool.preset, limits)
    return pool.reference(pixels_CHW, wishes.get("prompt"), on_step=on_step)
