"""Work of one stream in threads, which stops when the stream's client has left."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from livetalk_core.serve.refusal import Gone

Result = TypeVar("Result")


class Making:
    """One stream's work. `check` is the stream's on_step."""

    def __init__(self, threads: Executor) -> None:
        self.threads, self.gone = threads, threading.Event()

    def check(self, step: int, steps: int) -> None:
        """Called while a chunk is being made; raises Gone to stop it."""
        if self.gone.is_set():
            raise Gone

    async def in_thread(self, work: Callable[..., Result], *arguments: object) -> Result:
        """The work's result. If the stream ends meanwhile, a chunk is stopped at its next step, and the thread is waited for."""
        future = asyncio.get_running_loop().run_in_executor(self.threads, work, *arguments)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            self.gone.set()
            await asyncio.wait([future])
            future.exception()  # looked at, so that asyncio does not report it
            raise
