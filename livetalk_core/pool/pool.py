"""A pool of workers with the interface of an Engine, the same results and the same errors.

Each stream keeps its motion latents and its noise in the workers. Streams take turns by pieces of a chunk: the piece that must be shown
first is made first. A stream whose reader asks for no pieces takes no time from the others.
"""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from livetalk_core.plan import StreamPlan
from livetalk_core.pool import wire
from livetalk_core.pool.schedule import POLL_S, Job, OnStep, PoolClosed, State, WorkerFailure
from livetalk_core.pool.wire import Facts, Placement, Recipe
from livetalk_core.pool.workers import Workers
from livetalk_core.types import Chunk, Reference, Shown, Start, StreamSettings

log = logging.getLogger(__name__)


FIRST_CHUNKS = 2
"""Chunks after which no new shape comes: the first chunk has one motion latent, all others have more."""
SLOWER = 20
"""How much longer than the longest so far a piece may take before it counts as hung."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Deadlines in seconds. A command that takes longer counts as hung and ends the pool."""

    load_s: float = 900
    reference_s: float = 300
    first_s: float = 900
    """For a piece of a stream's first chunks, until a stream of that size has made them: kernels may be compiled and chosen."""
    chunk_s: float = 60
    """For every other piece of a chunk; at least SLOWER times the longest so far."""
    other_s: float = 60
    idle_s: float = 10
    """For the reply of idle workers to a ping."""


class Pool:
    """The workers of one engine. They start on first use and restart after a failure; earlier streams fail with that failure's reason.

    Raises WorkerFailure when a worker dies, fails or hangs, and the engine's own errors for bad input.
    """

    def __init__(self, placement: Placement, recipe: Recipe, limits: Limits = Limits()) -> None:  # noqa: B008 (frozen)
        if sys.platform != "linux":
            raise ValueError(f"a pool needs Linux, and this is {sys.platform}; use one device without a pool")
        self.placement, self.recipe, self.limits = placement, recipe, limits
        self.starting, self.sessions = threading.Lock(), itertools.count(1)
        self.workers: Workers | None = None
        self.facts: Facts | None = None
        self.closed = False
        self.failed_folder: Path | None = None

    @property
    def state(self) -> State:
        """What the pool is doing, for display."""
        workers = self.workers
        if self.closed or workers is None:
            return State(kind="closed", text="closed" if self.closed else "not started yet")
        return workers.state

    def start(self) -> Workers:
        """The workers, ready for use; started first if needed, also after a failure."""
        with self.starting:
            if self.closed:
                raise PoolClosed("the pool is closed; make a new one")
            if self.workers is None or self.workers.failure is not None:
                self.forget_failed()
                self.workers = self.launch()
                self.await_load(self.workers)
            return self.workers

    def launch(self) -> Workers:
        folder = Path(tempfile.mkdtemp(prefix="livetalk-pool-"))
        size = self.placement.num_workers
        load = wire.Load(
            rank=0,
            placement=self.placement,
            recipe=self.recipe,
            meeting=f"file://{folder}/meeting",  # a file of its own for every start: no port that could be taken
            timeout_s=2 * max(vars(self.limits).values()),
            num_threads=max(1, len(os.sched_getaffinity(0)) // size),
        )
        log.info("pool: starting %d workers, logs in %s", size, folder)
        return Workers(load, self.limits.load_s, self.limits.idle_s, folder)

    def await_load(self, workers: Workers) -> None:
        """Wait until the engine is loaded. An error of the engine ends the workers."""
        try:
            self.facts, _ = workers.schedule.take(workers.loaded)
        except BaseException:
            workers.close()
            if workers.failure is None:
                self.workers = None
                shutil.rmtree(workers.folder, ignore_errors=True)
            raise

    def forget_failed(self) -> None:
        """Wait for the failed processes. Keep their logs, and remove those of the failure before."""
        if self.workers is not None:
            self.workers.thread.join()
            if self.failed_folder is not None:
                shutil.rmtree(self.failed_folder, ignore_errors=True)
            self.failed_folder, self.workers = self.workers.folder, None

    def ask(self, command: object, limit_s: float) -> object:
        return self.start().ask(command, limit_s=limit_s, due=time.monotonic())[0]

    @property
    def preset(self):
        """The engine's Preset."""
        self.start()
        return self.facts.preset

    @property
    def dtype(self) -> torch.dtype:
        self.start()
        return self.facts.dtype

    @property
    def device(self) -> torch.device:
        """The workers' type of device; tensors that the pool returns are on the CPU."""
        self.start()
        return torch.device(self.facts.device)

    def plan(self, width: int, height: int) -> StreamPlan:
        """The plan of a stream of this size. ValueError for a size the models cannot make."""
        return self.preset.plan(width, height)

    def reference(
        self, pixels_CHW: Tensor, prompt: str | None = None, speaker_masks_KHW: Tensor | None = None, image_LD: Tensor | None = None
    ) -> Reference:
        """Encode a cropped picture [3, H, W] in [-1, 1] and a prompt. The reference stays valid when the pool restarts."""
        rows = self.encode_rows(prompt, pixels_CHW if image_LD is None else None)
        options = {"prompt": prompt, "speaker_masks_KHW": speaker_masks_KHW, "image_LD": image_LD, **rows}
        given = {name: value for name, value in options.items() if value is not None}
        return self.ask(wire.Prepare(pixels_CHW=pixels_CHW, options=given), self.limits.reference_s)

    def encode_rows(self, prompt: str | None, pixels_CHW: Tensor | None) -> dict[str, Tensor]:
        """Rows of a prompt and a picture, made by rank 0 while the workers go on with other streams."""
        number, limit_s = next(self.sessions), self.limits.load_s + self.limits.reference_s  # the encoders' files may be read first
        deadline = time.monotonic() + limit_s
        self.ask(wire.EncodeRows(number=number, prompt=prompt, pixels_CHW=pixels_CHW), self.limits.other_s)
        while (found := self.ask(wire.TakeRows(number=number), self.limits.other_s)) is None:
            if time.monotonic() > deadline:
                raise WorkerFailure(f"encoding the prompt and the picture took longer than {limit_s:g} s")
            time.sleep(POLL_S)
        if found.error is not None:
            raise found.error
        return found.rows

    def open(
        self,
        reference: Reference,
        settings: StreamSettings,
        people: int = 1,
        on_step: OnStep | None = None,
        on_latents: Callable[[Tensor], None] | None = None,
        start: Start | Shown | None = None,
    ) -> PoolStream:
        """A new stream. `on_step` is called while a chunk is being made and may raise to stop; `on_latents` with each chunk's latents.
        `start`: make the chunks from there on only, or go on from what was shown."""
        plan, workers, session = self.plan(reference.pixels_CHW.shape[2], reference.pixels_CHW.shape[1]), self.start(), next(self.sessions)
        workers.reserve(plan.new_frames * plan.height * plan.width * 3)
        latents = on_latents is not None
        command = wire.Open(session=session, reference=reference, settings=settings, people=people, latents=latents, start=start)
        workers.ask(command, limit_s=self.limits.other_s, due=time.monotonic())
        return PoolStream(workers, session, plan, self.limits, on_step, on_latents)

    def decode(self, latents_CTHW: Tensor) -> Iterator[Tensor]:
        """Frames of normalized latents [C, t, h, w], no stream: pieces of [3, T, H, W] in [-1, 1], 4 t - 3 frames in all."""
        workers, session = self.start(), next(self.sessions)

        def ask(command: object) -> tuple[object, Tensor | None]:
            return workers.ask(command, limit_s=self.limits.first_s, due=time.monotonic())  # due now: a long decode must not delay streams

        ask(wire.OpenDecode(session=session, latents_CTHW=latents_CTHW))
        try:
            while (answer := ask(wire.Next(session=session)))[0] is not None:
                yield answer[1]
        finally:
            workers.forget(session, self.limits.other_s)

    def encode_audio(self, samples_N: Tensor, loudness: bool = True) -> Tensor:
        """16 kHz sound [N] -> features [T, layers, width] float32."""
        return self.ask(wire.Listen(samples_N=samples_N, loudness=loudness), self.limits.reference_s)

    def ping(self, shape: tuple[int, ...] = ()) -> Tensor | None:
        """Send a command to all workers and wait; with a shape, returns uint8 values of that shape from rank 0."""
        return self.start().ask(wire.Ping(shape=shape), limit_s=self.limits.other_s)[1]

    def stats(self) -> dict[str, float]:
        """Rank 0's resident_mb, peak_mb, files and sessions."""
        return self.ask(wire.Stats(), self.limits.other_s)

    def close(self) -> None:
        """End the workers. Open streams fail with PoolClosed. Logs of a failure are kept."""
        self.closed = True
        if (workers := self.workers) is not None:
            workers.close()
            if workers.failure is None:
                shutil.rmtree(workers.folder, ignore_errors=True)


class PoolStream:
    """One stream in the workers. Sound is buffered here until there is enough for a chunk."""

    def __init__(
        self,
        workers: Workers,
        session: int,
        plan: StreamPlan,
        limits: Limits,
        on_step: OnStep | None,
        on_latents: Callable[[Tensor], None] | None,
    ) -> None:
        self.workers, self.session, self.plan, self.limits = workers, session, plan, limits
        self.on_step, self.on_latents = on_step, on_latents
        self.blocks: list[Tensor] = []
        self.waiting, self.num_chunks, self.last_index = 0, 0, -1
        self.due = 0.0
        """time.monotonic at which all frames made so far have been shown."""
        self.unfinished = False
        """Whether a reader stopped before the last piece of a call; the next call gives the rest."""
        self.close = weakref.finalize(self, workers.forget, session, limits.other_s)
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

    def run(self, command: object) -> Iterator[Chunk]:
        """Yield pieces until the workers have none left; by then they have also prepared for the next sound."""
        self.unfinished = True
        while (piece := self.make(command)) is not None:
            yield piece
            command = wire.Next(session=self.session)
        self.unfinished = False

    def make(self, command: object) -> Chunk | None:
        """Ask for one piece. The pieces of all streams are made in the order in which they must be shown."""
        if not self.close.alive and self.workers.failure is None:
            raise PoolClosed("the stream is closed; open a new one")
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

    def limit_s(self) -> float:
        """The deadline of the next piece: long before the size is warm, then by what was measured."""
        longest = self.workers.piece_seconds.get((self.plan.width, self.plan.height))
        return self.limits.first_s if longest is None else max(self.limits.chunk_s, SLOWER * longest)

    def measure(self, seconds: float, made: wire.Made | None) -> None:
        """Remember how long a piece took, once this stream has made its first chunks."""
        if made is not None and made.index != self.last_index:
            self.num_chunks, self.last_index = self.num_chunks + 1, made.index
        if self.num_chunks > FIRST_CHUNKS:
            longest, size = self.workers.piece_seconds, (self.plan.width, self.plan.height)
            longest[size] = max(seconds, longest.get(size, 0.0))


__all__ = ["Limits", "Placement", "Pool", "PoolClosed", "PoolStream", "Recipe", "State", "WorkerFailure"]
