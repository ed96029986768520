"""Reports as tables: for a terminal, and as a Markdown page of several."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

LARGE_PARAMETERS = 10**10
NONE = "not measured"
Cells = list[list[str]]
"""Rows of a table, the heading first."""

HOW_COUNTED = """\
Counted with torch's meta device: every operation is dispatched with its shapes, and none is computed. So these numbers are the same on
every machine and need neither weights nor a GPU. FLOPs are those of matrix products, convolutions and attention, two for a multiplication
and an addition. Bytes are those of the eager form, in which every operation reads its operands from memory and writes its result there, in
bfloat16: *weights* read, *activations* read and written by the operations that the FLOPs are of, and *elementwise*, the same of all others
(weights apart). Operations are those dispatched, views left out and attention as one: on a GPU a kernel each, or more."""

HOW_MEASURED = """\
Seconds are medians. *Of products* is the FLOPs over the time, as a share of the machine's own rate of matrix products, and *of copies* the
counted bytes over the time, as a share of its own rate of copies; both rates are measured by the same command, in the precision used,
right before. A part whose operands stay in a cache may go beyond the rate of copies. The first frame leaves with the first four, after a
third of the decode; before that a live stream has to hear the sound of a whole chunk (28 frames, 1.12 s). Cold: the first chunk the
process ever makes, of a picture already prepared; warm: a later stream's first."""


def print_report(report: dict) -> None:
    """One report for a terminal."""
    if "fps" in report:
        print(lines_of(heading_cells(report)), end="\n\n")
        print(lines_of(component_cells(report["components"], timed=True)), end="\n\n")
        print(lines_of(stage_cells(report)), end="\n\n")
        print(lines_of(summary_cells(report)), end="\n\n")
    counted = report["counted"]
    print(f"Counted, not run: {counted['model']} at {counted['size']}, {counted['dtype']}")
    print(lines_of(component_cells(counted["components"])), end="\n\n")
    print(lines_of(chunk_cells(counted)))


def page_of(reports: Sequence[dict]) -> str:
    """A Markdown page of reports, the first of which has the counted numbers. Every number stands under its device and command."""
    counted, measured = reports[0]["counted"], [report for report in reports if "fps" in report]
    parts = [
        "# Performance",
        "Written by `livetalk bench --report docs/PERFORMANCE.md FILE.json ...` from what `livetalk bench --json` prints. "
        f"What nobody has measured is called {NONE}; no number is an estimate.",
        "## Measured",
        table_of(overview_cells(measured)),
        HOW_MEASURED,
        *chain.from_iterable(measured_parts(report) for report in measured),
        f"## Counted: {counted['model']} at {counted['size']}",
        f"Device: none, torch {reports[0]['torch']}'s meta device. Command: `{counting_command(reports[0])}`.",
        table_of(chunk_cells(counted)),
        table_of(component_cells(counted["components"])),
        HOW_COUNTED,
    ]
    return "\n\n".join(parts) + "\n"


def counting_command(report: dict) -> str:
    """What counts alone, as every measurement does besides."""
    return report["command"] if "--counters" in report["command"] else "livetalk bench --counters"


def measured_parts(report: dict) -> list[str]:
    """One report's part of the page."""
    return [
        f"### {report['model']}, {report['size']}, {where(report)}",
        f"Device: {report['device']}. Command: `{report['command']}`.",
        table_of(heading_cells(report)),
        table_of(component_cells(report["components"], timed=True)),
        table_of(stage_cells(report)),
        table_of(summary_cells(report)),
    ]


def overview_cells(measured: Sequence[dict]) -> Cells:
    """A line for everything one would want to know, whether it was measured or not, and for what was measured besides."""
    heading = ["what", "device", "first frame, cold / warm", "chunk, median / p95 / max", "FPS", "RTF", "peak memory", "command"]
    wanted = [(model, kind, pool) for model in ("nano", "14B") for kind in ("cpu", "cuda") for pool in (False, True)]
    wanted = [key for key in wanted if key[:2] != ("14B", "cpu")]
    rows = []
    for key in wanted:
        found = [report for report in measured if key_of(report) == key]
        rows += [overview_row(report) for report in found] or [[name_of(*key), *[NONE] * (len(heading) - 1)]]
    return [heading, *rows, *(overview_row(report) for report in measured if key_of(report) not in wanted)]


def overview_row(report: dict) -> list[str]:
    chunk = report["chunk_s"]
    return [
        f"{report['model']} at {report['size']}, {where(report)}",
        f"{report['device']}, threads: {report['threads']}",
        f"{seconds(report['first_frame_s'])} / {seconds(report['first_frame_warm_s'])}",
        " / ".join(seconds(chunk[name]) for name in ("median", "p95", "max")),
        f"{report['fps']:.2f}",
        f"{report['real_time_factor']:.3f}",
        f"{report['peak_memory_mb']:.0f} MB",
        f"`{report['command']}`",
    ]


def key_of(report: dict) -> tuple[str, str, bool]:
    model = "14B" if report["dit_parameters"] > LARGE_PARAMETERS else report["model"]
    return model, report["device_type"], "pool" in report


def name_of(model: str, kind: str, pool: bool) -> str:
    one, many = {"cpu": ("one process on the CPU", "processes on the CPU"), "cuda": ("one GPU", "GPUs")}[kind]
    return f"{model}, a pool of {many}" if pool else f"{model}, {one}"


def where(report: dict) -> str:
    return f"a pool of {report['pool']['workers']}" if "pool" in report else "one process"


def heading_cells(report: dict) -> Cells:
    """What was measured, on what, and what that can do at best."""
    ceilings = report["ceilings"]
    rows = [[name, str(report[name])] for name in ("device", "torch", "threads", "cores", "dtype", "model", "size", "steps", "chunks")]
    load = "unknown" if report["load_average"] is None else f"{report['load_average']:.1f}"
    rows += [
        ["load average", f"{load} (other work on the machine makes every time longer)"],
        ["weights", "random: good for times, not for pictures" if report["random_weights"] else "trained"],
        ["compiled", "yes, with torch.compile" if report["compile"] else "no"],
        ["8-bit products", "yes" if report["fast"] == "fp8" else "no"],
        ["attention", "; ".join(report["attention"])],
        ["savings", ", ".join(name.replace("_", " ") for name, on in report["cuts"].items() if on) or "none"],
        ["matrix products", f"{ceilings['matmul_tflops']:.4g} TFLOP/s ({ceilings['matmul_size']} square, {ceilings['dtype']})"],
        ["copies", f"{ceilings['copy_gb_s']:.4g} GB/s read and written ({ceilings['copy_mb']:.0f} MB)"],
    ]
    if report.get("deviations"):
        errors = ", ".join(f"{name} {100 * error:.2f} % of their size" for name, error in report["deviations"].items())
        rows.append(["off the exact latents by", errors])
    if report.get("decoder_psnr_db") is not None:
        rows.append(["tiny decoder", f"{report['decoder_psnr_db']:.2f} dB PSNR against the exact one's frames"])
    return [["machine", ""], *rows]


def component_cells(rows: Sequence[dict], timed: bool = False) -> Cells:
    """The parts: work, and time and shares of the ceilings where they were measured."""
    flop, flops = unit_of([row["flops"] for row in rows], "FLOP")
    byte, size = unit_of([row["elementwise_bytes"] for row in rows], "B")
    heading = ["part", "once for each", flop, f"weights, {byte}", f"activations, {byte}", f"elementwise, {byte}", "operations"]
    cells = [heading + (["time", "of products", "of copies"] if timed else [])]
    for row in rows:
        line = [row["name"], row["per"], *work_cells(row, flops, size)]
        cells.append(line + (time_cells(row) if timed else []))
    return cells


def work_cells(work: dict, flops: float, size: float) -> list[str]:
    num_bytes = [f"{work[name] / size:.4g}" for name in ("weight_bytes", "matrix_bytes", "elementwise_bytes")]
    return [f"{work['flops'] / flops:.4g}", *num_bytes, str(work["ops"])]


def time_cells(row: dict) -> list[str]:
    if row["seconds"] is None:
        return [NONE, NONE, NONE]
    return [seconds(row["seconds"]), f"{row['matmul_fraction']:.1%}", f"{row['copy_fraction']:.1%}"]


def stage_cells(report: dict) -> Cells:
    """A chunk by its stages, as they follow each other in a stream."""
    rows = report["stages"]
    flop, flops = unit_of([row["flops"] for row in rows], "FLOP")
    cells = [["stage of a chunk", flop, "operations", "time", "of products", "of copies"]]
    return cells + [[row["name"], f"{row['flops'] / flops:.4g}", str(row["ops"]), *time_cells(row)] for row in rows]


def summary_cells(report: dict) -> Cells:
    """Latency, rate and memory of the stream."""
    chunk = report["chunk_s"]
    rows = [
        ["picture and prompt", seconds(report["reference_s"])],
        ["first frame", f"{seconds(report['first_frame_s'])} cold, {seconds(report['first_frame_warm_s'])} warm"],
        ["chunk", f"{seconds(chunk['median'])} median, {seconds(chunk['p95'])} p95, {seconds(chunk['max'])} max of {report['chunks']}"],
        ["frames per second", f"{report['fps']:.2f}"],
        ["real-time factor", f"{report['real_time_factor']:.3f} (below 1 is faster than real time)"],
        ["peak memory", f"{report['peak_memory_mb']:.0f} MB"],
    ]
    if "pool" in report:
        pool = report["pool"]
        rows += [
            ["pool", f"{pool['workers']} workers, memory is rank 0's"],
            ["command, there and back", f"{pool['command_ms']:.2f} ms median"],
            ["picture of a chunk", f"{pool['picture_ms']:.2f} ms median (33 x 416 x 720 x 3 bytes)"],
        ]
    return [["stream", ""], *rows]


def chunk_cells(counted: dict) -> Cells:
    """The work of a whole chunk, and of the decoding before its first new frame."""
    works = {f"chunk of {counted['steps']} steps": counted["chunk"], "decode before the first new frame": counted["first_decode"]}
    flop, flops = unit_of([work["flops"] for work in works.values()], "FLOP")
    byte, size = unit_of([work["elementwise_bytes"] for work in works.values()], "B")
    heading = ["counted", flop, f"weights, {byte}", f"activations, {byte}", f"elementwise, {byte}", "operations"]
    return [heading, *([name, *work_cells(work, flops, size)] for name, work in works.items())]


def unit_of(values: Sequence[int], unit: str) -> tuple[str, float]:
    """T or G for FLOPs, G or M for bytes: by the largest."""
    prefixes = (("T", 1e12), ("G", 1e9)) if unit == "FLOP" else (("G", 1e9), ("M", 1e6))
    prefix, scale = next(((p, s) for p, s in prefixes if max(values) >= s), prefixes[-1])
    return prefix + unit, scale


def seconds(value: float) -> str:
    """Four digits, in the unit that suits."""
    return f"{value:.3f} s" if value >= 1 else f"{1000 * value:.4g} ms"


def lines_of(cells: Cells) -> str:
    """For a terminal: columns side by side."""
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells)


def table_of(cells: Cells) -> str:
    """For a Markdown page."""
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([lines[0], f"|{'---|' * len(cells[0])}", *lines[1:]])
