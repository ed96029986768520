"""What a run leaves beside its part file so that a later one can go on where it was killed, and make the same frames.

Kept are the motion latents of the last chunks, written at once and whole with every chunk. All else is found again from the inputs, which
is cheap: noise is drawn anew up to the chunk, the sound is read and its loudness measured from the start, and encoded anew for the file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from livetalk_core.media.part import whole_frames
from livetalk_core.media.target import parts_of
from livetalk_core.types import Start

KEPT = 3
"""Chunks whose beginnings are kept: the file may be behind by a piece or two."""
LIKENESS = "likeness"

Likeness = dict[str, str]
"""What must be alike for the rest to fit: settings by name, files by their checksums."""


class Trail:
    """Writes down, beside a part file, what each chunk begins with."""

    def __init__(self, part: Path, likeness: Likeness, motion_latents: int, first: int) -> None:
        self.path = trail_of(part)
        self.likeness, self.motion_latents, self.index = likeness, motion_latents, first
        self.states: dict[int, Tensor] = {}

    def keep(self, latents_CTHW: Tensor) -> None:
        """A chunk's latents, its motion latents first. The chunks before it have been given to the file."""
        self.states[self.index] = latents_CTHW[:, : self.motion_latents].float().cpu().contiguous()
        self.states = dict(list(self.states.items())[-KEPT:])
        self.index += 1
        fresh = self.path.with_name(self.path.name + ".new")
        save_file({str(index): state for index, state in self.states.items()}, fresh, {LIKENESS: json.dumps(self.likeness)})
        with fresh.open("rb") as file, suppress(OSError):
            os.fsync(file.fileno())
        os.replace(fresh, self.path)

    def remove(self) -> None:
        forget(self.path)


@dataclass(frozen=True, kw_only=True)
class Left:
    """A part file to go on from."""

    part: Path
    start: Start
    num_frames: int

    def remove(self) -> None:
        self.part.unlink(missing_ok=True)
        forget(trail_of(self.part))


def find_left(target: Path, likeness: Likeness, new_frames: int) -> Left:
    """The part of a target with the most chunks that was made with these settings. ValueError, saying what differs, if there is none."""
    found: list[Left] = []
    differences: list[str] = []
    for part in parts_of(target):
        states, its_likeness = read_trail(part)
        if its_likeness != likeness:
            differences.append(unlike(its_likeness, likeness))
            continue
        ready = whole_frames(part) // new_frames
        found += [
            Left(part=part, start=Start(index=index, motion_CTHW=state), num_frames=index * new_frames)
            for index, state in states.items()
            if 0 < index <= ready
        ]
    if found:
        return max(found, key=lambda left: left.num_frames)
    if differences:
        raise ValueError(f"{target}: cannot be resumed: {differences[0]}; give what it was begun with, or leave --resume out")
    raise ValueError(f"{target}: there is nothing to resume, no run has left a chunk of it; leave --resume out")


def unlike(then: Likeness, now: Likeness) -> str:
    """What differs, in a few words."""
    if not then:
        return "an earlier run left a part without its settings"
    names = [name for name in now if then.get(name) != now[name]]
    shown = [f"{name} was {then.get(name)} and is {now[name]}" if len(now[name]) < 40 else f"another {name}" for name in names]
    return ", ".join(shown) or "it was made by another version"


def read_trail(part: Path) -> tuple[dict[int, Tensor], Likeness]:
    """What each of the last chunks begins with, by index, and the settings; empty for a part without."""
    with suppress(OSError, SafetensorError, ValueError), safe_open(trail_of(part), "pt") as file:
        likeness = json.loads((file.metadata() or {}).get(LIKENESS, "{}"))
        return {int(name): file.get_tensor(name) for name in file.keys()}, likeness  # noqa: SIM118 (it is no dict)
    return {}, {}


def leftovers(target: Path) -> list[str]:
    """A sentence for each part that an earlier run has left."""
    notes = []
    for part in parts_of(target):
        frames = whole_frames(part)
        way_out = "--resume goes on from there" if frames and trail_of(part).exists() else "it can be deleted"
        notes.append(f"an earlier run left {frames} frames in {part}; {way_out}")
    return notes


def trail_of(part: Path) -> Path:
    return part.with_name(part.name + ".resume")


def forget(trail: Path) -> None:
    for path in (trail, trail.with_name(trail.name + ".new")):
        with suppress(OSError):
            path.unlink(missing_ok=True)


def checksum(paths: Iterable[Path]) -> str:
    """SHA-256 of files one after the other, in hexadecimal; empty for none."""
    digest, any_file = hashlib.sha256(), False
    for path in paths:
        any_file = True
        digest.update(f"{path.stat().st_size}:".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest() if any_file else ""
