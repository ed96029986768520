"""The command line of evaluation: livetalk evaluate."""

from __future__ import annotations

import argparse
import json
from contextlib import closing
from pathlib import Path

from livetalk_core.cli.options import add_engine, engine_fields, engine_options, tell

SHEET_CLIPS = 10


def add_evaluate(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("out", type=Path, help="folder for results.json, sheet.jpg and long.png")
    add_engine(sub, engine_fields(pool=False))
    sub.add_argument(
        "--reader", type=Path, metavar="FILE", help="the reader of mouths; trained if it is not there (default: in the folder)"
    )
    sub.add_argument("--films", type=Path, metavar="DIR", help="films of drawn talkers, to train a reader on")
    sub.add_argument("--clips", type=int, default=20, metavar="N", help="held-out talkers, seeds 0 to N - 1 (default: 20)")
    sub.add_argument("--clip-seconds", type=float, default=5.0, metavar="S", help="length of each (default: 5)")
    sub.add_argument("--seconds", type=float, default=1000.0, metavar="S", help="length of the long run, 0 for none (default: 1000)")
    sub.add_argument("--window", type=float, default=60.0, metavar="S", help="its start and end that are compared (default: 60)")
    sub.add_argument("--steps", type=int, help="denoising steps a chunk (default: the model's own)")
    sub.add_argument("--shift", type=float, help="time shift of the schedule (default: the model's own)")
    sub.add_argument("--last-noise", type=float, help="0 to 1: how much noise is added before the last step (default: the model's own)")
    sub.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    sub.add_argument("--name", help="what the tables call this run (default: the model's name and steps)")
    sub.add_argument("--against", type=Path, nargs="+", default=[], metavar="JSON", help="results of other runs, to stand beside it")
    sub.add_argument("--page", type=Path, metavar="FILE", help="Markdown page to write the table into, between its two marks")


def run_evaluate(options: argparse.Namespace) -> int:
    """0 when every target is met, else 1."""
    from livetalk_core.evaluate import report
    from livetalk_core.open import open_engine

    check_options(options)
    others = [json.loads(path.read_bytes()) for path in options.against]
    reader = find_reader(options)
    with closing(open_engine(engine_options(options), tell)) as engine:
        results = evaluate(options, engine, reader)
    rows = report.rows_of(results)
    print(report.table(rows))
    runs = {results["name"]: rows} | {other["name"]: report.rows_of(other) for other in others}
    if options.page is not None:
        report.update_page(options.page, report.markdown(runs))
    elif others:
        print(report.markdown(runs))
    return 1 if any(row.passed is False for row in rows) else 0


def check_options(options: argparse.Namespace) -> None:
    """ValueError or FileNotFoundError for what would fail only after the work is done."""
    from livetalk_core.evaluate.report import RESULTS, check_page, need_plots

    if options.clips < 2:
        raise ValueError(f"clips={options.clips} must be 2 or more; each clip's truth is another one's control")
    if options.clip_seconds < 1:
        raise ValueError(f"clip_seconds={options.clip_seconds:g} must be 1 or more, to find a lag in")
    if options.seconds:
        need_plots()
        if options.seconds < 2 * options.window:
            raise ValueError(f"seconds={options.seconds:g} must be two windows of {options.window:g} s or more, or 0 for no long run")
    for path in options.against:
        if not path.is_file():
            raise FileNotFoundError(f"results {path} do not exist; livetalk evaluate writes results.json into its folder")
    if options.page is not None:
        check_page(options.page, RESULTS)


def find_reader(options: argparse.Namespace):
    """The reader of the file named; trained and written there if it does not exist."""
    from livetalk_core.evaluate.reader import load_reader, train_reader
    from livetalk_core.train.films import FilmSet

    path = options.reader or options.out / "reader.safetensors"
    if path.is_file() or options.films is None:
        return load_reader(path)
    return train_reader(FilmSet(options.films), path, tell=tell)


def evaluate(options: argparse.Namespace, engine, reader) -> dict:
    """Everything measured, and written into the folder: numbers after the short talks, and again after the long one."""
    from livetalk_core.evaluate import report
    from livetalk_core.evaluate.long import LONG_FILM_S, LONG_SEED, measure_long
    from livetalk_core.evaluate.talks import summarize, take_talks, true_talks
    from livetalk_core.sizes import choose_size
    from livetalk_core.types import StreamSettings

    preset = engine.preset
    steps = preset.steps if options.steps is None else options.steps
    settings = StreamSettings(seed=options.seed, steps=steps, shift=options.shift, last_noise=options.last_noise)
    settings = preset.settled(settings)
    size = choose_size(1, 1, preset.bucket)[0]
    takes = take_talks(engine, reader, true_talks(range(options.clips), options.clip_seconds, size), settings, tell)
    results = {
        "name": options.name or f"{preset.name}, {settings.steps} steps",
        "settings": vars(settings)
        | {"size": size, "device": str(engine.device), "dtype": str(engine.dtype), "clip_seconds": options.clip_seconds},
        "talks": summarize(takes),
        "long": None,
    }
    sheet = [sheet_row(take) for take in takes[:SHEET_CLIPS]]
    write(results, sheet, options.out)
    if options.seconds:
        (talk,) = true_talks([LONG_SEED], LONG_FILM_S, size)
        results["long"], pictures = measure_long(engine, reader, talk, settings, options.seconds, options.window, tell)
        heading = f"{talk.name}: reference, then {', '.join(f'{(k + 1) / 25:g}' for k in pictures)} s"
        write(results, [*sheet, (heading, [talk.reference_HWC, *pictures.values()])], options.out)
        report.plot_long(results["long"], options.out / "long.png")
    return results


def sheet_row(take):
    """A clip's line of the sheet: its reference, then some moments as they are, rebuilt and made."""
    pictures = [picture for moment in take.moments.values() for picture in moment.values()]
    heading = f"{take.name}: reference, then true, rebuilt, made of frames {', '.join(map(str, take.moments))}"
    return heading, [take.reference_HWC, *pictures]


def write(results: dict, sheet: list, out: Path) -> None:
    from livetalk_core.evaluate import report

    out.mkdir(parents=True, exist_ok=True)
    rows = [vars(row) | {"passed": row.passed} for row in report.rows_of(results)]
    (out / "results.json").write_text(json.dumps(results | {"rows": rows}, indent=1), encoding="utf-8")
    report.contact_sheet(sheet, out / "sheet.jpg")
