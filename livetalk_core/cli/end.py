"""How the process of a command ends."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn


def run_to_end(run: Callable[[], int]) -> NoReturn:
    """Run a command and end this process with the status it returns, or with 1 and a traceback."""
    try:
        status = run()
    except Exception:
        traceback.print_exc()
        status = 1
    leave(status)


def leave(status: int) -> NoReturn:
    """End this process as Python does, up to the point where Python takes itself apart.

    Threads of torch.distributed outlive the process group that started them. One that releases a tensor while Python takes itself
    apart aborts the process: "terminate called without an active exception".
    """
    threading._shutdown()  # waits for threads that are not daemons
    atexit._run_exitfuncs()
    with suppress(BrokenPipeError):  # the reader of a pipe may be gone
        sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
