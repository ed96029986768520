"""Reports as tables, for a terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Sequence

NONE = "not measured"
Cells = list[list[str]]
"""Rows of a table, the heading first."""


def print_report(report: dict) -> None:
    """One report for a terminal."""
    counted, tables = report["counted"], []
    if "fps" in report:
        tables = [machine_cells(report), part_cells(report["parts"], timed=True), stage_cells(report), summary_cells(report)]
    for cells in tables:
        print(aligned(cells), end="\n\n")
    print(f"Counted, not run: {counted['model']} at {counted['size']}, {counted['dtype']}")
    print(aligned(part_cells(counted["parts"])), end="\n\n")
    print(aligned(chunk_cells(counted)))


def machine_cells(report: dict) -> Cells:
    """What was measured, on what machine, and that machine's best rates."""
    rates = report["rates"]
    rows = [[name, str(report[name])] for name in ("device", "torch", "threads", "cores", "dtype", "model", "size", "steps", "chunks")]
    load = "unknown" if report["load_average"] is None else f"{report['load_average']:.1f}"
    rows += [
        ["load average", f"{load} (other work on the machine makes all times longer)"],
        ["weights", "random: for times, not for pictures" if report["random_weights"] else "trained"],
        ["compiled", "yes, with torch.compile" if report["compile"] else "no"],
        ["weights' form", report["weights"]],
        ["attention", "; ".join(report["attention"])],
        ["exact savings", ", ".join(name.replace("_", " ") for name, on in report["cuts"].items() if on) or "none"],
        ["matmul rate", f"{rates['matmul_tflops']:.4g} TFLOP/s ({rates['matmul_size']} square, {rates['dtype']})"],
        ["copy rate", f"{rates['copy_gb_s']:.4g} GB/s read and written ({rates['copy_mb']:.0f} MB)"],
    ]
    if report.get("deviations"):
        errors = ", ".join(f"{name} {100 * error:.2f} %" for name, error in report["deviations"].items())
        rows.append(["error of the latents", errors])
    if report.get("decoder_psnr_db") is not None:
        rows.append(["tiny decoder", f"{report['decoder_psnr_db']:.2f} dB PSNR against the exact decoder's frames"])
    return [["machine", ""], *rows]


def part_cells(rows: Sequence[dict], timed: bool = False) -> Cells:
    """Every part: its work and, if `timed`, its time and shares of the machine's rates."""
    flop, flops = unit_of([row["flops"] for row in rows], "FLOP")
    byte, size = unit_of([row["elementwise_bytes"] for row in rows], "B")
    heading = ["part", "once per", *work_heading(flop, byte), *(TIME_HEADING if timed else [])]
    return [heading, *([row["name"], row["per"], *work_cells(row, flops, size), *(time_cells(row) if timed else [])] for row in rows)]


def stage_cells(report: dict) -> Cells:
    """The stages of a chunk, in order."""
    rows = report["stages"]
    flop, flops = unit_of([row["flops"] for row in rows], "FLOP")
    heading = ["stage of a chunk", flop, "operations", *TIME_HEADING]
    return [heading, *([row["name"], f"{row['flops'] / flops:.4g}", str(row["ops"]), *time_cells(row)] for row in rows)]


def summary_cells(report: dict) -> Cells:
    """Latency, rate and memory of the stream."""
    chunk = {name: seconds_text(value) for name, value in report["chunk_s"].items()}
    rows = [
        ["picture and prompt", seconds_text(report["reference_s"])],
        ["first frame", f"{seconds_text(report['first_frame_s'])} cold, {seconds_text(report['first_frame_warm_s'])} warm"],
        ["chunk", f"{chunk['median']} median, {chunk['p95']} p95, {chunk['max']} max of {report['chunks']}"],
        ["frames per second", f"{report['fps']:.2f}"],
        ["real-time factor", f"{report['real_time_factor']:.3f} (below 1 is faster than real time)"],
        ["peak memory", f"{report['peak_memory_mb']:.0f} MB"],
    ]
    if "pool" in report:
        pool = report["pool"]
        rows += [
            ["pool", f"{pool['workers']} workers; the memory is rank 0's"],
            ["command, round trip", f"{pool['command_ms']:.2f} ms median"],
            ["picture of a chunk", f"{pool['picture_ms']:.2f} ms median (33 x 416 x 720 x 3 bytes)"],
        ]
    return [["stream", ""], *rows]


def chunk_cells(counted: dict) -> Cells:
    """The work of a whole chunk, and of its decode up to the first new frame."""
    works = {
        f"chunk of {counted['steps']} steps": counted["chunk"],
        "decode of the motion latents": counted["motion_decode"],
        "decode of the first new latent": counted["first_decode"],
    }
    flop, flops = unit_of([work["flops"] for work in works.values()], "FLOP")
    byte, size = unit_of([work["elementwise_bytes"] for work in works.values()], "B")
    return [["counted", *work_heading(flop, byte)], *([name, *work_cells(work, flops, size)] for name, work in works.items())]


TIME_HEADING = ["time", "of matmul rate", "of copy rate"]


def work_heading(flop: str, byte: str) -> list[str]:
    return [flop, f"weights, {byte}", f"activations, {byte}", f"elementwise, {byte}", "operations"]


def work_cells(work: dict, flops: float, size: float) -> list[str]:
    num_bytes = [f"{work[name] / size:.4g}" for name in ("weight_bytes", "matrix_bytes", "elementwise_bytes")]
    return [f"{work['flops'] / flops:.4g}", *num_bytes, str(work["ops"])]


def time_cells(row: dict) -> list[str]:
    if row["seconds"] is None:
        return [NONE] * len(TIME_HEADING)
    return [seconds_text(row["seconds"]), f"{row['matmul_share']:.1%}", f"{row['copy_share']:.1%}"]


def unit_of(values: Sequence[int], unit: str) -> tuple[str, float]:
    """T or G for FLOPs, G or M for bytes, by the largest value."""
    prefixes = (("T", 1e12), ("G", 1e9)) if unit == "FLOP" else (("G", 1e9), ("M", 1e6))
    prefix, scale = next(((p, s) for p, s in prefixes if max(values) >= s), prefixes[-1])
    return prefix + unit, scale


def seconds_text(value: float) -> str:
    """Four digits, in seconds or milliseconds."""
    return f"{value:.3f} s" if value >= 1 else f"{1000 * value:.4g} ms"


def aligned(cells: Cells) -> str:
    """For a terminal: columns side by side."""
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells)


def markdown(cells: Cells) -> str:
    """For a Markdown page."""
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([lines[0], f"|{'---|' * len(cells[0])}", *lines[1:]])
