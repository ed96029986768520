"""Measures the videos of every system, each video once by each measure, and writes the results as they come."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from livetalk_core.evaluate.talkbench.clips import VIDEOS, BenchClip
from livetalk_core.evaluate.talkbench.files import Checksums, write_json
from livetalk_core.evaluate.talkbench.measure import Measure, Measured, NotMeasured, Shown

Tell = Callable[[str], None]
UNAVAILABLE = "unavailable"
"""Version of a measure whose weights or package are missing; the tables say so once, not each video."""


@dataclass(frozen=True, kw_only=True)
class System:
    """A model, or a folder of videos that another program made from the same clips."""

    name: str
    videos: Path
    """Folder of SET/CLIP.mp4, or CLIP.mp4 if there is one set."""

    def video_of(self, clip: BenchClip) -> Path | None:
        """The clip's video; None if the folder has none."""
        places = (self.videos / clip.set, self.videos)
        found = (place / f"{clip.name}{suffix}" for place in places for suffix in VIDEOS)
        return next((path for path in found if path.is_file()), None)


@dataclass(frozen=True, kw_only=True)
class Result:
    """One measure's answer for one video: numbers, or the reason why there are none."""

    system: str
    set: str
    clip: str
    measure: str
    video: str
    fingerprint: str
    not_measured: str = ""
    numbers: dict[str, float] = field(default_factory=dict)
    weight: float = 1.0
    series: dict[str, list[float]] = field(default_factory=dict)
    window_s: float = 1.0
    notes: tuple[str, ...] = ()


def measure_all(
    clips: Sequence[BenchClip], systems: Sequence[System], measures: Sequence[Measure], out: Path, tell: Tell = print
) -> list[Result]:
    """Every result, in order of clip, system and measure. What an earlier run has in `out` is not measured again."""
    checksums, results = Checksums(), []
    for clip in clips:
        for system in systems:
            video = system.video_of(clip)
            if video is None:
                tell(f"{system.name}: {system.videos} has no video of {clip.set}/{clip.name}, so the tables leave it out")
                continue
            shown = Shown(video=video, clip=clip)
            results += [measure_once(system.name, shown, measure, out, checksums, tell) for measure in measures]
    return results


def measure_once(system: str, shown: Shown, measure: Measure, out: Path, checksums: Checksums, tell: Tell) -> Result:
    """The result in the folder; if there is none of this video and these settings, measure and write it."""
    path = result_file(out, system, shown.clip, measure.name)
    who = {"system": system, "set": shown.clip.set, "clip": shown.clip.name, "measure": measure.name, "video": str(shown.video.resolve())}
    try:
        fingerprint = f"{measure.version}; {checksums.of(files_of(shown))}"
    except OSError as error:
        tell(f"{system}, {shown.clip.set}/{shown.clip.name}: not measured: {error.filename}: {error.strerror}")
        return Result(**who, fingerprint="", not_measured=f"{error.filename}: {error.strerror}")
    known = read_result(path)
    if known is not None and known.fingerprint == fingerprint and measure.version != UNAVAILABLE:
        return known
    result = Result(**who, fingerprint=fingerprint, **answer(measure, shown))
    write_json(path, asdict(result))
    if measure.version != UNAVAILABLE:
        found = ", ".join(f"{name} {value:.4g}" for name, value in result.numbers.items()) or f"not measured: {result.not_measured}"
        tell(f"{system}, {shown.clip.set}/{shown.clip.name}: {found}")
    return result


def answer(measure: Measure, shown: Shown) -> dict:
    """The fields of a result. A video that is broken or does not suit the measure has its reason and stops nothing."""
    try:
        found: Measured = measure.measure(shown)
    except (NotMeasured, ValueError, OSError) as reason:
        return {"not_measured": " ".join(str(reason).split())}
    return vars(found)


def files_of(shown: Shown) -> list[Path]:
    """Everything that a measure may read."""
    beside = [path for path in (shown.clip.picture, shown.clip.sound, shown.clip.video) if path is not None]
    note = shown.video.with_suffix(".speed.json")
    return [shown.video, *beside, *([note] if note.is_file() else [])]


def result_file(out: Path, system: str, clip: BenchClip, measure: str) -> Path:
    return out / "measured" / system / clip.set / clip.name / f"{measure}.json"


def read_result(path: Path) -> Result | None:
    """None if there is no file, or one of another form."""
    try:
        found = json.loads(path.read_bytes())
        return Result(**found | {"notes": tuple(found["notes"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
