"""One run that accepts a device: is every result right on it, and how fast is it?

Each part runs in a process of its own, so a part that crashes, runs out of memory or takes too long ends alone. Its result is written at
once, and a later call continues with the parts that are missing.
"""

from __future__ import annotations

import datetime
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from livetalk_core.bench.machine import describe_machine

SLOW_CPU = 10
"""Time limits are for one large GPU; on a CPU they are so many times longer."""
Entry = dict[str, object]
"""What is known of a part: `seconds`, and `result`, or one line under `skipped` or `error`."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is accepted: a device, in a precision, for a preset at a size."""

    device: str
    dtype: str
    model: str
    """A preset's name; its weights are random."""
    size: str
    golden: str | None
    """Folder of golden tensors; None: there is none."""
    chunks: int = 3
    seconds: float = 0.5
    """Spent on each timed call."""

    @property
    def place(self) -> torch.device:
        return torch.device(self.device)

    @property
    def precision(self) -> torch.dtype:
        return getattr(torch, self.dtype)


Launch = Callable[[str, Target, float], Entry]
"""Runs a part by its name, within so many seconds."""


def accept(
    out: Path,
    target: Target,
    command: str,
    limits_s: dict[str, float],
    names: Sequence[str] = (),
    launch: Launch | None = None,
    tell: Callable[[str], None] = print,
) -> dict:
    """Run the parts that `out` has no entry for, and write each entry as it comes. `limits_s`: every part's time limit.

    `names`: only these parts; those that failed before are tried again.
    """
    for name in names:
        if name not in limits_s:
            raise ValueError(f"part {name!r} must be one of {', '.join(limits_s)}")
    report = open_report(out, target, command)
    factor = 1 if target.place.type == "cuda" else SLOW_CPU
    for name in names or limits_s:
        found = report["parts"].get(name)
        if found is not None and not (names and "error" in found):
            tell(f"{name}: measured before")
            continue
        entry = (launch or launch_part)(name, target, factor * limits_s[name])
        report["parts"][name] = entry
        write_report(out, report)
        tell(f"{name}: {outcome(entry)} ({entry['seconds']:.0f} s)")
    return report


def outcome(entry: Entry) -> str:
    return f"skipped, {entry['skipped']}" if "skipped" in entry else f"FAILED, {entry['error']}" if "error" in entry else "done"


def open_report(out: Path, target: Target, command: str) -> dict:
    """The report in the file, or a new one. ValueError for a file of another target."""
    fresh = {
        "accept": asdict(target),
        "command": command,
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__,
        "machine": describe_machine(target.place),
        "parts": {},
    }
    if not out.exists():
        return fresh
    try:
        report = json.loads(out.read_bytes())
    except json.JSONDecodeError as error:
        raise ValueError(f"{out} is not JSON ({error}); name another file for --accept") from None
    if not isinstance(report, dict) or "accept" not in report:
        raise ValueError(f"{out} is not the file of an acceptance run; name another file for --accept")
    for name, value in {**asdict(target), "torch": torch.__version__}.items():
        before = report["accept"].get(name, report.get(name))
        if before != value:
            raise ValueError(f"{out} was measured with {name}={before}, and this run has {value}; name another file for --accept")
    return report


def write_report(out: Path, report: dict) -> None:
    """Whole or not at all."""
    draft = out.with_name(out.name + ".writing")
    draft.write_text(json.dumps(report, indent=1), encoding="utf-8")
    os.replace(draft, out)


def launch_part(name: str, target: Target, limit_s: float) -> Entry:
    """The part in a process of its own, which ends with this one and after `limit_s` at the latest."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        answer, log = Path(folder) / "answer.json", Path(folder) / "log"
        words = [sys.executable, "-m", "livetalk_core.bench.accept_worker", name, json.dumps(asdict(target)), str(answer)]
        with log.open("wb") as output, start_process(words, output) as process:
            try:
                process.wait(limit_s)
            except subprocess.TimeoutExpired:
                entry = {"error": f"stopped at its time limit of {limit_s:g} s"}
            else:
                entry = json.loads(answer.read_bytes()) if answer.is_file() else {"error": ending(process.returncode, log)}
            finally:
                end_process(process)
    return {"seconds": time.perf_counter() - start, **entry}


def start_process(words: list[str], output: BinaryIO) -> subprocess.Popen:
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True)


def end_process(process: subprocess.Popen) -> None:
    """End the part with whatever it has started, such as a compiler."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()


def ending(status: int, log: Path) -> str:
    """How a process ended that gave no answer, and the last line it printed."""
    how = f"signal {-status}" if status < 0 else f"exit status {status}"
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return one_line(f"the process ended with {how}: {next((line for line in reversed(lines) if line.strip()), '')}")


def one_line(text: str, length: int = 300) -> str:
    return " ".join(text.split())[:length]


def failed(report: dict) -> bool:
    """Whether a part ended with an error or a check did not pass."""
    return any("error" in entry or any(row.get("passed") is False for row in rows_in(entry)) for entry in report["parts"].values())


def rows_in(entry: Entry) -> list[dict]:
    """The checks of a part."""
    return (entry.get("result") or {}).get("checks", [])
