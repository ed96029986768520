"""One part of an acceptance run: `python -m livetalk_core.bench.accept_worker PART TARGET ANSWER`, which writes its answer as JSON.

It ends when its standard input is closed, so with the process that started it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path


def main(arguments: list[str]) -> None:
    name, target, answer = arguments
    threading.Thread(target=end_with_parent, daemon=True).start()

    from livetalk_core.bench.accept import Target
    from livetalk_core.bench.accept_parts import PARTS

    entry = answer_of(PARTS[name].run, Target(**json.loads(target)))
    Path(answer).write_text(json.dumps(entry), encoding="utf-8")
    sys.stdout.flush()
    os._exit(0)  # a library that waits at exit would cost the part its result


def end_with_parent() -> None:
    """Wait until the parent is gone or kills this process; then end with whatever a compiler has started."""
    sys.stdin.buffer.read()
    if hasattr(os, "killpg"):
        os.killpg(os.getpgid(0), signal.SIGKILL)
    os._exit(1)


def answer_of(run: Callable, target) -> dict:
    """The part's result, or in one line why it does not apply or what broke."""
    from livetalk_core.bench.accept import one_line
    from livetalk_core.bench.accept_parts import NotApplicable

    try:
        return {"result": run(target)}
    except NotApplicable as reason:
        return {"skipped": one_line(str(reason))}
    except Exception as error:
        return {"error": one_line(f"{type(error).__name__}: {error}")}


if __name__ == "__main__":
    main(sys.argv[1:])
