"""SIGTERM and SIGHUP end a run like Ctrl-C, and the frames made so far are kept."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

NAMES = ("SIGTERM", "SIGHUP")
"""Windows has only the first."""


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Inside this context the signals raise KeyboardInterrupt once. Signals already ignored (nohup) stay ignored."""
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
    """Send further output for the closed terminal to /dev/null."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for handle in (1, 2):
            if os.isatty(handle):
                os.dup2(nowhere, handle)
        os.close(nowhere)
