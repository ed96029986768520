"""Training curves as a picture, from what the runs wrote for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

SHOWN = ("loss", "generator_loss", "grad_norm", "generator_grad_norm")
"""The measures that are plotted, if a run has them."""
Series = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Measures by name: steps [N] and values [N]."""


def read_run(folder: Path) -> Series:
    """The measures of a training run so far. FileNotFoundError for a folder without any."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if not any((folder / "board").glob("events.*")):
        raise FileNotFoundError(f"no curves in {folder / 'board'}; give the folder of a training run")
    events = EventAccumulator(str(folder / "board"), size_guidance={"scalars": 0})
    events.Reload()
    found = {}
    for name in events.Tags()["scalars"]:
        points = events.Scalars(name)
        found[name] = (np.array([p.step for p in points]), np.array([p.value for p in points]))
    return found


def plot_curves(runs: Mapping[str, Series], path: Path, smooth: int) -> None:
    """One row per run, one column per measure: faint points and a strong running mean."""
    from matplotlib.figure import Figure

    shown = [name for name in SHOWN if any(name in series for series in runs.values())]
    figure = Figure(figsize=(4.2 * len(shown), 2.6 * len(runs)), layout="constrained")
    axes = figure.subplots(len(runs), len(shown), squeeze=False)
    for row, (run, series) in zip(axes, runs.items(), strict=True):
        for axis, name in zip(row, shown, strict=True):
            axis.set_visible(name in series)
            if name not in series:
                continue
            steps, values = series[name]
            axis.plot(steps, values, color="#9db8bc", linewidth=0.6)
            axis.plot(*running_mean(steps, values, smooth), color="#2f5d66", linewidth=1.6)
            axis.set_title(f"{run}: {name.replace('_', ' ')}", fontsize=10)
            axis.set_xlabel("step")
            axis.grid(alpha=0.25)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def running_mean(steps: np.ndarray, values: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean of each `length` points (of all, if there are fewer), at the step of the last one."""
    length = max(1, min(length, len(values)))
    return steps[length - 1 :], np.convolve(values, np.full(length, 1 / length), mode="valid")
