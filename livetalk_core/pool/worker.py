"""One process of a pool: `python -m livetalk_core.pool.worker SOCKET DEATH STOP SLOT SLOT`; the arguments are inherited file descriptors.

It exits when its pool's process ends, for whatever reason: only that process holds the other end of the DEATH pipe.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
from contextlib import suppress


def main(arguments: list[str]) -> None:
    """Execute orders until shutdown. The watch on the pool's process starts before any slow import."""
    connection_fd, death_fd, stop_fd, *slot_fds = map(int, arguments)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR2, all_threads=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    threading.Thread(target=end_with_pool, args=(death_fd,), daemon=True).start()
    connection = socket.socket(fileno=connection_fd)
    try:
        from livetalk_core.pool.loop import Worker

        Worker(connection, stop_fd, slot_fds).run()
    except Exception as error:
        at = time.monotonic()
        traceback.print_exc()
        with suppress(OSError):
            report(connection, error, at)
        leave(1)
    leave(0)


def end_with_pool(death_fd: int) -> None:
    """Wait for the end of the pool's process, then kill this process group, including any compiler processes."""
    os.read(death_fd, 1)
    os.killpg(os.getpgid(0), signal.SIGKILL)


def report(connection: socket.socket, error: Exception, at: float) -> None:
    """Report an error to the pool in one line; the traceback is in the log."""
    from livetalk_core.pool.packing import pack
    from livetalk_core.pool.wire import Broken

    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    connection.sendall(pack(Broken(error=": ".join([type(error).__name__, *lines[:1]]), at=at)))


def leave(status: int) -> None:
    """Exit at once: at a normal exit, libraries may wait for the other members of a broken group."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main(sys.argv[1:])
