"""Makes the videos of a benchmark with a model: one after the other, each once, and noted how fast."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from livetalk_core.cli.options import tell
from livetalk_core.evaluate.talkbench.bench import System
from livetalk_core.evaluate.talkbench.clips import BenchClip
from livetalk_core.evaluate.talkbench.files import write_json
from livetalk_core.types import StreamSettings

if TYPE_CHECKING:
    from livetalk_core.engine.engine import Engine
    from livetalk_core.pool.pool import Pool

MADE_WITH = "made-with.json"


@dataclass(frozen=True, kw_only=True)
class Making:
    """How a model's videos are made."""

    system: System
    pictures: Path
    """Folder for the first frames of true videos that serve as pictures."""
    settings: StreamSettings
    size: str
    any_size: bool = False
    engine: str
    """Engine options that change the result, in words."""


def check_settings(making: Making) -> None:
    """Note the settings in the folder of videos. ValueError if it has videos of other settings."""
    path = making.system.videos / MADE_WITH
    now = {name: str(value) for name, value in vars(making.settings).items()} | {"size": making.size, "engine": making.engine}
    if path.is_file():
        then = json.loads(path.read_bytes())
        for name in now:
            if then.get(name) != now[name]:
                raise ValueError(
                    f"{making.system.videos} has videos made with {name} {then.get(name)}, and this run asks for {now[name]}; "
                    "give another --name or --out"
                )
    else:
        write_json(path, now)


def missing_clips(making: Making, clips: Sequence[BenchClip]) -> list[BenchClip]:
    return [clip for clip in clips if not target_of(making, clip).is_file()]


def make_videos(engine: Engine | Pool, making: Making, clips: Sequence[BenchClip]) -> list[str]:
    """Make every clip's video. A clip that cannot be made is told, and is in the returned names."""
    failed = []
    for number, clip in enumerate(clips, 1):
        tell(f"{making.system.name}: making {clip.set}/{clip.name} ({number} of {len(clips)})")
        try:
            make_video(engine, making, clip)
        except (ValueError, OSError) as error:
            failed.append(f"{clip.set}/{clip.name}")
            print(f"livetalk: {failed[-1]} was not made: {' '.join(str(error).split())}", file=sys.stderr)
    return failed


def make_video(engine: Engine | Pool, making: Making, clip: BenchClip) -> None:
    """Make one clip's video under another name, then give it its own: what has the name is whole."""
    from livetalk_core.evaluate.talkbench.speed import Stopwatch
    from livetalk_core.generate import Job, Report, check_inputs, generate
    from livetalk_core.media.target import parts_of

    target = target_of(making, clip)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{clip.name}.unfinished.mp4")
    unfinished.unlink(missing_ok=True)
    job = Job(picture=picture_of(making, clip), audio=(clip.sound,), output=unfinished, size=making.size, any_size=making.any_size,
              settings=making.settings, engine=making.engine, resume=bool(parts_of(unfinished)))  # fmt: skip
    watch = Stopwatch()

    def resumed(frames: int) -> None:
        watch.resumed = True
        tell(f"resuming after {frames} frames")

    report = Report(chunk=lambda chunk, total: watch.saw(len(chunk.frames_THWC)), note=tell, resumed=resumed)
    try:
        generate(engine, check_inputs(job), report=report)
    except ValueError:
        if not job.resume:
            raise
        remove_parts(unfinished)  # an earlier run left no whole chunk
        watch = Stopwatch()
        generate(engine, check_inputs(replace(job, resume=False)), report=report)
    watch.write(target, str(engine.device))
    unfinished.rename(target)


def remove_parts(path: Path) -> None:
    """Remove what earlier runs have left for a video."""
    from livetalk_core.media.target import parts_of
    from livetalk_core.resume import remove_resume_file, resume_path

    for part in parts_of(path):
        part.unlink(missing_ok=True)
        remove_resume_file(resume_path(part))


def target_of(making: Making, clip: BenchClip) -> Path:
    return making.system.videos / clip.set / f"{clip.name}.mp4"


def picture_of(making: Making, clip: BenchClip) -> Path:
    """The clip's picture, or the first frame of its true video as a PNG."""
    from PIL import Image

    from livetalk_core.media.video import read_frames

    if clip.picture is not None:
        return clip.picture
    path = making.pictures / clip.set / f"{clip.name}.png"
    if not path.is_file():
        frame = next(read_frames(clip.video), None)
        if frame is None:
            raise ValueError(f"{clip.video}: has no frames; put a picture of the same name beside it")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(frame).save(path)
    return path
