"""Plots of a benchmark: drift over time, and the histogram of Sync offsets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = ("#2f5d66", "#c0672f", "#6b7f3a", "#7a4f8a", "#a13d4d", "#4a6fa5")
SHOWN = {
    "sync_c": "Sync-C",
    "subject_c_to_first": "Subject-C,\nto first frame",
    "bg_c_to_first": "BG-C,\nto first frame",
    "identity": "identity",
    "iqa": "IQA",
    "temporal_f": "Temporal-F",
    "head_motion": "head motion,\neye distances",
    "sharpness": "sharpness,\nlevels of 255",
    "color_shift": "color shift,\nlevels of 255",
}
"""Series that are plotted, if there are any."""


def plot_all(summary: dict, out: Path) -> list[Path]:
    """Write drift-SET.png for each set with series, and offsets.png; returns the paths. ValueError without matplotlib."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ValueError("plots need matplotlib: pip install matplotlib") from None
    written = [path for name in summary["sets"] if (path := plot_drift(summary, name, out / f"drift-{name}.png"))]
    offsets = plot_offsets(summary, out / "offsets.png")
    return written + ([offsets] if offsets else [])


def plot_drift(summary: dict, set_name: str, path: Path) -> Path | None:
    """One row for each series: every system's mean over the clips, second by second. None without series."""
    from matplotlib.figure import Figure

    results = [result for result in summary["clips"] if result["set"] == set_name]
    shown = [name for name in SHOWN if any(len(result["series"].get(name, ())) > 1 for result in results)]
    if not shown:
        return None
    figure = Figure(figsize=(9, 1.6 * len(shown) + 1), layout="constrained")
    for axis, name in zip(figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0], shown, strict=True):
        for system, color in zip(summary["sets"][set_name], COLORS * 9, strict=False):
            of = [result for result in results if result["system"] == system and len(result["series"].get(name, ())) > 1]
            if of:
                means = mean_series([result["series"][name] for result in of])
                axis.plot([(k + 0.5) * of[0]["window_s"] for k in range(len(means))], means, color=color, linewidth=1.2, label=system)
        axis.set_ylabel(SHOWN[name])
        axis.grid(alpha=0.25)
        axis.ticklabel_format(useOffset=False)
    axis.set_xlabel("time in seconds")
    figure.align_ylabels()
    legend(figure)
    figure.savefig(path, dpi=110)
    return path


def legend(figure: Figure) -> None:
    """Every system once, above the plots, where it covers no line."""
    lines = {line.get_label(): line for axis in figure.axes for line in axis.get_lines()}
    figure.legend(lines.values(), lines.keys(), loc="outside upper left", ncols=3, frameon=False)


def mean_series(series: Sequence[Sequence[float]]) -> list[float]:
    """Mean of the series that are that long yet, window by window."""
    longest = max(map(len, series))
    columns = ([values[k] for values in series if k < len(values)] for k in range(longest))
    return [sum(column) / len(column) for column in columns]


def plot_offsets(summary: dict, path: Path) -> Path | None:
    """How many videos of each system have which Sync offset. None if Sync was not measured."""
    from matplotlib.figure import Figure

    found: dict[str, list[float]] = {}
    for result in summary["clips"]:
        if "sync_offset" in result["numbers"]:
            found.setdefault(result["system"], []).append(result["numbers"]["sync_offset"])
    if not found:
        return None
    figure = Figure(figsize=(9, 1.6 * len(found) + 0.7), layout="constrained")
    bins = [k - 0.5 for k in range(-15, 17)]
    axes = figure.subplots(len(found), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axis, (system, values), color in zip(axes, found.items(), COLORS * 9, strict=False):
        axis.hist(values, bins=bins, color=color)
        axis.set_title(system, loc="left", fontsize=10)
        axis.set_ylabel("videos")
        axis.yaxis.get_major_locator().set_params(integer=True)
        axis.axvline(0, color="black", linewidth=0.6)
    axis.set_xticks(range(-15, 16, 5))
    axis.set_xlabel("Sync offset in frames of 40 ms; above 0 the lips are late")
    figure.savefig(path, dpi=110)
    return path
