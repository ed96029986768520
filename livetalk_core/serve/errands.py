"""What a client asked for and takes a while, such as encoding a prompt: done in order, while its other messages are obeyed at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from livetalk_core.serve.refusal import Refused, explain, one_line

MOST_WAITING = 4
"""A client that asks for more is not read until one is done."""


class Errands:
    """`tell`: sends one line about what could not be done."""

    def __init__(self, tell: Callable[[str], Awaitable[None]]) -> None:
        self.tell = tell
        self.waiting: asyncio.Queue[Callable[[], Awaitable[None]]] = asyncio.Queue(MOST_WAITING)

    async def put(self, errand: Callable[[], Awaitable[None]]) -> None:
        await self.waiting.put(errand)

    async def run(self) -> None:
        """Do them, for ever. Refused and ValueError are told; anything else is raised."""
        while True:
            errand = await self.waiting.get()
            try:
                await errand()
            except (Refused, ValueError) as error:
                await self.tell(one_line(str(explain(error))))
