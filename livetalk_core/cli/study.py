"""livetalk study: compare Stage 2 settings; livetalk curves: plot training runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from livetalk_core.cli.options import tell


def add_study(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("out", type=Path, help="folder of the runs and their numbers; an interrupted study resumes")
    sub.add_argument("--data", type=Path, required=True, metavar="DIR", help="shards with samples of five chunks")
    sub.add_argument("--dit", type=Path, required=True, metavar="FILE", help="Stage 1 DiT from which every variant starts")
    sub.add_argument("--vae", type=Path, required=True, metavar="FILE", help="VAE with which the data was encoded")
    sub.add_argument("--reader", type=Path, required=True, metavar="FILE", help="mouth reader that livetalk evaluate trained")
    sub.add_argument("--recipe", default="dmd_nano", help="Stage 2 recipe that the variants change (default: dmd_nano)")
    sub.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="change the recipe: steps=50 batch=4")
    sub.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each variant (default: 3)")
    sub.add_argument("--clips", type=int, default=8, metavar="N", help="held-out talkers (default: 8)")
    sub.add_argument("--clip-seconds", type=float, default=5.0, metavar="S", help="length of each clip (default: 5)")
    sub.add_argument("--seconds", type=float, default=60.0, metavar="S", help="length of the long stream (default: 60)")
    sub.add_argument("--window", type=float, default=20.0, metavar="S", help="length of the ends that are compared (default: 20)")
    sub.add_argument("--device", default="auto", help="cpu, cuda (default: cuda where there is one)")
    sub.add_argument("--page", type=Path, metavar="FILE", help="Markdown page whose study section is replaced")


def run_study(options: argparse.Namespace) -> int:
    """Train and measure every variant that has no numbers yet, and print the tables."""
    from livetalk_core.cli.train import change
    from livetalk_core.engine.load import load_engine
    from livetalk_core.evaluate import report, study
    from livetalk_core.evaluate.reader import load_reader
    from livetalk_core.sizes import choose_size
    from livetalk_core.train.config import DMD
    from livetalk_core.train.presets import RECIPES

    if options.seeds < 1 or options.clips < 2:
        raise ValueError(f"seeds={options.seeds} must be 1 or more, and clips={options.clips} 2 or more")
    if options.page is not None:
        report.check_page(options.page, report.STUDY)
    recipe = RECIPES.get(options.recipe, lambda: None)()
    if recipe is None or not isinstance(recipe.stage, DMD):
        raise ValueError(f"recipe {options.recipe!r} must be a Stage 2 recipe: {', '.join(n for n in RECIPES if n.startswith('dmd'))}")
    what = study.Study(
        out=options.out,
        recipe=change(recipe, options.set),
        data=options.data,
        dit=options.dit,
        vae=options.vae,
        seeds=options.seeds,
        device=options.device,
    )
    measurement = study.StudyMeasurement(
        load=lambda folder: load_engine(folder, options.device),
        reader=load_reader(options.reader),
        clips=options.clips,
        clip_seconds=options.clip_seconds,
        seconds=options.seconds,
        window_s=options.window,
        size=choose_size(1, 1, recipe.model.bucket)[0],
    )
    found = study.run_study(what, measurement, tell)
    if found is None:
        tell(f"stopped; everything so far is saved in {options.out}, and the same command resumes")
        return 0
    text = study.study_tables(found)
    print(text)
    if options.page is not None:
        report.update_page(options.page, text, report.STUDY)
    return 0


def add_curves(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("picture", type=Path, help="PNG to write")
    sub.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of training runs")
    sub.add_argument("--smooth", type=int, default=20, metavar="N", help="points of the running mean (default: 20)")


def run_curves(options: argparse.Namespace) -> int:
    """Plot what training runs wrote for TensorBoard."""
    from livetalk_core.evaluate.curves import plot_curves, read_run
    from livetalk_core.evaluate.report import need_plots

    need_plots()
    plot_curves({run.name: read_run(run) for run in options.runs}, options.picture, options.smooth)
    tell(f"wrote {options.picture}")
    return 0
