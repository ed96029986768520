"""Stage 2 in miniature: the choices that the report's Tables 2 and 3 compare, each with several seeds, told as they come out.

Every variant distils the same Stage 1 model for the same number of steps, and is then measured on the same held-out talkers, on short
clips and on a longer run. What is done already is not done again.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from livetalk_core.engine.engine import Engine
from livetalk_core.evaluate.long import LONG_FILM_S, LONG_SEED, measure_long
from livetalk_core.evaluate.reader import Reader
from livetalk_core.evaluate.talks import summarize, take_talks, true_talks
from livetalk_core.train.checkpoint import find_checkpoints
from livetalk_core.train.config import Recipe
from livetalk_core.train.nano import put_together
from livetalk_core.train.run import DIT_FILE, Job, train
from livetalk_core.types import StreamSettings

TABLES: dict[str, dict[str, dict[str, object]]] = {
    "Length of the roll-out (Table 2)": {
        "K = 1": {"strategy": "fixed", "chunks": 1},
        "K = 3": {"strategy": "fixed", "chunks": 3},
        "K = 5": {"strategy": "fixed", "chunks": 5},
        "random, up to 5": {"strategy": "random", "chunks": 5},
    },
    "Motion latents in the score networks (Table 3)": {
        "of the clip, clean": {"motion_source": "truth", "noise_motion": False, "motion_loss": False},
        "predicted, clean": {"motion_source": "predicted", "noise_motion": False, "motion_loss": False},
        "predicted, noised": {"motion_source": "predicted", "noise_motion": True, "motion_loss": False},
        "predicted, noised, in the loss": {"motion_source": "predicted", "noise_motion": True, "motion_loss": True},
    },
}
"""What each variant changes in the recipe's Stage 2."""
STAGE_1 = "stage 1"
COLUMNS = {
    "opening": "lips, r",
    "width": "width, r",
    "sharpness": "sharpness",
    "background": "background, dB",
    "long_opening": "long: lips, r",
    "long_sharpness": "long: sharpness, change",
    "long_color": "long: color, change",
    "minutes": "minutes of training",
}


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is compared with what."""

    out: Path
    recipe: Recipe
    data: Path
    dit: Path
    vae: Path
    seeds: int
    device: str = "auto"


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """How each model is measured. `load`: a model folder -> an engine."""

    load: Callable[[Path], Engine]
    reader: Reader
    clips: int
    clip_seconds: float
    seconds: float
    window_s: float
    size: int


def run_study(study: Study, how: Measuring, tell: Callable[[str], None] = print) -> dict[str, list[dict[str, float]]] | None:
    """Numbers of every variant, one row a seed, Stage 1 first; None if a signal stopped it, all saved."""
    start = put_together(study.vae, study.dit, study.out / "stage-1")
    found = {STAGE_1: [kept(study.out / "stage-1", lambda: measure_model(start, how))]}
    for name, changes in variants():
        for seed in range(study.seeds):
            tell(f"study: {name}, seed {seed}")
            folder = study.out / f"{slug(name)}-{seed}"
            row = kept(folder, lambda folder=folder, changes=changes, seed=seed: distil(study, how, folder, changes, seed))
            if row is None:
                return None
            found.setdefault(name, []).append(row)
    return found


def variants() -> Iterator[tuple[str, dict[str, object]]]:
    for rows in TABLES.values():
        yield from rows.items()


def distil(study: Study, how: Measuring, folder: Path, changes: Mapping[str, object], seed: int) -> dict[str, float] | None:
    """Train one variant and measure it; its minutes are told only where it was trained in one go."""
    began, fresh = time.perf_counter(), not find_checkpoints(folder / "checkpoints")
    recipe = study.recipe
    recipe = replace(recipe, run=replace(recipe.run, seed=seed), stage=replace(recipe.stage, **changes))
    if train(Job(recipe=recipe, out=folder, data=study.data, dit=(study.dit,), vae=study.vae, device=study.device)) is None:
        return None
    spent = {"minutes": (time.perf_counter() - began) / 60} if fresh else {}
    return measure_model(put_together(study.vae, folder / DIT_FILE, folder / "model"), how) | spent


def measure_model(folder: Path, how: Measuring) -> dict[str, float]:
    """The numbers that the tables show."""
    engine = how.load(folder)
    settings = StreamSettings(seed=0, steps=engine.preset.steps)
    talks = take_talks(engine, how.reader, true_talks(range(how.clips), how.clip_seconds, how.size), settings)
    (talk,) = true_talks([LONG_SEED], LONG_FILM_S, how.size)
    long, _ = measure_long(engine, how.reader, talk, settings, how.seconds, how.window_s, tell=len)
    means = {name: number["mean"] for name, number in summarize(talks)["numbers"].items()}
    return {
        "opening": means["made_opening"],
        "width": means["made_width"],
        "sharpness": means["sharpness"],
        "background": means["background_psnr"],
        "long_opening": long["lips"]["opening"]["all"],
        "long_sharpness": long["sharpness_change"],
        "long_color": long["color_change"],
    }


def kept(folder: Path, make: Callable[[], dict[str, float] | None]) -> dict[str, float] | None:
    """The numbers in a folder's file; made and written there, if they are not yet."""
    path = folder / "numbers.json"
    if path.is_file():
        return json.loads(path.read_bytes())
    numbers = make()
    if numbers is not None:
        path.write_text(json.dumps(numbers, indent=1), encoding="utf-8")
    return numbers


def slug(name: str) -> str:
    """A folder's name."""
    return "-".join("".join(letter if letter.isalnum() else " " for letter in name.lower()).split())


def pages(found: Mapping[str, list[dict[str, float]]]) -> str:
    """Markdown: a table for each of the report's, mean and deviation over the seeds."""
    seeds = max(map(len, found.values()))
    parts = []
    for title, names in TABLES.items():
        lines = [f"### {title}", "", f"Mean ± deviation over {seeds} seeds.", ""]
        lines += [f"| | {' | '.join(COLUMNS.values())} |", f"|---|{'---|' * len(COLUMNS)}"]
        lines += [f"| {name} | {' | '.join(cell(found[name], column) for column in COLUMNS)} |" for name in (STAGE_1, *names)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def cell(rows: list[dict[str, float]], column: str) -> str:
    values = [row[column] for row in rows if column in row]
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):z.3f}{spread}"
