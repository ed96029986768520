"""How a worker's process is started, spoken to, looked at and ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from livetalk_core.pool.wire import Broken, Inbox

PACK = Path(__file__).parents[2]
"""The folder that holds livetalk_core, installed or not."""
SCRUBBED = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Settings of the host program, or of a launcher around it, that are wrong for a worker."""
REAP_S = 10
"""How long a killed process may take to go: the driver frees its GPU memory first."""


class Member:
    """One worker as the pool sees it."""

    def __init__(self, rank: int, process: subprocess.Popen, connection: socket.socket, log: Path) -> None:
        self.rank, self.process, self.connection, self.log = rank, process, connection, log
        self.inbox, self.outbox = Inbox(), bytearray()
        self.broken: Broken | None = None
        """What it said was wrong before it ended."""

    def flush(self) -> None:
        """Send as much as goes without waiting: a worker that does not read must not hold up the pool."""
        with suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            while self.outbox:
                del self.outbox[: self.connection.send(memoryview(self.outbox)[: 1 << 20])]

    def signal(self, number: int) -> None:
        """To its whole process group. Must come before the process is reaped: until then its number is not given to another."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def reap(self) -> int | None:
        """The exit status of a process that has been killed, or is ending; negative for a signal. None for one that cannot go."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(REAP_S)
        return self.process.returncode

    def is_stopped(self) -> bool:
        """Whether something has stopped it, as SIGSTOP does."""
        with suppress(FileNotFoundError, ProcessLookupError):
            return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
        return False

    def epitaph(self) -> str:
        status = self.reap()
        if status is None:
            return f"does not end, {REAP_S} s after it was killed"
        return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


def start_worker(rank: int, folder: Path, gpu: str | None, num_threads: int, death_fd: int, segment_fds: list[int]) -> Member:
    """A process in a group of its own, its output in `folder`/rankN.log. It holds no file of the pool but those handed to it."""
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
    """This process's environment, with the pack at the end of the import path, one GPU by its UUID, and gloo kept on this machine."""
    environment = {name: value for name, value in os.environ.items() if name not in SCRUBBED}
    paths = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    environment["PYTHONPATH"] = os.pathsep.join([*paths, str(PACK)])
    environment["CUDA_VISIBLE_DEVICES"] = gpu or ""
    environment["OMP_NUM_THREADS"] = str(num_threads)
    environment["PYTHONUNBUFFERED"] = "1"
    environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    return environment
