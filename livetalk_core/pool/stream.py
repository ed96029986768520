"""One stream in a pool's workers, as its reader sees it."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator

from torch import Tensor

from livetalk_core.engine.guidance import Guidance
from livetalk_core.plan import StreamPlan
from livetalk_core.pool import wire
from livetalk_core.pool.schedule import Job, OnStep, PoolClosed
from livetalk_core.pool.workers import Workers
from livetalk_core.types import Chunk, StreamSettings

FIRST_CHUNKS = 2
"""Chunks after which no new shape comes: the first chunk has one motion latent, all others have more."""


class PoolStream:
    """One stream in the workers. Sound is buffered here until there is enough for a chunk."""

    def __init__(
        self,
        workers: Workers,
        session: int,
        plan: StreamPlan,
        other_s: float,
        on_step: OnStep | None,
        on_latents: Callable[[Tensor], None] | None,
        encode: Callable[[str], Tensor] | None = None,
        effort: float = 1.0,
        ahead_s: float = 0.0,
    ) -> None:
        """`other_s`: the deadline of small commands. `encode` makes a prompt's rows. `effort`: see effort_of. `ahead_s`: seconds of video
        that its viewer still has, from a stream before it."""
        self.workers, self.session, self.plan, self.other_s, self.encode, self.effort = workers, session, plan, other_s, encode, effort
        self.work = ("piece", plan.width, plan.height)
        self.on_step, self.on_latents = on_step, on_latents
        self.blocks: list[Tensor] = []
        self.waiting, self.num_chunks, self.last_index = 0, 0, -1
        self.due = time.monotonic() + ahead_s
        """time.monotonic at which all frames made so far have been shown."""
        self.unfinished = False
        """Whether a reader stopped before the last piece of a call; the next call gives the rest."""
        self.close = weakref.finalize(self, workers.forget, session, other_s)
        """Make the workers drop the stream; called automatically when this object is garbage-collected."""
        self.close.atexit = False

    def push(self, samples_PN: Tensor) -> Iterator[Chunk]:
        """Add 16 kHz sound, [people, N] or [N] float32; yields the chunks it completes, in pieces."""
        self.blocks.append(samples_PN)
        self.waiting += samples_PN.shape[-1]
        if self.waiting >= self.plan.new_samples or self.unfinished:
            self.waiting %= self.plan.new_samples
            blocks, self.blocks = self.blocks, []
            yield from self.run(wire.Push(session=self.session, blocks=blocks))

    def finish(self, num_frames: int | None = None) -> Iterator[Chunk]:
        """No more sound: yields what is left, to `num_frames` in all (default: what the seconds pushed come to)."""
        blocks, self.blocks, self.waiting = self.blocks, [], 0
        yield from self.run(wire.Finish(session=self.session, blocks=blocks, num_frames=num_frames))

    def set_prompt(self, text: str) -> None:
        """Change the prompt from the next chunk on. Waits for the text encoder; chunks are made meanwhile. May be called by any thread."""
        self.require_open()
        command = wire.SetPrompt(session=self.session, text_LD=self.encode(text))
        self.workers.ask(command, limit_s=self.other_s, due=time.monotonic())

    def run(self, command: object) -> Iterator[Chunk]:
        """Yield pieces until the workers have none left; by then they have also prepared for the next sound."""
        self.unfinished = True
        while (piece := self.make(command)) is not None:
            yield piece
            command = wire.Next(session=self.session)
        self.unfinished = False

    def make(self, command: object) -> Chunk | None:
        """Ask for one piece. The pieces of all streams are made in the order in which they must be shown."""
        self.require_open()
        self.due = max(self.due, time.monotonic())
        job = Job(command, self.limit_s(), self.due)
        try:
            made, frames_THWC = self.workers.run(job, self.on_step)
        except BaseException:
            self.close()  # the stream's state is inconsistent in the middle of a chunk
            raise
        self.measure(job.seconds, made)
        if made is None:
            return None
        self.due += len(frames_THWC) / self.plan.fps
        if made.latents_CTHW is not None:
            self.on_latents(made.latents_CTHW)
        counts = {"index": made.index, "first_frame": made.first_frame}
        return Chunk(**counts, frames_THWC=frames_THWC, samples=made.samples, seconds=made.seconds)

    def require_open(self) -> None:
        """PoolClosed after `close`. A failure of the workers tells more, so that is left to the next command."""
        if not self.close.alive and self.workers.failure is None:
            raise PoolClosed("the stream is closed; open a new one")

    def limit_s(self) -> float:
        """The deadline of the next piece."""
        return self.workers.deadlines.limit_s(self.work, self.effort)

    def measure(self, seconds: float, made: wire.Made | None) -> None:
        """Remember how long a piece took, once this stream has made its first chunks."""
        if made is not None and made.index != self.last_index:
            self.num_chunks, self.last_index = self.num_chunks + 1, made.index
        if self.num_chunks > FIRST_CHUNKS:
            self.workers.deadlines.note(self.work, seconds, self.effort)


def effort_of(settings: StreamSettings, plan: StreamPlan) -> float:
    """How much more work a chunk of settled settings is than the published model's: 1 for its 4 steps of 9 latent frames, or for less."""
    return max(1.0, settings.steps * len(Guidance.of(settings).passes) * plan.latent_frames / (4 * 9))
