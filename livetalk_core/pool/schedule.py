"""A queue of jobs for the workers. Any thread submits a job and waits for it; the job due first runs first, one at a time."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from livetalk_core.pool import wire
from livetalk_core.pool.memory import Segment, StopWord

OnStep = Callable[[int, int], None]
POLL_S = 0.05
"""How often a waiting stream calls its `on_step`."""
SPARE_SLOTS = 2
"""While at least this many slots are free, an answer is lent to the reader without a copy; otherwise it is copied."""


class WorkerFailure(RuntimeError):
    """A worker died, failed or hung, so the pool has ended. `rank` is the worker that caused it, if known."""

    def __init__(self, reason: str, rank: int | None = None) -> None:
        super().__init__(reason)
        self.rank = rank


class PoolClosed(RuntimeError):
    """The pool was closed or the job was cancelled while a caller was waiting."""


@dataclass(frozen=True, kw_only=True)
class State:
    """What the pool is doing, for display."""

    kind: str
    """starting, ready, busy, failed or closed."""
    text: str = ""
    """What it is doing, or why it failed."""
    rank: int | None = None
    """The worker that failed."""


class Job:
    """A command and its answers. Jobs run in the order of `due`, in seconds of time.monotonic."""

    def __init__(self, command: object, limit_s: float, due: float = 0, *, awaited: bool = True) -> None:
        self.command, self.limit_s, self.due = command, limit_s, due
        self.awaited = awaited
        """Whether a caller will take the answer and thereby free the slot."""
        self.number = self.slot = -1
        self.begun, self.seconds, self.limit = 0.0, 0.0, float("inf")
        """time.monotonic when it began, how long it took, and its deadline."""
        self.step = (0, 0)
        self.answers: dict[int, wire.Done | wire.Refused | wire.Stopped] = {}
        self.error: BaseException | None = None
        self.ended = threading.Event()

    @property
    def what(self) -> str:
        return type(self.command).__name__.lower()

    def end(self, error: BaseException | None = None) -> None:
        self.error = error
        self.ended.set()


class Schedule:
    """Jobs in the order they are due, and the slots for their answers. Any thread may submit; a single thread begins and concludes jobs.

    `wake` wakes that thread.
    """

    def __init__(self, slots: list[Segment], stop: StopWord, wake: Callable[[], None]) -> None:
        self.slots, self.stop, self.wake = slots, stop, wake
        self.free_slots = list(range(len(slots)))
        self.lock, self.numbers = threading.Lock(), itertools.count(1)
        self.waiting: list[tuple[float, int, Job]] = []
        self.current: Job | None = None
        self.refusal: BaseException | None = None
        """The error for new jobs once the pool has ended."""

    def submit(self, job: Job) -> Job:
        with self.lock:
            job.number = next(self.numbers)
            if self.refusal is None:
                heapq.heappush(self.waiting, (job.due, job.number, job))
            else:
                job.end(self.refusal)
        self.wake()
        return job

    def take(self, job: Job, on_step: OnStep | None = None) -> tuple[object, Tensor | None]:
        """Wait for a job and return rank 0's value and tensor. `on_step` is called while waiting; if it raises, the job is cancelled."""
        try:
            while not job.ended.wait(None if on_step is None else POLL_S):
                on_step(*job.step)
        except BaseException:
            self.cancel(job)
            job.ended.wait()
            self.free(job)
            raise
        done, slot = job.answers.get(0), job.slot
        if job.error is None and done.parcel is not None and len(self.free_slots) >= SPARE_SLOTS:
            return done.value, self.slots[slot].lend(done.parcel, lambda: self.put_back(slot))
        try:
            if job.error is not None:
                raise job.error
            return done.value, None if done.parcel is None else self.slots[slot].take(done.parcel)
        finally:
            self.free(job)

    def cancel(self, job: Job) -> None:
        """Cancel a job between two steps, or before it begins. The workers keep running."""
        with self.lock:
            if job is self.current:
                self.stop.set(job.number)
            elif not job.ended.is_set():
                self.waiting = [entry for entry in self.waiting if entry[2] is not job]
                heapq.heapify(self.waiting)
                job.end(PoolClosed(f"{job.what} was cancelled"))

    def free(self, job: Job) -> None:
        if job.slot >= 0:
            self.put_back(job.slot)

    def put_back(self, slot: int) -> None:
        """Mark a slot as free. Takes no lock, since the garbage collector may call this while the lock is held."""
        self.free_slots.append(slot)
        self.wake()

    def begin(self) -> Job | None:
        """Begin the job due first, if no other is running and a slot is free."""
        with self.lock:
            if self.current is not None or not self.waiting or not self.free_slots:
                return None
            self.current = heapq.heappop(self.waiting)[2]
            self.current.slot = self.free_slots.pop(0)
            return self.current

    def conclude(self, error: BaseException | None) -> None:
        """End the current job."""
        with self.lock:
            job, self.current = self.current, None
            if not job.awaited:
                self.free_slots.append(job.slot)
        job.end(error)

    def refuse(self, error: BaseException, *, current: bool) -> None:
        """Refuse new jobs and end the waiting ones with this error. `current`: end the running job too; otherwise only cancel it."""
        with self.lock:
            self.refusal = self.refusal or error
            ended, self.waiting = [job for _, _, job in self.waiting], []
            if self.current is not None and current:
                ended.append(self.current)
                self.current = None
            elif self.current is not None:
                self.stop.set(self.current.number)
        for job in ended:
            job.end(error)
