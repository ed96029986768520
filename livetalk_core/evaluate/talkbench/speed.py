"""FPS and first-frame latency of the run that made a video, as noted while it was made."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from livetalk_core.evaluate.talkbench.files import write_json
from livetalk_core.evaluate.talkbench.measure import Measured, NotMeasured, Shown


class Speed:
    """Reads the note beside a video. A video that another program made has none, unless its maker writes one."""

    name, version = "speed", "1"

    def measure(self, shown: Shown) -> Measured:
        path = speed_file(shown.video)
        if not path.is_file():
            raise NotMeasured(f"there is no {path.name} beside the video, which says how fast it was made")
        try:
            found = json.loads(path.read_bytes())
            numbers = {name: float(found[name]) for name in ("fps", "first_frame_s") if found.get(name) is not None}
        except (ValueError, TypeError, AttributeError) as error:
            raise NotMeasured(f'{path.name} must look like {{"fps": 25.0, "first_frame_s": 1.5}} ({error})') from None
        if not numbers:
            raise NotMeasured(f"{path.name} has no fps: the video came in one piece, or its making was interrupted")
        return Measured(numbers=numbers, notes=(f"made on {found['device']}",) if found.get("device") else ())


class Stopwatch:
    """Times a video while it is made. Call `saw` with the frames of every piece; `clock` counts seconds."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.begun, self.first, self.last = clock(), 0.0, 0.0
        self.frames, self.first_frames, self.resumed = 0, 0, False

    def saw(self, frames: int) -> None:
        self.last = self.clock()
        if not self.frames:
            self.first, self.first_frames = self.last, frames
        self.frames += frames

    def numbers(self) -> dict[str, float | None]:
        """`fps`: frames after the first piece over the seconds since it. `first_frame_s`: from the picture and sound to the first piece.

        None where there is one piece only, or the video's beginning was made by an earlier run.
        """
        later, seconds = self.frames - self.first_frames, self.last - self.first
        fps = later / seconds if later and seconds > 0 else None
        return {"fps": fps, "first_frame_s": None if self.resumed or not self.frames else self.first - self.begun}

    def write(self, video: Path, device: str) -> None:
        """Write the note that `Speed` reads."""
        write_json(speed_file(video), self.numbers() | {"frames": self.frames, "device": device})


def speed_file(video: Path) -> Path:
    return video.with_suffix(".speed.json")
