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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from livetalk_core.plan import StreamPlan
from livetalk_core.pool import wire
from livetalk_core.pool.deadlines import Deadlines, Limits
from livetalk_core.pool.schedule import POLL_S, Job, OnStep, PoolClosed, State, WorkerFailure
from livetalk_core.pool.stream import PoolStream, effort_of
from livetalk_core.pool.wire import Facts, Placement, Recipe
from livetalk_core.pool.workers import Workers
from livetalk_core.types import NoRoom, Reference, Shown, Start, StreamSettings

log = logging.getLogger(__name__)


class Pool:
    """The workers of one engine. They start on first use and restart after a failure; earlier streams fail with that failure's reason.

    Raises WorkerFailure when a worker dies, fails or hangs, and the engine's own errors for bad input.
    `spare_cores`: cores on which the workers start no threads.
    """

    def __init__(self, placement: Placement, recipe: Recipe, limits: Limits = Limits(), spare_cores: int = 0) -> None:  # noqa: B008 (frozen)
        if sys.platform != "linux":
            raise ValueError(f"a pool needs Linux, and this is {sys.platform}; use one device without a pool")
        self.placement, self.recipe, self.limits, self.spare_cores = placement, recipe, limits, spare_cores
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
            num_threads=max(1, (len(os.sched_getaffinity(0)) - self.spare_cores) // size),
        )
        log.info("pool: starting %d workers, logs in %s", size, folder)
        return Workers(load, Deadlines(self.limits), folder)

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
        self,
        pixels_CHW: Tensor,
        prompt: str | None = None,
        speaker_masks_KHW: Tensor | None = None,
        image_LD: Tensor | None = None,
        on_step: OnStep | None = None,
    ) -> Reference:
        """Encode a cropped picture [3, H, W] in [-1, 1] and a prompt. The reference stays valid when the pool restarts.

        `on_step` is called while this waits, with (0, 0), and may raise to stop: the workers then drop what they have begun.
        """
        workers = self.start()
        rows = self.encode_rows(workers, prompt, pixels_CHW if image_LD is None else None, on_step)
        options = {"prompt": prompt, "speaker_masks_KHW": speaker_masks_KHW, "image_LD": image_LD, **rows}
        given = {name: value for name, value in options.items() if value is not None}
        work = ("reference", pixels_CHW.shape[2], pixels_CHW.shape[1])
        job = Job(wire.Prepare(pixels_CHW=pixels_CHW, options=given), workers.deadlines.limit_s(work), time.monotonic())
        reference, _ = workers.run(job, on_step)
        workers.deadlines.note(work, job.seconds)
        return reference

    def encode_rows(self, workers: Workers, prompt: str | None, pixels_CHW: Tensor | None, on_step: OnStep | None) -> dict[str, Tensor]:
        """Rows of a prompt and a picture, made by rank 0 while the workers go on with other streams."""
        number, limit_s = next(self.sessions), self.limits.load_s + self.limits.reference_s  # the encoders' files may be read first
        deadline = time.monotonic() + limit_s

        def ask(command: object) -> wire.Rows | None:
            return workers.ask(command, limit_s=self.limits.other_s, due=time.monotonic())[0]

        ask(wire.EncodeRows(number=number, prompt=prompt, pixels_CHW=pixels_CHW))
        try:
            while (found := ask(wire.TakeRows(number=number))) is None:
                if time.monotonic() > deadline:
                    raise WorkerFailure(f"encoding the prompt and the picture took longer than {limit_s:g} s")
                if on_step is not None:
                    on_step(0, 0)
                time.sleep(POLL_S)
        except BaseException:
            workers.post(wire.DropRows(number=number), self.limits.other_s)
            raise
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
        plan = self.plan(reference.pixels_CHW.shape[2], reference.pixels_CHW.shape[1])
        settled = self.preset.settled(settings, plan)
        workers, session = self.start(), next(self.sessions)

        def text_rows(text: str, on_step: OnStep | None = None) -> Tensor:
            return self.encode_rows(workers, text, None, on_step)["text_LD"]

        rows = {text: text_rows(text, on_step) for text in settled.texts}
        with no_room_if_it_fails():
            workers.reserve(plan.new_frames * plan.height * plan.width * 3)
        given = {"people": people, "latents": on_latents is not None, "start": start, "rows": rows}
        command = wire.Open(session=session, reference=reference, settings=settings, **given)
        workers.ask(command, limit_s=self.limits.other_s, due=time.monotonic())
        ahead_s = start.ahead_s if isinstance(start, Shown) else 0.0
        return PoolStream(workers, session, plan, self.limits.other_s, on_step, on_latents, text_rows, effort_of(settled, plan), ahead_s)

    def decode(self, latents_CTHW: Tensor, picture_CHW: Tensor | None = None) -> Iterator[Tensor]:
        """Frames of normalized latents [C, t, h, w], no stream: pieces of [3, T, H, W] in [-1, 1], 4 t - 3 frames in all. `picture_CHW`:
        as for Engine.decode."""
        workers, session = self.start(), next(self.sessions)

        def ask(command: object) -> tuple[object, Tensor | None]:
            return workers.ask(command, limit_s=self.limits.first_s, due=time.monotonic())  # due now: a long decode must not delay streams

        ask(wire.OpenDecode(session=session, latents_CTHW=latents_CTHW, picture_CHW=picture_CHW))
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


@contextmanager
def no_room_if_it_fails() -> Iterator[None]:
    """NoRoom in place of an OSError: the machine has no memory for a stream's frames."""
    try:
        yield
    except OSError as error:
        raise NoRoom(f"no memory for the frames of another stream: {error.strerror}; end a stream first") from None


__all__ = ["Limits", "Placement", "Pool", "PoolClosed", "PoolStream", "Recipe", "State", "WorkerFailure"]
