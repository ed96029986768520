"""The choices that Tables 2 and 3 of the technical report compare, on a small model with several seeds.

Every variant distills the same Stage 1 model for the same number of steps. Then it is measured on the same held-out talkers, on short
clips and on a longer stream. A variant that has its numbers is not run again.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from livetalk_core.engine.engine import Engine
from livetalk_core.evaluate.clips import measure_clips, summarize, true_clips
from livetalk_core.evaluate.long import LONG_FILM_S, LONG_SEED, measure_long
from livetalk_core.evaluate.reader import MouthReader
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
"""What each variant changes in Stage 2 of the recipe."""
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
    """What is trained."""

    out: Path
    recipe: Recipe
    data: Path
    dit: Path
    vae: Path
    seeds: int
    device: str = "auto"


@dataclass(frozen=True, kw_only=True)
class StudyMeasurement:
    """How each model is measured. `load` opens the engine of a model folder."""

    load: Callable[[Path], Engine]
    reader: MouthReader
    clips: int
    clip_seconds: float
    seconds: float
    window_s: float
    size: int


def run_study(study: Study, how: StudyMeasurement, tell: Callable[[str], None] = print) -> dict[str, list[dict[str, float]]] | None:
    """Numbers of every variant, one row per seed, Stage 1 first. None if a signal stopped it; everything so far is saved."""
    start = put_together(study.vae, study.dit, study.out / "stage-1")
    found = {STAGE_1: [load_or_make(study.out / "stage-1", lambda: measure_model(start, how))]}
    for name, changes in variants():
        for seed in range(study.seeds):
            tell(f"study: {name}, seed {seed}")
            folder = study.out / f"{folder_name(name)}-{seed}"
            row = load_or_make(folder, lambda folder=folder, changes=changes, seed=seed: run_variant(study, how, folder, changes, seed))
            if row is None:
                return None
            found.setdefault(name, []).append(row)
    return found


def variants() -> Iterator[tuple[str, dict[str, object]]]:
    for rows in TABLES.values():
        yield from rows.items()


def run_variant(study: Study, how: StudyMeasurement, folder: Path, changes: Mapping[str, object], seed: int) -> dict[str, float] | None:
    """Train one variant and measure it. Its minutes are reported only if it was trained without a stop."""
    began, fresh = time.perf_counter(), not find_checkpoints(folder / "checkpoints")
    recipe = study.recipe
    recipe = replace(recipe, run=replace(recipe.run, seed=seed), stage=replace(recipe.stage, **changes))
    if train(Job(recipe=recipe, out=folder, data=study.data, dit=(study.dit,), vae=study.vae, device=study.device)) is None:
        return None
    spent = {"minutes": (time.perf_counter() - began) / 60} if fresh else {}
    return measure_model(put_together(study.vae, folder / DIT_FILE, folder / "model"), how) | spent


def measure_model(folder: Path, how: StudyMeasurement) -> dict[str, float]:
    """The numbers in the tables."""
    engine = how.load(folder)
    settings = StreamSettings(seed=0, steps=engine.preset.steps)
    results = measure_clips(engine, how.reader, true_clips(range(how.clips), how.clip_seconds, how.size), settings)
    (clip,) = true_clips([LONG_SEED], LONG_FILM_S, how.size)
    long, _ = measure_long(engine, how.reader, clip, settings, how.seconds, how.window_s, tell=len)
    means = {name: number["mean"] for name, number in summarize(results)["numbers"].items()}
    return {
        "opening": means["made_opening"],
        "width": means["made_width"],
        "sharpness": means["sharpness"],
        "background": means["background_psnr"],
        "long_opening": long["lips"]["opening"]["all"],
        "long_sharpness": long["sharpness_change"],
        "long_color": long["color_change"],
    }


def load_or_make(folder: Path, make: Callable[[], dict[str, float] | None]) -> dict[str, float] | None:
    """The numbers in the folder's file. If there are none, make them and write the file."""
    path = folder / "numbers.json"
    if path.is_file():
        return json.loads(path.read_bytes())
    numbers = make()
    if numbers is not None:
        path.write_text(json.dumps(numbers, indent=1), encoding="utf-8")
    return numbers


def folder_name(name: str) -> str:
    """The folder of a variant."""
    return "-".join("".join(letter if letter.isalnum() else " " for letter in name.lower()).split())


def study_tables(found: Mapping[str, list[dict[str, float]]]) -> str:
    """Markdown: one table for each of the report's, mean and deviation over the seeds."""
    seeds = max(map(len, found.values()))
    parts = []
    for title, names in TABLES.items():
        lines = [f"### {title}", "", f"Mean ± deviation over {seeds} seeds." if seeds > 1 else "One seed each.", ""]
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
