"""livetalk evaluate: measure how well a model talks."""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path

from livetalk_core.cli.options import add_engine, engine_fields, engine_options, tell


def add_evaluate(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("out", type=Path, help="folder for results.json, sheet.jpg and long.png")
    add_engine(sub, engine_fields(pool=False))
    sub.add_argument(
        "--reader",
        type=Path,
        metavar="FILE",
        help="mouth reader; trained if it does not exist (default: reader.safetensors in OUT)",
    )
    sub.add_argument("--films", type=Path, metavar="DIR", help="films of drawn talkers to train a mouth reader on")
    sub.add_argument("--clips", type=int, default=20, metavar="N", help="held-out talkers, seeds 0 to N - 1 (default: 20)")
    sub.add_argument("--clip-seconds", type=float, default=5.0, metavar="S", help="length of each clip (default: 5)")
    sub.add_argument("--seconds", type=float, default=1000.0, metavar="S", help="length of the long stream, 0 for none (default: 1000)")
    sub.add_argument("--window", type=float, default=60.0, metavar="S", help="length of the ends that are compared (default: 60)")
    sub.add_argument("--steps", type=int, help="denoising steps a chunk (default: the model's own)")
    sub.add_argument("--shift", type=float, help="time shift of the schedule (default: the model's own)")
    sub.add_argument("--last-noise", type=float, help="0 to 1: how much noise is added before the last step (default: the model's own)")
    sub.add_argument("--seed", type=int, default=0, help="seed of the noise (default: 0)")
    sub.add_argument("--name", help="name of this run in the tables (default: the model's name and steps)")
    sub.add_argument(
        "--against", type=Path, nargs="+", default=[], metavar="JSON", help="results.json of other runs to show beside this one"
    )
    sub.add_argument("--page", type=Path, metavar="FILE", help="Markdown page whose results section is replaced")


def run_evaluate(options: argparse.Namespace) -> int:
    """0 if every target is met, else 1."""
    from livetalk_core.evaluate import report, rows
    from livetalk_core.evaluate.evaluation import evaluate, read_results
    from livetalk_core.evaluate.reader import find_reader
    from livetalk_core.open import open_engine

    evaluation = evaluation_of(options)
    others = [read_results(path) for path in options.against]
    if options.page is not None:
        report.check_page(options.page, report.RESULTS)
    reader = find_reader(options.reader or options.out / "reader.safetensors", options.films, tell)
    with closing(open_engine(engine_options(options), tell)) as engine:
        results = evaluate(evaluation, engine, reader, tell)
    found = rows.rows_of(results)
    print(rows.aligned(found))
    runs = {results["name"]: found} | {other["name"]: rows.rows_of(other) for other in others}
    if options.page is not None:
        report.update_page(options.page, rows.markdown(runs))
    elif others:
        print(rows.markdown(runs))
    return 1 if any(row.passed is False for row in found) else 0


def evaluation_of(options: argparse.Namespace):
    from livetalk_core.evaluate.evaluation import Evaluation

    named = {name: vars(options)[name] for name in ("out", "clips", "seed", "steps", "shift", "last_noise", "name")}
    return Evaluation(clip_s=options.clip_seconds, long_s=options.seconds, window_s=options.window, **named)
