"""One process of a pool: `python -m livetalk_core.pool.worker SOCKET DEATH STOP SLOT SLOT`, all of them inherited file descriptors.

It ends with its pool, however that ends: the death pipe's other end is held by the pool's process alone, so it closes with it.
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
    """Obey orders until told to leave. The watch starts before anything heavy is imported."""
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
    """Wait until the pool's process is gone; then so is this process group, with whatever the compiler has started."""
    os.read(death_fd, 1)
    os.killpg(os.getpgid(0), signal.SIGKILL)


def report(connection: socket.socket, error: Exception, at: float) -> None:
    """Tell the pool in one line what broke; the trace is in the log."""
    from livetalk_core.pool.wire import Broken, pack

    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    connection.sendall(pack(Broken(error=": ".join([type(error).__name__, *lines[:1]]), at=at)))


def leave(status: int) -> None:
    """End now: libraries of a broken group may wait for its other members at a normal exit."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main(sys.argv[1:])
