"""One evaluation of a model: held-out clips, then a long stream, written into a folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from livetalk_core.engine.engine import Engine
from livetalk_core.evaluate.clips import ClipResult, measure_clips, summarize, true_clips
from livetalk_core.evaluate.long import LONG_FILM_S, LONG_SEED, measure_long
from livetalk_core.evaluate.reader import MouthReader
from livetalk_core.evaluate.report import contact_sheet, need_plots, plot_long
from livetalk_core.evaluate.rows import rows_of
from livetalk_core.sizes import choose_size
from livetalk_core.types import StreamSettings

SHEET_CLIPS = 10
"""Clips shown in the contact sheet."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What is measured. Raises ValueError for what would fail only after hours of work."""

    out: Path
    """Folder of results.json, sheet.jpg and long.png."""
    clips: int = 20
    """Held-out talkers, seeds 0 to clips - 1."""
    clip_s: float = 5.0
    long_s: float = 1000.0
    """Length of the long stream; 0: none."""
    window_s: float = 60.0
    """Start and end of the long stream, which are compared."""
    seed: int = 0
    steps: int | None = None
    shift: float | None = None
    last_noise: float | None = None
    name: str | None = None
    """What tables call this run; None: the model's name and steps."""

    def __post_init__(self) -> None:
        if self.clips < 2:
            raise ValueError(f"clips={self.clips} must be 2 or more, because each clip is compared with another one's truth too")
        if self.clip_s < 1:
            raise ValueError(f"clip_seconds={self.clip_s:g} must be 1 or more, to find the lag of the lips")
        if self.long_s and self.long_s < 2 * self.window_s:
            raise ValueError(f"seconds={self.long_s:g} must be two windows of {self.window_s:g} s or more, or 0 for no long stream")
        if self.long_s:
            need_plots()

    def settings(self, engine: Engine) -> StreamSettings:
        """The stream's settings, the model's own where none are given."""
        steps = engine.preset.steps if self.steps is None else self.steps
        return engine.preset.settled(StreamSettings(seed=self.seed, steps=steps, shift=self.shift, last_noise=self.last_noise))


Sheet = list[tuple[str, Sequence[Tensor]]]
"""Rows of a contact sheet: heading and pictures."""


def evaluate(evaluation: Evaluation, engine: Engine, reader: MouthReader, tell: Callable[[str], None] = print) -> dict:
    """All results. They are written after the clips, and again after the long stream."""
    settings, size = evaluation.settings(engine), choose_size(1, 1, engine.preset.without_enlarger().bucket)[0]
    found = measure_clips(engine, reader, true_clips(range(evaluation.clips), evaluation.clip_s, size), settings, tell)
    place = {"size": size, "device": str(engine.device), "dtype": str(engine.dtype), "clip_seconds": evaluation.clip_s}
    results = {
        "name": evaluation.name or f"{engine.preset.name}, {settings.steps} steps",
        "settings": vars(settings) | place,
        "talks": summarize(found),
        "long": None,
    }
    sheet = [clip_row(result) for result in found[:SHEET_CLIPS]]
    write_results(results, sheet, evaluation.out)
    if evaluation.long_s:
        (clip,) = true_clips([LONG_SEED], LONG_FILM_S, size)
        results["long"], pictures = measure_long(engine, reader, clip, settings, evaluation.long_s, evaluation.window_s, tell)
        heading = f"{clip.name}: reference, then {', '.join(f'{(k + 1) / 25:g}' for k in pictures)} s"
        write_results(results, [*sheet, (heading, [clip.reference_HWC, *pictures.values()])], evaluation.out)
        plot_long(results["long"], evaluation.out / "long.png")
    return results


def clip_row(result: ClipResult) -> tuple[str, list[Tensor]]:
    """A clip's row of the contact sheet: its reference, then some frames as true, rebuilt and made."""
    pictures = [picture for moment in result.moments.values() for picture in moment.values()]
    heading = f"{result.name}: reference, then true, rebuilt, made of frames {', '.join(map(str, result.moments))}"
    return heading, [result.reference_HWC, *pictures]


def write_results(results: dict, sheet: Sheet, out: Path) -> None:
    """results.json and sheet.jpg."""
    out.mkdir(parents=True, exist_ok=True)
    rows = [vars(row) | {"passed": row.passed} for row in rows_of(results)]
    (out / "results.json").write_text(json.dumps(results | {"rows": rows}, indent=1), encoding="utf-8")
    contact_sheet(sheet, out / "sheet.jpg")


def read_results(path: Path) -> dict:
    """The results that another evaluation wrote. FileNotFoundError if there is no such file."""
    if not path.is_file():
        raise FileNotFoundError(f"results {path} do not exist; livetalk evaluate writes results.json into its folder")
    try:
        results = json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}); give a results.json that livetalk evaluate wrote") from None
    if not isinstance(results, dict) or not {"name", "talks", "long"} <= set(results):
        raise ValueError(f"{path} has no results; give a results.json that livetalk evaluate wrote")
    return results
