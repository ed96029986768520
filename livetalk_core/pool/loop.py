"""A worker's loop: it makes the engine, keeps the streams, and runs them a piece of a chunk at a time.

Every rank does the same work for the same orders, loudness and audio encoder included: this needs no communication between ranks, and
waiting for rank 0's features would be no faster. Only rank 0 sends results back.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
import resource
import socket
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor

from livetalk_core.pool import wire
from livetalk_core.pool.memory import PAGE_BYTES, WORD_BYTES, Segment, StopWord
from livetalk_core.pool.packing import messages, pack
from livetalk_core.types import AvatarEngine, Chunk, NoRoom, Reference


class Warnings(logging.Handler):
    """Forwards rank 0's warnings to the pool's user."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(logging.WARNING)
        self.worker = worker

    def emit(self, record: logging.LogRecord) -> None:
        self.worker.send(wire.Note(warning=record.getMessage()))


class Cancelled(Exception):
    """Raised on all ranks at the same step."""


class Worker:
    """One rank's side of the pool."""

    def __init__(self, connection: socket.socket, stop_fd: int, slot_fds: list[int]) -> None:
        self.connection = connection
        stop = Segment(stop_fd)
        stop.map(WORD_BYTES)
        self.stop, self.slots = StopWord(stop), [Segment(fd) for fd in slot_fds]
        self.engine: AvatarEngine | None = None
        self.sessions: dict[int, WorkerStream | Iterator[Tensor]] = {}
        self.rows: dict[int, Future] = {}
        self.encoder = ThreadPoolExecutor(1, "encoder")
        self.rank = self.job = 0
        self.cancel_flag: CancelFlag | None = None

    def run(self) -> None:
        """Answer orders until Shutdown, or until the pool's socket closes."""
        for order in messages(self.connection):
            if isinstance(order.command, wire.Shutdown):
                return
            self.send(self.answer(order))

    def answer(self, order: wire.Order) -> wire.Done | wire.Refused | wire.Stopped:
        self.job = order.job
        try:
            with torch.no_grad():
                value, large = self.execute(order.command)
        except Cancelled:
            return wire.Stopped(job=order.job)
        except (ValueError, FileNotFoundError, NoRoom) as error:
            return wire.Refused(job=order.job, error=error)
        if self.rank and not isinstance(order.command, wire.Stats):
            return wire.Done(job=order.job)
        parcel = None if large is None else self.slots[order.slot].put(large)
        return wire.Done(job=order.job, value=value, parcel=parcel)

    def send(self, message: object) -> None:
        self.connection.sendall(pack(message))

    def execute(self, command: object) -> tuple[object, Tensor | None]:
        """Execute one command. Returns its value, and a tensor to put into shared memory."""
        match command:
            case wire.Load():
                return self.load(command), None
            case wire.Prepare():
                return self.engine.reference(command.pixels_CHW, **command.options), None
            case wire.EncodeRows():
                if self.rank == 0:
                    self.rows[command.number] = self.encoder.submit(self.engine.encode_rows, command.prompt, command.pixels_CHW)
            case wire.TakeRows():
                return self.take_rows(command.number), None
            case wire.DropRows():
                if (future := self.rows.pop(command.number, None)) is not None:
                    future.cancel()
            case wire.Listen():
                return self.engine.encode_audio(command.samples_N, command.loudness), None
            case wire.Open():
                self.sessions[command.session] = self.open(command)
            case wire.OpenDecode():
                self.sessions[command.session] = self.engine.decode(command.latents_CTHW, command.picture_CHW)
            case wire.Push():
                return self.sessions[command.session].push(command.blocks)
            case wire.Finish():
                return self.sessions[command.session].finish(command.blocks, command.num_frames)
            case wire.Next():
                return self.next(self.sessions[command.session])
            case wire.SetPrompt():
                if (session := self.sessions.get(command.session)) is not None:  # None: closed by another thread meanwhile
                    session.set_prompt(command.text_LD.to(self.engine.device, self.engine.dtype))
            case wire.Close():
                if isinstance(session := self.sessions.pop(command.session, None), WorkerStream):
                    session.stream.close()
            case wire.Ping():
                return None, picture(command.shape) if command.shape and not self.rank else None
            case wire.Stats():
                return self.stats(), None
        return None, None

    def take_rows(self, number: int) -> wire.Rows | None:
        """A finished encoding. An error is a value, since the other ranks have none."""
        if self.rank or not self.rows[number].done():
            return None
        future = self.rows.pop(number)
        error = future.exception()
        return wire.Rows(error=error) if error is not None else wire.Rows(rows=future.result())

    def load(self, command: wire.Load) -> wire.Facts:
        self.rank = command.rank
        torch.set_num_threads(command.num_threads)
        if self.rank == 0:
            logging.getLogger("livetalk_core").addHandler(Warnings(self))
        self.note("joining the other workers")
        group = join(command) if command.recipe.grouped and command.placement.num_workers > 1 else None
        self.note("loading the model")
        module, _, name = command.recipe.make.partition(":")
        prompt = [] if command.recipe.prompt is None else [command.recipe.prompt]
        self.engine = vars(importlib.import_module(module))[name](group, command.recipe.options, *prompt)
        self.cancel_flag = CancelFlag(self.engine.device, grouped=group is not None)
        return wire.Facts(preset=self.engine.preset, dtype=self.engine.dtype, device=self.engine.device.type)

    def open(self, command: wire.Open) -> WorkerStream:
        device = self.engine.device
        tensors = {name: value.to(device) for name, value in vars(command.reference).items() if isinstance(value, Tensor)}
        reference: Reference = replace(command.reference, **tensors)
        latents: list[Tensor] = []
        keep = latents.append if command.latents else None
        later = {} if command.start is None else {"start": command.start}
        later |= {"rows": command.rows} if command.rows else {}
        return WorkerStream(self.engine.open(reference, command.settings, command.people, self.between_steps, keep, **later), latents)

    def next(self, session: WorkerStream | Iterator[Tensor]) -> tuple[wire.Made | None, Tensor | None]:
        if isinstance(session, WorkerStream):
            return session.make()
        piece_CTHW = next(session, None)
        return (None, None) if piece_CTHW is None else (wire.Made(), piece_CTHW)

    def between_steps(self, step: int, steps: int) -> None:
        """Report progress; if the job was cancelled, stop here on all ranks."""
        if self.rank == 0:
            self.send(wire.Note(step=step, steps=steps))
        if self.cancel_flag.is_set(self.rank == 0 and self.stop.get() == self.job):
            raise Cancelled

    def note(self, text: str) -> None:
        if self.rank == 0:
            self.send(wire.Note(text=text))

    def stats(self) -> dict[str, float]:
        """This rank's memory in MB, open files and sessions."""
        with open("/proc/self/statm") as file:
            resident = int(file.read().split()[1]) * PAGE_BYTES
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        if self.engine.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.engine.device) / 1e6
        return {"resident_mb": resident / 1e6, "peak_mb": peak, "files": len(os.listdir("/proc/self/fd")), "sessions": len(self.sessions)}


class WorkerStream:
    """A stream and its unfinished calls of push and finish."""

    def __init__(self, stream: object, latents: list[Tensor]) -> None:
        self.stream, self.latents = stream, latents
        self.calls: deque[Iterator[Chunk]] = deque()

    def push(self, blocks: list[Tensor]) -> tuple[wire.Made | None, Tensor | None]:
        self.calls.extend(self.stream.push(block) for block in blocks)
        return self.make()

    def finish(self, blocks: list[Tensor], num_frames: int | None) -> tuple[wire.Made | None, Tensor | None]:
        self.calls.extend([*(self.stream.push(block) for block in blocks), self.stream.finish(num_frames)])
        return self.make()

    def set_prompt(self, text_LD: Tensor) -> None:
        self.stream.session.set_prompt(text_LD)

    def make(self) -> tuple[wire.Made | None, Tensor | None]:
        """The next piece, with its frames as a separate tensor."""
        chunk = None
        while self.calls and (chunk := next(self.calls[0], None)) is None:
            self.calls.popleft()
        if chunk is None:
            return None, None
        latents_CTHW = self.latents.pop() if self.latents else None
        counts = {"index": chunk.index, "first_frame": chunk.first_frame}
        return wire.Made(**counts, samples=chunk.samples, seconds=chunk.seconds, latents_CTHW=latents_CTHW), chunk.frames_THWC


class CancelFlag:
    """Whether to cancel the job: decided by rank 0, the same on all ranks.

    The ranks agree over gloo, on the host, so the GPU's queue is not blocked. On CUDA at most one step is queued behind the running one;
    otherwise all steps of a chunk would be queued before the first one ends, and cancelling would come too late.
    """

    def __init__(self, device: torch.device, *, grouped: bool) -> None:
        self.group = dist.new_group(backend="gloo") if grouped else None
        self.device = device
        self.last: torch.cuda.Event | None = None

    def is_set(self, wanted: bool) -> bool:
        """Call it on every rank at the same steps; rank 0's value is broadcast."""
        if self.device.type == "cuda":
            self.limit_queue()
        if self.group is None:
            return wanted
        flag = torch.tensor([wanted])
        dist.broadcast(flag, 0, group=self.group)
        return bool(flag)

    def limit_queue(self) -> None:
        if self.last is not None:
            self.last.synchronize()
        self.last = torch.cuda.current_stream(self.device).record_event()


def join(load: wire.Load) -> object:
    """This rank's SequenceGroup."""
    from livetalk_core.engine.load import join_group

    device = "cuda:0" if load.placement.gpus else "cpu"
    degrees = {"ulysses_degree": load.placement.ulysses_degree, "ring_degree": load.placement.ring_degree}
    kernel = "xfuser" if load.recipe.options.attention == "xfuser" else "plain"
    return join_group(
        rank=load.rank, size=load.placement.num_workers, init_method=load.meeting, device=device, timeout_s=load.timeout_s,
        kernel=kernel, **degrees
    )  # fmt: skip


@functools.cache
def picture(shape: tuple[int, ...]) -> Tensor:
    """uint8 values of this shape, made once, so that only their transfer is timed."""
    return torch.arange(torch.Size(shape).numel(), dtype=torch.int32).to(torch.uint8).view(shape)
