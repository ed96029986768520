"""Why a client's stream ends before its time, and what the client may read of it: one line, without paths."""

from __future__ import annotations

import logging
import re

from livetalk_core.pool.pool import PoolClosed, WorkerFailure
from livetalk_core.types import NoRoom

log = logging.getLogger(__name__)

PATH = re.compile(r"(?<![\w/.])/(?:[^\s/:;,'\"()]+/)*[^\s/:;,'\"()]+")
"""An absolute path inside a sentence."""
MOST_CHARACTERS = 400


class Refused(Exception):
    """What the client is told, in one line; `reason` is the word that metrics count it under."""

    def __init__(self, reason: str, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.reason, self.status = reason, status


class Gone(Exception):
    """The client has left, so its chunk is stopped."""


def explain(error: Exception) -> Refused:
    """What a client may know of an error: its own mistake in full, everything else without details, which go to the log."""
    match error:
        case Refused():
            return error
        case ValueError():
            return Refused("input", one_line(str(error)))
        case NoRoom():
            return Refused("memory", one_line(str(error)), 503)
        case WorkerFailure(rank=rank):
            log.error("a stream failed: %s", error)
            worker = "the workers" if rank is None else f"worker {rank}"
            return Refused("failure", f"{worker} of this server failed; open a new stream", 500)
        case PoolClosed():
            return Refused("failure", "this server is shutting down; open a new stream elsewhere", 503)
    log.error("a stream failed", exc_info=error)
    return Refused("failure", "something failed in this server, and its log says what; open a new stream", 500)


def one_line(text: str) -> str:
    """The text in one short line, with paths of this machine left out."""
    line = PATH.sub("...", " ".join(text.split()))
    return line if len(line) <= MOST_CHARACTERS else line[:MOST_CHARACTERS] + "..."
