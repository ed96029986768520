"""Starts, signals, inspects and ends a worker's process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from livetalk_core.pool.packing import Inbox
from livetalk_core.pool.wire import Broken

PACK = Path(__file__).parents[2]
"""The folder that holds livetalk_core, installed or not."""
SCRUBBED = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables of the host program or its launcher that a worker must not inherit."""
REAP_S = 10
"""Seconds that a killed process may take to exit: the driver frees its GPU memory first."""


class Member:
    """One worker as the pool sees it."""

    def __init__(self, rank: int, process: subprocess.Popen, connection: socket.socket, log: Path) -> None:
        self.rank, self.process, self.connection, self.log = rank, process, connection, log
        self.inbox, self.outbox = Inbox(), bytearray()
        self.broken: Broken | None = None
        """The error that it reported before it exited."""

    def flush(self) -> None:
        """Send what can be sent without blocking: a worker that does not read must not block the pool."""
        with suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            while self.outbox:
                del self.outbox[: self.connection.send(memoryview(self.outbox)[: 1 << 20])]

    def signal(self, number: int) -> None:
        """Signal its whole process group. Call this before `reap`: after that the process id may belong to another process."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def reap(self) -> int | None:
        """Exit status of a process that was killed or is exiting; negative for a signal, None if it does not exit in time."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(REAP_S)
        return self.process.returncode

    def is_stopped(self) -> bool:
        """Whether it is suspended, as by SIGSTOP."""
        with suppress(FileNotFoundError, ProcessLookupError):
            return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
        return False

    def describe_exit(self) -> str:
        status = self.reap()
        if status is None:
            return f"is still running {REAP_S} s after it was killed"
        return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


def start_worker(rank: int, folder: Path, gpu: str | None, num_threads: int, death_fd: int, segment_fds: list[int]) -> Member:
    """Start a process in its own process group, with its output in `folder`/rankN.log. It inherits only the given file descriptors."""
    ours, theirs = socket.socketpair()
    log = folder / f"rank{rank}.log"
    fds = [theirs.fileno(), death_fd, *segment_fds]
    with theirs, open(log, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "livetalk_core.pool.worker", *map(str, fds)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=worker_environment(gpu, num_threads),
            pass_fds=fds,
            start_new_session=True,
        )
    ours.setblocking(False)
    return Member(rank, process, ours, log)


def worker_environment(gpu: str | None, num_threads: int) -> dict[str, str]:
    """This process's environment, with the pack last on the import path, one visible GPU (by UUID), and gloo on the loopback interface."""
    environment = {name: value for name, value in os.environ.items() if name not in SCRUBBED}
    paths = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    environment["PYTHONPATH"] = os.pathsep.join([*paths, str(PACK)])
    environment["CUDA_VISIBLE_DEVICES"] = gpu or ""
    environment["OMP_NUM_THREADS"] = str(num_threads)
    environment["PYTHONUNBUFFERED"] = "1"
    environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    return environment
