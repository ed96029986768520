"""The worker processes of one start, and the thread that sends them orders, reads their answers, and ends all of them if one fails."""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from livetalk_core.pool import wire
from livetalk_core.pool.deadlines import Deadlines
from livetalk_core.pool.launch import Member, start_worker
from livetalk_core.pool.memory import WORD_BYTES, Segment, StopWord
from livetalk_core.pool.packing import RECEIVE_BYTES, pack
from livetalk_core.pool.schedule import Job, OnStep, PoolClosed, Schedule, State, WorkerFailure

log = logging.getLogger(__name__)

NUM_SLOTS = 4
"""Two for running work while the previous chunk is copied, and two that readers may hold."""
GRACE_S = 0.3
"""Wait after a rank's error report: the cause may be another rank's death, which is noticed a moment later."""
REFUSAL_S = 30
"""When one rank refuses an order, the others must answer within this time."""
IDLE_CHECK_S = 2
"""How long workers are idle before they are pinged."""
EXIT_S = 3
"""How long workers may take to exit at shutdown before they are killed."""
DUMP_S = 0.5
"""How long workers may take to write their stack traces."""


class Workers:
    """Worker processes from start to end. All ranks work on one order at a time; any thread may call `ask`."""

    def __init__(self, load: wire.Load, deadlines: Deadlines, folder: Path) -> None:
        self.folder, self.deadlines = folder, deadlines
        self.next_idle_check = float("inf")
        """time.monotonic of the next ping if no job comes before."""
        self.state = State(kind="starting", text=f"starting {load.placement.num_workers} processes")
        self.failure: WorkerFailure | None = None
        self.closing_since: float | None = None
        self.error_since: float | None = None
        self.to_post: deque[Job] = deque()
        self.segments = [Segment.create("livetalk-stop", WORD_BYTES), *(Segment.create("livetalk-slot") for _ in range(NUM_SLOTS))]
        self.selector, (self.wake_reader, self.wake_writer) = selectors.DefaultSelector(), socket.socketpair()
        for end in (self.wake_reader, self.wake_writer):
            end.setblocking(False)
        self.selector.register(self.wake_reader, selectors.EVENT_READ, None)
        self.schedule = Schedule(self.segments[1:], StopWord(self.segments[0]), self.wake)
        self.members = self.launch(load)
        self.loaded = self.schedule.submit(Job(load, deadlines.limits.load_s))
        self.thread = threading.Thread(target=self.watch, name="livetalk-pool", daemon=True)
        self.thread.start()

    def launch(self, load: wire.Load) -> list[Member]:
        """Start the processes. They exit when the other end of the pipe closes, which only this process holds."""
        death_fd, self.life_fd = os.pipe()
        fds, gpus = [segment.fd for segment in self.segments], load.placement.gpus or [None] * load.placement.num_workers
        try:
            members = [start_worker(rank, self.folder, gpu, load.num_threads, death_fd, fds) for rank, gpu in enumerate(gpus)]
        except OSError:
            os.close(self.life_fd)
            for segment in self.segments:
                segment.close()
            raise
        finally:
            os.close(death_fd)
        for member in members:
            self.selector.register(member.connection, selectors.EVENT_READ, member)
        return members

    def ask(self, command: object, *, limit_s: float, due: float = 0, on_step: OnStep | None = None) -> tuple[object, Tensor | None]:
        """Execute a command and return rank 0's value and tensor. Raises the engine's error, or WorkerFailure."""
        return self.run(Job(command, limit_s, due), on_step)

    def run(self, job: Job, on_step: OnStep | None = None) -> tuple[object, Tensor | None]:
        """As `ask`; afterwards the job has its seconds."""
        return self.schedule.take(self.schedule.submit(job), on_step)

    def forget(self, session: int, limit_s: float) -> None:
        """Make the workers drop a session soon."""
        self.post(wire.Close(session=session), limit_s)

    def post(self, command: object, limit_s: float) -> None:
        """Have a command executed soon, without waiting. Takes no lock, so the garbage collector may call it at any time."""
        self.to_post.append(Job(command, limit_s, awaited=False))
        self.wake()

    def reserve(self, num_bytes: int) -> None:
        """Grow the slots in advance."""
        for slot in self.segments[1:]:
            slot.grow(num_bytes)

    def wake(self) -> None:
        """Wake the thread from its wait for events."""
        with suppress(BlockingIOError, OSError):
            self.wake_writer.send(b"!")

    def close(self) -> None:
        """End the workers and wait for them. Waiting jobs end with PoolClosed."""
        self.closing_since = self.closing_since or time.monotonic()
        self.schedule.refuse(PoolClosed("the pool was closed"), current=False)
        self.wake()
        self.thread.join()

    # Everything below runs in the thread.

    def watch(self) -> None:
        try:
            while self.failure is None and not self.can_shut_down():
                self.handle_events()
            if self.failure is None:
                self.shut_down()
        except Exception as error:
            self.fail(f"the pool's own thread failed: {error!r}")
            raise
        finally:
            self.release_all()

    def handle_events(self) -> None:
        """One iteration: read messages, check deadlines, send the next order."""
        for key, mask in self.selector.select(self.seconds_to_wait()):
            if key.data is None:
                with suppress(BlockingIOError):
                    self.wake_reader.recv(4096)
            elif self.failure is None:
                self.serve(key.data, mask)
        now, job = time.monotonic(), self.schedule.current
        if self.failure is None and self.error_since is not None and now > self.error_since + GRACE_S:
            first = min((member for member in self.members if member.broken is not None), key=lambda member: member.broken.at)
            self.fail(f"rank {first.rank} failed: {first.broken.error}", first)
        if self.failure is None and job is not None and now > job.limit:
            self.end_hang(job)
        while self.to_post:
            self.schedule.submit(self.to_post.popleft())
        if job is None and now > self.next_idle_check:
            self.next_idle_check = float("inf")
            self.schedule.submit(Job(wire.Ping(), self.deadlines.limits.idle_s, awaited=False))
        if self.failure is None:
            self.hand_out()

    def seconds_to_wait(self) -> float | None:
        """Seconds until the next deadline; None if there is none."""
        job = self.schedule.current
        times = [self.error_since + GRACE_S] if self.error_since is not None else []
        times += [self.next_idle_check if job is None else job.limit]
        times += [self.closing_since + EXIT_S] if self.closing_since is not None else []
        return None if min(times) == float("inf") else max(0.0, min(times) - time.monotonic()) + 0.001

    def serve(self, member: Member, mask: int) -> None:
        """Send and receive without blocking."""
        if mask & selectors.EVENT_WRITE:
            self.send(member, b"")
        if mask & selectors.EVENT_READ:
            try:
                data = member.connection.recv(RECEIVE_BYTES)
            except ConnectionResetError:
                data = b""
            if not data:
                self.on_disconnect(member)
            for message in member.inbox.feed(data):
                self.on_message(member, message)

    def send(self, member: Member, data: bytes) -> None:
        member.outbox += data
        member.flush()
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if member.outbox else 0)
        if self.selector.get_key(member.connection).events != wanted:
            self.selector.modify(member.connection, wanted, member)

    def on_disconnect(self, member: Member) -> None:
        """A worker's socket closed, so it is dead. If it reported an error before, another rank's death may still be the cause."""
        self.selector.unregister(member.connection)
        member.signal(signal.SIGKILL)
        if member.broken is None:
            self.fail(f"rank {member.rank} {member.describe_exit()}", member)

    def on_message(self, member: Member, message: object) -> None:
        job = self.schedule.current
        match message:
            case wire.Note(text=text) if text:
                self.state = State(kind="starting", text=text)
            case wire.Note(warning=line) if line:
                log.warning("%s", line)
            case wire.Note(step=step, steps=steps) if job is not None:
                job.step = (step, steps)
            case wire.Broken():
                member.broken = message
                self.error_since = self.error_since or time.monotonic()
            case wire.Done() | wire.Refused() | wire.Stopped():
                assert job is not None and message.job == job.number, f"rank {member.rank} answered an order that is not running"
                job.answers[member.rank] = message
                if isinstance(message, wire.Refused):
                    job.limit = min(job.limit, time.monotonic() + REFUSAL_S)
                if len(job.answers) == len(self.members):
                    self.conclude(job)

    def conclude(self, job: Job) -> None:
        """All ranks have answered. Answers of different kinds mean that the ranks have diverged."""
        if len({type(answer) for answer in job.answers.values()}) > 1:
            found = ", ".join(f"{rank} {type(answer).__name__.lower()}" for rank, answer in sorted(job.answers.items()))
            self.fail(f"the ranks disagree on {job.what}: {found}")
            return
        now = time.monotonic()
        job.seconds = now - job.begun
        self.state, self.next_idle_check = State(kind="ready"), now + IDLE_CHECK_S
        match job.answers[0]:
            case wire.Done():
                self.schedule.conclude(None)
            case wire.Refused(error=error):
                self.schedule.conclude(error)
            case wire.Stopped():
                self.schedule.conclude(PoolClosed(f"{job.what} was cancelled"))

    def hand_out(self) -> None:
        """Send the job due first to all ranks, if they are idle."""
        job = self.schedule.begin()
        if job is None:
            return
        job.begun = time.monotonic()
        job.limit = job.begun + job.limit_s
        order, loading = wire.Order(job=job.number, command=job.command, slot=job.slot), isinstance(job.command, wire.Load)
        if job.awaited and not loading:
            self.state = State(kind="busy", text=job.what)
        data = b"" if loading else pack(order)
        for member in self.members:
            self.send(member, data or pack(replace(order, command=replace(job.command, rank=member.rank))))

    def end_hang(self, job: Job) -> None:
        """Make all ranks write their stack traces to their logs, then fail. A suspended rank is continued so that it can."""
        stopped = [member for member in self.members if member.is_stopped()]
        silent = [member for member in self.members if member.rank not in job.answers]
        for member in self.members:
            with suppress(ProcessLookupError):
                os.kill(member.process.pid, signal.SIGUSR2)
            member.signal(signal.SIGCONT)
        time.sleep(DUMP_S)
        blamed = stopped or (silent if len(silent) == 1 or len(silent) < len(self.members) else [])
        ranks = ", ".join(str(member.rank) for member in stopped or silent)
        finding = f"rank {ranks} was stopped" if stopped else f"no answer from rank {ranks}"
        reason = f"{job.what} took longer than {job.limit_s:g} s: {finding}; the stacks of all ranks are in {self.folder}"
        self.fail(reason, blamed[0] if blamed else None)

    def fail(self, reason: str, blamed: Member | None = None) -> None:
        """Kill all workers and end all jobs with WorkerFailure."""
        for member in self.members:
            member.signal(signal.SIGKILL)
        log = f" (log: {blamed.log})" if blamed is not None else ""
        failure = WorkerFailure(f"{reason}{log}", None if blamed is None else blamed.rank)
        self.state, self.failure = State(kind="failed", text=str(failure), rank=failure.rank), failure
        self.schedule.refuse(failure, current=True)

    def can_shut_down(self) -> bool:
        """Whether the thread may shut down: closing waits for the running job to be cancelled, but not for a load."""
        job = self.schedule.current
        if self.closing_since is None:
            return False
        return job is None or isinstance(job.command, wire.Load) or time.monotonic() > self.closing_since + EXIT_S

    def shut_down(self) -> None:
        """Ask idle workers to exit; `release_all` then kills those that have not."""
        if self.schedule.current is None:
            order = pack(wire.Order(job=0, command=wire.Shutdown(), slot=0))
            for member in self.members:
                self.try_with_timeout(member, lambda connection: connection.sendall(order))
            for member in self.members:
                self.try_with_timeout(member, lambda connection: connection.recv(1))
        self.schedule.refuse(PoolClosed("the pool was closed"), current=True)
        self.state = State(kind="closed")

    def try_with_timeout(self, member: Member, action: Callable[[socket.socket], object]) -> None:
        """Send or receive within what is left of EXIT_S; errors are ignored."""
        member.connection.settimeout(max(0.01, self.closing_since + EXIT_S - time.monotonic()))
        with suppress(OSError):
            action(member.connection)

    def release_all(self) -> None:
        """Kill and reap all processes, close all files."""
        for member in self.members:
            member.signal(signal.SIGKILL)
        os.close(self.life_fd)
        for member in self.members:
            member.reap()
            member.connection.close()
        self.selector.close()
        for end in (self.wake_reader, self.wake_writer):
            end.close()
        for segment in self.segments:
            segment.close()
