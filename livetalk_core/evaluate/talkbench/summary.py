"""Results of single videos -> means over sets, slopes over time, and what was not measured."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from livetalk_core.evaluate.talkbench.bench import Result

LEAST_SLOPE_S = 30.0
"""Series shorter than this have no slope, because a change in a minute would be guessed from seconds."""
LONGEST_SLOPE = 600
"""Windows that a slope is found from; of more, every Nth is taken, so that the pairs stay few."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of the tables."""

    key: str
    title: str
    higher: bool | None = True
    """Whether more is better; None if neither more nor less is."""
    digits: int = 4


REPORT = (
    Column(key="sync_c", title="Sync-C", digits=2),
    Column(key="sync_d", title="Sync-D", higher=False, digits=2),
    Column(key="ase", title="ASE", digits=2),
    Column(key="iqa", title="IQA", digits=2),
    Column(key="subject_c", title="Subject-C"),
    Column(key="bg_c", title="BG-C"),
    Column(key="motion_s", title="Motion-S"),
    Column(key="temporal_f", title="Temporal-F"),
    Column(key="fps", title="FPS", digits=2),
)
"""The technical report's Table 1."""
BESIDE = (
    Column(key="first_frame_s", title="first frame, s", higher=False, digits=2),
    Column(key="identity", title="identity", digits=3),
    Column(key="lip_distance", title="lip distance", higher=False),
    Column(key="head_motion", title="head motion", higher=None, digits=3),
    Column(key="hand_motion", title="hand motion", higher=None, digits=3),
)


def summarize(results: Sequence[Result]) -> dict:
    """What results.json holds: numbers and slopes of every system by set, short ones first; what is missing; every result."""
    sets: dict[str, dict[str, dict]] = {}
    by_set = grouped(results, lambda r: (r.set, r.system))
    for (name, system), of in sorted(by_set.items(), key=lambda item: "short" not in item[0][0].lower()):
        sets.setdefault(name, {})[system] = {
            "numbers": means_of(of),
            "slopes": slopes_of(of),
            "clips": len({result.clip for result in of}),
        }
    return {
        "columns": {column.key: {"title": column.title, "higher": column.higher} for column in (*REPORT, *BESIDE)},
        "sets": sets,
        "missing": missing_of(results),
        "clips": [vars(result) for result in results],
    }


def grouped(results: Iterable[Result], key) -> dict:
    found = defaultdict(list)
    for result in results:
        found[key(result)].append(result)
    return dict(found)


def means_of(results: Iterable[Result]) -> dict[str, dict[str, float]]:
    """Weighted mean, number of videos, lowest and highest of every number."""
    values: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for result in results:
        for name, value in result.numbers.items():
            values[name].append((value, result.weight))
    return {name: mean_of(pairs) for name, pairs in values.items()}


def mean_of(pairs: list[tuple[float, float]]) -> dict[str, float]:
    total = sum(weight for _, weight in pairs)
    plain = [value for value, _ in pairs]
    mean = sum(value * weight for value, weight in pairs) / total
    return {"mean": mean, "videos": len(pairs), "min": min(plain), "max": max(plain)}


def slopes_of(results: Iterable[Result]) -> dict[str, float]:
    """Mean over videos of each series' change a minute; short series have none."""
    found: dict[str, list[float]] = defaultdict(list)
    for result in results:
        for name, values in result.series.items():
            if len(values) > 1 and len(values) * result.window_s >= LEAST_SLOPE_S:
                found[name].append(slope(values, result.window_s) * 60)
    return {name: sum(values) / len(values) for name, values in found.items()}


def slope(values: Sequence[float], window_s: float) -> float:
    """Theil and Sen's slope a second: the median over all pairs, so that single bad windows do not tilt it."""
    step = -(-len(values) // LONGEST_SLOPE)
    taken = list(enumerate(values))[::step]
    pairs = ((b - a) / ((j - i) * window_s) for n, (i, a) in enumerate(taken) for j, b in taken[n + 1 :])
    return median(pairs)


def missing_of(results: Iterable[Result]) -> list[dict]:
    """Each reason why something was not measured, by system and measure, with the number of videos it holds for."""
    reasons = grouped((r for r in results if r.not_measured), lambda r: (r.system, r.measure, r.not_measured))
    return [
        {"system": system, "measure": measure, "reason": reason, "videos": len(of)} for (system, measure, reason), of in reasons.items()
    ]
