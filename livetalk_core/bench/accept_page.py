"""An acceptance run as Markdown: what was checked, which attention kernels there are, how fast the models are."""

from __future__ import annotations

from collections.abc import Callable

from livetalk_core.bench.accept import Entry, rows_in
from livetalk_core.bench.accept_parts import PARTS, TARGETS_S
from livetalk_core.bench.tables import NONE, Cells, markdown, seconds_text

SPEED = {"speed": "eager", "speed-compiled": "compiled", "speed-fp8": "compiled, fp8"}
"""The parts that measure the whole model, and their columns."""
TIMED = ("DiT step", "audio keys", "VAE decode", "color", "VAE encode", "audio encoder")
H200 = "H200"


def accept_section(report: dict) -> list[str]:
    """The parts of a page: `Measured on DEVICE`, with date, torch and command, and a table for each kind of result."""
    machine, target = report["machine"], report["accept"]
    where = f"Date: {report['date']}. torch {report['torch']}. Command: `{report['command']}`. Memory: {machine['memory_gb']:.0f} GB."
    lines = [f"## Measured on {machine['device']}", f"{where} Precision: {target['dtype']}. Weights of {target['model']}: random."]
    if machine["device_type"] != "cuda":
        lines.append(
            f"This is a CPU. It shows that the run works, with {target['model']} in place of the 14B model; it says nothing about a GPU. "
            "Kernels that need CUDA are not tried, and offloaded weights are copied at once."
        )
    lines += ["### Checks", markdown(check_cells(report["parts"])), "### Speed", markdown(speed_cells(report))]
    lines += ["### Attention kernels", markdown(kernel_cells(report["parts"]))]
    open_parts = open_cells(report["parts"])
    return lines + (["### Not measured", markdown(open_parts)] if len(open_parts) > 1 else [])


def check_cells(parts: dict[str, Entry]) -> Cells:
    """One line for each part, and for each golden file: the check that comes nearest to its limit."""
    cells = [["part", "checks", "worst", "error", "limit", ""]]
    for name in PARTS:
        groups: dict[str, list[dict]] = {}
        for row in rows_in(parts.get(name, {})):
            groups.setdefault(row["what"].partition(":")[0] if ":" in row["what"] else "", []).append(row)
        for rows in groups.values():
            worst = max(rows, key=lambda row: (not row["passed"], row["error"] / row["limit"] if row["limit"] else row["error"]))
            verdict = "pass" if worst["passed"] else "FAIL"
            cells.append([name, str(len(rows)), worst["what"], f"{worst['error']:.2g}", f"{worst['limit']:.2g}", verdict])
        if not groups and name not in (*SPEED, "nano"):
            cells.append([name, *[NONE] * 5])
    return cells


def kernel_cells(parts: dict[str, Entry]) -> Cells:
    """Every attention kernel in every shape, and then those that were not measured, with the reason."""
    rows = result_of(parts, "attention").get("kernels", [])
    cells = [["kernel", "attention", "queries x keys, heads x width", "error", "time", "of matmul rate"]]
    for row in (row for row in rows if "skipped" not in row):
        shape = row["shape"]
        size = f"{shape['queries']} x {shape['keys']}, {shape['heads']} x {shape['width']}"
        found = [f"{row['error']:.2g}", seconds_text(row["seconds"]), f"{row['matmul_share']:.1%}"]
        cells.append([row["kernel"], shape["what"], size, *found])
    skipped: dict[tuple[str, str], list[str]] = {}
    for row in (row for row in rows if "skipped" in row):
        skipped.setdefault((row["kernel"], row["skipped"].replace("|", "\\|")), []).append(row["shape"]["what"])
    cells += [[kernel, ", ".join(shapes), NONE, reason, "", ""] for (kernel, reason), shapes in skipped.items()]
    return cells if len(cells) > 1 else [*cells, [NONE] * 6]


def speed_cells(report: dict) -> Cells:
    """The whole model in each way of computing, and nano. On an H200 with the 14B model's targets."""
    model, parts = report["accept"]["model"], report["parts"]
    columns = {f"{model}, {column}": result_of(parts, part) for part, column in SPEED.items()} | {"nano": result_of(parts, "nano")}
    cells = [["", *columns], *([name, *(speed_cell(result, name) for result in columns.values())] for name in (*RATES, *TIMED, *STREAM))]
    if H200 not in report["machine"]["device"] or model != "livetalk_14b":
        return cells
    targets = [f"<= {seconds_text(TARGETS_S[name])}" if name in TARGETS_S else "" for name, *_ in cells[1:]]
    return [row + [target] for row, target in zip(cells, ["target, compiled", *targets], strict=True)]


def speed_cell(result: dict, name: str) -> str:
    """One number of a column; for a part also its shares of the device's rates."""
    if not result:
        return NONE
    if name not in TIMED:
        return {**RATES, **STREAM}[name](result)
    row = next(row for row in result["parts"] if row["name"] == name)
    return f"{seconds_text(row['seconds'])} ({row['matmul_share']:.0%} of matmul rate, {row['copy_share']:.0%} of copy rate)"


def deviation_text(result: dict) -> str:
    return ", ".join(f"{option} {100 * error:.2f} %" for option, error in result["deviations"].items()) or "exact"


def open_cells(parts: dict[str, Entry]) -> Cells:
    """The parts without a result, and why."""
    cells = [["not measured", "why"]]
    for name in PARTS:
        entry = parts.get(name, {"skipped": "not run yet"})
        if "result" not in entry:
            cells.append([name, entry.get("skipped") or f"error: {entry['error']}"])
    return [[cell.replace("|", "\\|") for cell in row] for row in cells]


RATES: dict[str, Callable[[dict], str]] = {
    "size": lambda result: result["size"],
    "matmul rate": lambda result: f"{result['rates']['matmul_tflops']:.4g} TFLOP/s",
    "copy rate": lambda result: f"{result['rates']['copy_gb_s']:.4g} GB/s",
}
STREAM: dict[str, Callable[[dict], str]] = {
    "chunk": lambda result: seconds_text(result["chunk_s"]["median"]),
    "first frame, warm": lambda result: seconds_text(result["first_frame_warm_s"]),
    "first frame, cold": lambda result: seconds_text(result["first_frame_s"]),
    "frames per second": lambda result: f"{result['fps']:.2f}",
    "real-time factor": lambda result: f"{result['real_time_factor']:.3f}",
    "peak memory": lambda result: f"{result['peak_memory_mb'] / 1000:.1f} GB",
    "error of the latents": deviation_text,
}
"""The lines of the speed table before and after those of the parts."""


def result_of(parts: dict[str, Entry], name: str) -> dict:
    """A part's result, empty if there is none."""
    return parts.get(name, {}).get("result") or {}


def measured_reports(report: dict) -> list[dict]:
    """The run's models as reports of `livetalk bench`, for the overview of a page."""
    results = (result_of(report["parts"], name) for name in (*SPEED, "nano"))
    return [result | {"command": report["command"]} for result in results if result]
