"""Words to the console, whatever it can show, and whether or not anyone still reads them: a film is not lost for a line about it."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TextIO


def say(text: str, stream: TextIO | None = None) -> None:
    """Print a line on stdout, or another stream."""
    Steady(stream or sys.stdout).write(f"{text}\n")


class Steady:
    """A stream whose writes do not fail: characters that it lacks are spelled out, and what nobody reads any more is dropped."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.encoding = stream.encoding

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):  # ValueError: it is closed
            self.stream.write(text.encode(self.encoding or "ascii", "backslashreplace").decode(self.encoding or "ascii"))
            self.stream.flush()

    def flush(self) -> None:
        """Every write is flushed."""

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()
