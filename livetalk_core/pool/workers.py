"""The workers of one start, and the thread that looks after them: it hands out orders, hears answers, and ends all when one fails."""

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
from livetalk_core.pool.launch import Member, start_worker
from livetalk_core.pool.memory import WORD_BYTES, Segment, StopWord
from livetalk_core.pool.schedule import Job, OnStep, PoolClosed, Schedule, State, WorkerFailure

log = logging.getLogger(__name__)

NUM_SLOTS = 4
"""Two for work in progress while the last chunk is copied out, and two that readers may keep for a while."""
GRACE_S = 0.3
"""When a rank reports an error, the cause may be another's death, which shows a moment later."""
REFUSED_S = 30
"""When one rank refuses an order, the others must too, within this time."""
PULSE_S = 2
"""How often workers that have nothing to do are asked whether they still answer."""
FAREWELL_S = 3
"""How long workers have to leave by themselves."""
DUMP_S = 0.5
"""How long workers have to write their stacks."""


class Workers:
    """Worker processes from their start to their end. All ranks work on one order at a time; any thread may ask."""

    def __init__(self, load: wire.Load, load_s: float, idle_s: float, folder: Path) -> None:
        """`idle_s`: how long workers that have nothing to do may take to answer."""
        self.folder, self.idle_s = folder, idle_s
        self.next_pulse = float("inf")
        """When they are to be asked, unless there is something to do before."""
        self.state = State(kind="starting", text=f"starting {load.placement.num_workers} processes")
        self.failure: WorkerFailure | None = None
        self.leaving: float | None = None
        self.suspected: float | None = None
        self.dismissed: deque[Job] = deque()
        self.segments = [Segment.create("livetalk-stop", WORD_BYTES), *(Segment.create("livetalk-slot") for _ in range(NUM_SLOTS))]
        self.selector, (self.bell, self.rope) = selectors.DefaultSelector(), socket.socketpair()
        for end in (self.bell, self.rope):
            end.setblocking(False)
        self.selector.register(self.bell, selectors.EVENT_READ, None)
        self.schedule = Schedule(self.segments[1:], StopWord(self.segments[0]), self.ring)
        self.members = self.launch(load)
        self.loaded = self.schedule.submit(Job(load, load_s))
        self.thread = threading.Thread(target=self.look_after, name="livetalk-pool", daemon=True)
        self.thread.start()

    def launch(self, load: wire.Load) -> list[Member]:
        """The processes. They end when the pipe's other end, which this process alone holds, is closed."""
        death_fd, self.life_fd = os.pipe()
        fds = [segment.fd for segment in self.segments]
        gpus = load.placement.gpus or [None] * load.placement.num_workers
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
        """Have a command carried out: rank 0's value and tensor. Raises what refused it, or WorkerFailure."""
        return self.schedule.take(self.schedule.submit(Job(command, limit_s, due)), on_step)

    def dismiss(self, session: int, limit_s: float) -> None:
        """Have the workers forget a session, some time soon. Takes no lock, so that the garbage collector may call it anywhere."""
        self.dismissed.append(Job(wire.Close(session=session), limit_s, awaited=False))
        self.ring()

    def reserve(self, num_bytes: int) -> None:
        """Make the slots large enough beforehand."""
        for slot in self.segments[1:]:
            slot.grow(num_bytes)

    def ring(self) -> None:
        """Wake the thread."""
        with suppress(BlockingIOError, OSError):
            self.rope.send(b"!")

    def close(self) -> None:
        """End the workers and wait until they are gone. What was asked for ends with PoolClosed."""
        self.leaving = self.leaving or time.monotonic()
        self.schedule.refuse(PoolClosed("the pool was closed"), current=False)
        self.ring()
        self.thread.join()

    # From here on: the thread.

    def look_after(self) -> None:
        try:
            while self.failure is None and not self.may_leave():
                self.turn()
            if self.failure is None:
                self.say_farewell()
        except Exception as error:
            self.fail(f"the pool's own thread failed: {error!r}")
            raise
        finally:
            self.clear_up()

    def turn(self) -> None:
        """One round: hear what there is, judge, hand out the next order."""
        for key, mask in self.selector.select(self.patience()):
            if key.data is None:
                with suppress(BlockingIOError):
                    self.bell.recv(4096)
            elif self.failure is None:
                self.serve(key.data, mask)
        now, job = time.monotonic(), self.schedule.current
        if self.failure is None and self.suspected is not None and now > self.suspected + GRACE_S:
            first = min((member for member in self.members if member.broken is not None), key=lambda member: member.broken.at)
            self.fail(f"rank {first.rank} failed: {first.broken.error}", first)
        if self.failure is None and job is not None and now > job.limit:
            self.end_hang(job)
        while self.dismissed:
            self.schedule.submit(self.dismissed.popleft())
        if job is None and now > self.next_pulse:
            self.next_pulse = float("inf")
            self.schedule.submit(Job(wire.Ping(), self.idle_s, awaited=False))
        if self.failure is None:
            self.hand_out()

    def patience(self) -> float | None:
        """Seconds until something is to be done without a message."""
        job = self.schedule.current
        times = [self.suspected + GRACE_S] if self.suspected is not None else []
        times += [self.next_pulse if job is None else job.limit]
        times += [self.leaving + FAREWELL_S] if self.leaving is not None else []
        return None if min(times) == float("inf") else max(0.0, min(times) - time.monotonic()) + 0.001

    def serve(self, member: Member, mask: int) -> None:
        """Send and receive what can be without waiting."""
        if mask & selectors.EVENT_WRITE:
            self.send(member, b"")
        if mask & selectors.EVENT_READ:
            try:
                data = member.connection.recv(wire.RECEIVE_BYTES)
            except ConnectionResetError:
                data = b""
            if not data:
                self.lose(member)
            for message in member.inbox.feed(data):
                self.hear(member, message)

    def send(self, member: Member, data: bytes) -> None:
        member.outbox += data
        member.flush()
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if member.outbox else 0)
        if self.selector.get_key(member.connection).events != wanted:
            self.selector.modify(member.connection, wanted, member)

    def lose(self, member: Member) -> None:
        """A worker's socket has closed: it is dead. If it had said why, the cause may still be another's death."""
        self.selector.unregister(member.connection)
        member.signal(signal.SIGKILL)
        if member.broken is None:
            self.fail(f"rank {member.rank} {member.epitaph()}", member)

    def hear(self, member: Member, message: object) -> None:
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
                self.suspected = self.suspected or time.monotonic()
            case wire.Done() | wire.Refused() | wire.Stopped():
                assert job is not None and message.job == job.number, f"rank {member.rank} answers an order that is not due"
                job.answers[member.rank] = message
                if isinstance(message, wire.Refused):
                    job.limit = min(job.limit, time.monotonic() + REFUSED_S)
                if len(job.answers) == len(self.members):
                    self.conclude(job)

    def conclude(self, job: Job) -> None:
        """All ranks have answered: in the same way, or the pool is out of step."""
        if len({type(answer) for answer in job.answers.values()}) > 1:
            found = ", ".join(f"{rank} {type(answer).__name__.lower()}" for rank, answer in sorted(job.answers.items()))
            self.fail(f"the ranks disagree on {job.what}: {found}")
            return
        self.state, self.next_pulse = State(kind="ready"), time.monotonic() + PULSE_S
        match job.answers[0]:
            case wire.Done():
                self.schedule.conclude(None)
            case wire.Refused(error=error):
                self.schedule.conclude(error)
            case wire.Stopped():
                self.schedule.conclude(PoolClosed(f"{job.what} was cancelled"))

    def hand_out(self) -> None:
        """Send the job due first to all ranks, if they are free."""
        job = self.schedule.begin()
        if job is None:
            return
        job.limit = time.monotonic() + job.limit_s
        order, loading = wire.Order(job=job.number, command=job.command, slot=job.slot), isinstance(job.command, wire.Load)
        if job.awaited and not loading:
            self.state = State(kind="busy", text=job.what)
        data = b"" if loading else wire.pack(order)
        for member in self.members:
            self.send(member, data or wire.pack(replace(order, command=replace(job.command, rank=member.rank))))

    def end_hang(self, job: Job) -> None:
        """Write all ranks' stacks to their logs, then end: a stopped rank is woken for its stack, the others show where they wait."""
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
        """End the pool: nobody is left waiting, no process is left running."""
        for member in self.members:
            member.signal(signal.SIGKILL)
        log = f" (log: {blamed.log})" if blamed is not None else ""
        failure = WorkerFailure(f"{reason}{log}", None if blamed is None else blamed.rank)
        self.state = State(kind="failed", text=str(failure), rank=failure.rank)
        self.failure = failure
        self.schedule.refuse(failure, current=True)

    def may_leave(self) -> bool:
        """Closing waits for the next step of what is being done, but not for a model that is being loaded."""
        job = self.schedule.current
        if self.leaving is None:
            return False
        return job is None or isinstance(job.command, wire.Load) or time.monotonic() > self.leaving + FAREWELL_S

    def say_farewell(self) -> None:
        """Tell the workers to leave; those that are not gone in time are killed."""
        if self.schedule.current is None:
            order = wire.pack(wire.Order(job=0, command=wire.Shutdown(), slot=0))
            for member in self.members:
                self.say(member, lambda connection: connection.sendall(order))
            for member in self.members:
                self.say(member, lambda connection: connection.recv(1))
        self.schedule.refuse(PoolClosed("the pool was closed"), current=True)
        self.state = State(kind="closed")

    def say(self, member: Member, action: Callable[[socket.socket], object]) -> None:
        """A last word, in what is left of the time for all of them."""
        member.connection.settimeout(max(0.01, self.leaving + FAREWELL_S - time.monotonic()))
        with suppress(OSError):
            action(member.connection)

    def clear_up(self) -> None:
        """All processes gone and reaped, all files closed."""
        for member in self.members:
            member.signal(signal.SIGKILL)
        os.close(self.life_fd)
        for member in self.members:
            member.reap()
            member.connection.close()
        self.selector.close()
        for end in (self.bell, self.rope):
            end.close()
        for segment in self.segments:
            segment.close()
