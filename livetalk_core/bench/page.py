"""docs/performance.md, written from what `livetalk bench --json` printed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import torch

from livetalk_core.bench.accept_page import accept_section, measured_reports
from livetalk_core.bench.counts import count_14b
from livetalk_core.bench.tables import (
    NONE,
    Cells,
    chunk_cells,
    machine_cells,
    markdown,
    part_cells,
    seconds_text,
    stage_cells,
    summary_cells,
)

LARGE_PARAMETERS = 10**10

OPENING = f"""\
After reading this page you can say what a chunk costs in work, time and memory, and measure it on your own machine.

    livetalk bench                              # nano, in one process
    livetalk bench --workers 2                  # in a pool of processes on the CPU
    livetalk bench --model models/SoulX-FlashTalk-14B --gpus auto
    livetalk bench --counters                   # count the 14B model, without weights
    livetalk bench --accept accept.json         # check and time everything on a GPU, in ten minutes at most
    livetalk bench --json > results.json
    livetalk bench --page docs/performance.md results.json accept.json

The last command writes this page from files that the others wrote. No number is an estimate; where there is no measurement, the table says
{NONE}."""

HOW_COUNTED = """\
Counted on torch's meta device, which dispatches every operation with its shapes and computes nothing. So these numbers are the same on
every machine and need neither weights nor a GPU. FLOPs are those of matmuls, convolutions and attention; a multiplication and an addition
are two. Bytes are those of eager execution in bfloat16, where every operation reads its operands from memory and writes its result there.
*Weights* are weights read, *activations* the other operands and results of the operations with FLOPs, and *elementwise* those of all other
operations. *Operations* are those dispatched, without views and with attention as one; each is one GPU kernel or more."""

HOW_MEASURED = """\
Times are medians. *Of matmul rate* is FLOPs per second as a share of this machine's rate of matmuls. *Of copy rate* is bytes per second as
a share of its rate of copies. The same command measures both rates just before, in the precision used. Parts that fit in cache can exceed
100 % of the copy rate. The first new frame leaves together with three more. Before it, the motion latents and the first new latent are
decoded: with the published VAE, a quarter of the decode's work. There a live stream that is alone decodes its motion latents while it waits
for sound, and an eighth is left. A live stream first waits for a whole chunk of sound (28 frames, 1.12 s). *Cold* is the first chunk of the
process, with the picture already prepared; *warm* is the first chunk of a later stream. A stream's first chunk has one motion latent and
cannot decode it early."""


def read_reports(paths: Sequence[Path]) -> list[dict]:
    """ValueError for a file of something else."""
    if not paths:
        raise ValueError("--page needs result files; write them with livetalk bench --json > FILE, then run --page PAGE FILE")
    return [read_report(path) for path in paths]


def read_report(path: Path) -> dict:
    """What `livetalk bench --json` printed, or the file of an acceptance run."""
    try:
        report = json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}); write it with livetalk bench --json > {path}") from None
    keys = set(report) if isinstance(report, dict) else set()
    if {"accept", "command", "parts"} <= keys or ({"command", "counted", "torch"} <= keys and "motion_decode" in report["counted"]):
        return report
    if {"command", "counted"} <= keys:
        raise ValueError(
            f"{path} is from an older version, which did not count the decode of motion latents; write it anew: {report['command']}"
        )
    raise ValueError(f"{path} is neither what livetalk bench --json prints nor the file of --accept; write it with one of them")


def write_page(reports: Sequence[dict]) -> str:
    """A Markdown page of reports. Every number stands under its device and command."""
    accepted, measured = ([report for report in reports if key in report] for key in ("accept", "fps"))
    counting = next((report for report in reports if "counted" in report), None) or count_now()
    counted = counting["counted"]
    parts = [
        "# Performance",
        OPENING,
        "## Measured",
        markdown(overview_cells([*measured, *chain.from_iterable(map(measured_reports, accepted))])),
        HOW_MEASURED,
        *chain.from_iterable(map(accept_section, accepted)),
        *chain.from_iterable(map(measured_parts, measured)),
        f"## Counted: {counted['model']} at {counted['size']}",
        f"Device: none, torch {counting['torch']}'s meta device. Command: `{counting_command(counting)}`.",
        markdown(chunk_cells(counted)),
        markdown(part_cells(counted["parts"])),
        HOW_COUNTED,
    ]
    return "\n\n".join(parts) + "\n"


def count_now() -> dict:
    return {"counted": count_14b(), "torch": torch.__version__, "command": "livetalk bench --counters"}


def counting_command(report: dict) -> str:
    """The command that only counts; every measurement counts too."""
    return report["command"] if "--counters" in report["command"] else "livetalk bench --counters"


def measured_parts(report: dict) -> list[str]:
    """One report's section of the page."""
    return [
        f"### {report['model']}, {report['size']}, {processes_of(report)}",
        f"Device: {report['device']}. Command: `{report['command']}`.",
        *map(markdown, (machine_cells(report), part_cells(report["parts"], timed=True), stage_cells(report), summary_cells(report))),
    ]


def overview_cells(measured: Sequence[dict]) -> Cells:
    """One line for each case a reader looks for, measured or not, and for every other measurement."""
    heading = ["what", "device", "first frame, cold / warm", "chunk, median / p95 / max", "FPS", "RTF", "peak memory", "command"]
    cases = [(model, kind, pool) for model in ("nano", "14B") for kind in ("cpu", "cuda") for pool in (False, True)]
    cases = [case for case in cases if case[:2] != ("14B", "cpu")]
    rows = []
    for case in cases:
        found = [report for report in measured if case_of(report) == case]
        rows += [overview_row(report) for report in found] or [[case_name(*case), *[NONE] * (len(heading) - 1)]]
    return [heading, *rows, *(overview_row(report) for report in measured if case_of(report) not in cases)]


def overview_row(report: dict) -> list[str]:
    chunk = report["chunk_s"]
    return [
        f"{report['model']} at {report['size']}, {processes_of(report)}",
        f"{report['device']}, threads: {report['threads']}",
        f"{seconds_text(report['first_frame_s'])} / {seconds_text(report['first_frame_warm_s'])}",
        " / ".join(seconds_text(chunk[name]) for name in ("median", "p95", "max")),
        f"{report['fps']:.2f}",
        f"{report['real_time_factor']:.3f}",
        f"{report['peak_memory_mb']:.0f} MB",
        f"`{report['command']}`",
    ]


def case_of(report: dict) -> tuple[str, str, bool]:
    model = "14B" if report["dit_parameters"] > LARGE_PARAMETERS else report["model"]
    return model, report["device_type"], "pool" in report


def case_name(model: str, kind: str, pool: bool) -> str:
    one, many = {"cpu": ("one process on the CPU", "processes on the CPU"), "cuda": ("one GPU", "GPUs")}[kind]
    return f"{model}, a pool of {many}" if pool else f"{model}, {one}"


def processes_of(report: dict) -> str:
    return f"a pool of {report['pool']['workers']}" if "pool" in report else "one process"
