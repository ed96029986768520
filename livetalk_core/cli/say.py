"""Prints to the console without ever failing, so that a closed terminal or a missing character does not end a run."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TextIO


def say(text: str, stream: TextIO | None = None) -> None:
    """Print a line on stdout, or another stream."""
    SafeStream(stream or sys.stdout).write(f"{text}\n")


class SafeStream:
    """A stream whose writes do not fail: characters outside its encoding are escaped; output to a closed stream is dropped."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.encoding = stream.encoding

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):  # ValueError: the stream is closed
            self.stream.write(text.encode(self.encoding or "ascii", "backslashreplace").decode(self.encoding or "ascii"))
            self.stream.flush()

    def flush(self) -> None:
        """Every write is flushed."""

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()
