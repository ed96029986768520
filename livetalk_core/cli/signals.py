"""A run that the system asks to end, or whose terminal goes away, ends as with Ctrl-C: what was made is kept."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

NAMES = ("SIGTERM", "SIGHUP")
"""Windows has the first only."""


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Within this, these signals raise KeyboardInterrupt, once; what is ignored already (nohup) stays ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [vars(signal)[name] for name in NAMES if name in vars(signal)]
    before = {number: signal.getsignal(number) for number in numbers}
    watched = [number for number in numbers if before[number] is not signal.SIG_IGN]

    def stop(number: int, frame: FrameType | None) -> None:
        for other in watched:
            signal.signal(other, signal.SIG_IGN)
        if number != signal.SIGTERM:
            leave_terminal()
        raise KeyboardInterrupt

    try:
        for number in watched:
            signal.signal(number, stop)
        yield
    finally:
        for number in watched:
            signal.signal(number, before[number])


def leave_terminal() -> None:
    """Write to nowhere what was to be written to a terminal that is gone."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for handle in (1, 2):
            if os.isatty(handle):
                os.dup2(nowhere, handle)
        os.close(nowhere)
