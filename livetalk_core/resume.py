"""The resume file beside a run's part file: a later run resumes from it and makes the same frames.

It holds the motion latents of the last chunks and is replaced atomically after every chunk. Everything else is recomputed from the inputs,
which is cheap: noise is drawn again up to the chunk, and the sound is read, measured and encoded again from the start.
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

KEPT = 5
"""Number of chunks whose motion latents are kept: the video file lags behind by the pieces that wait for the encoder."""
FINGERPRINT_KEY, MARK_KEY = "likeness", "watermark"

Fingerprint = dict[str, str]
"""What must be equal to resume: settings by name, files by checksum."""


class ResumeFile:
    """Writes the resume file: the motion latents that each chunk begins with."""

    def __init__(self, part: Path, fingerprint: Fingerprint, motion_latents: int, first: int, mark_id: int | None = None) -> None:
        self.path = resume_path(part)
        self.mark = {} if mark_id is None else {MARK_KEY: str(mark_id)}
        self.fingerprint, self.motion_latents, self.index = fingerprint, motion_latents, first
        self.states: dict[int, Tensor] = {}

    def keep(self, latents_CTHW: Tensor) -> None:
        """Save a chunk's motion latents, the first of its latents. All chunks before it were given to the writer."""
        self.states[self.index] = latents_CTHW[:, : self.motion_latents].float().cpu().contiguous()
        self.states = dict(list(self.states.items())[-KEPT:])
        self.index += 1
        fresh = self.path.with_name(self.path.name + ".new")
        save_file(
            {str(index): state for index, state in self.states.items()}, fresh, {FINGERPRINT_KEY: json.dumps(self.fingerprint)} | self.mark
        )
        with fresh.open("rb") as file, suppress(OSError):
            os.fsync(file.fileno())
        os.replace(fresh, self.path)

    def remove(self) -> None:
        remove_resume_file(self.path)


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """A part file to resume from."""

    part: Path
    start: Start
    num_frames: int
    mark_id: int | None = None
    """The watermark's id in the frames, if there is one."""

    def remove(self) -> None:
        self.part.unlink(missing_ok=True)
        remove_resume_file(resume_path(self.part))


def find_leftover(target: Path, fingerprint: Fingerprint, new_frames: int) -> Leftover:
    """The target's part with the most chunks made with these settings. ValueError with the difference if there is none."""
    found: list[Leftover] = []
    differences: list[str] = []
    for part in parts_of(target):
        states, theirs = read_resume_file(part)
        if theirs != fingerprint:
            differences.append(difference(theirs, fingerprint))
            continue
        ready = whole_frames(part) // new_frames
        found += [
            Leftover(part=part, start=Start(index=index, motion_CTHW=state), num_frames=index * new_frames, mark_id=read_mark_id(part))
            for index, state in states.items()
            if 0 < index <= ready
        ]
    if found:
        return max(found, key=lambda left: left.num_frames)
    if differences:
        raise ValueError(f"{target}: cannot be resumed: {differences[0]}; use the settings of the earlier run, or leave --resume out")
    raise ValueError(f"{target}: there is nothing to resume, no earlier run has left a chunk; leave --resume out")


def difference(then: Fingerprint, now: Fingerprint) -> str:
    """The differences, in a few words."""
    if not then:
        return "an earlier run left a part without its settings"
    names = [name for name in {**now, **then} if then.get(name) != now.get(name)]
    pairs = [(name, then.get(name, "not set"), now.get(name, "not set")) for name in names]
    shown = [f"{name} was {was} and is {new}" if len(new) < 40 else f"another {name}" for name, was, new in pairs]
    return ", ".join(shown) or "it was made by another version"


def read_resume_file(part: Path) -> tuple[dict[int, Tensor], Fingerprint]:
    """The last chunks' motion latents by index, and the settings; both empty without a resume file."""
    with suppress(OSError, SafetensorError, ValueError), safe_open(resume_path(part), "pt") as file:
        fingerprint = json.loads((file.metadata() or {}).get(FINGERPRINT_KEY, "{}"))
        return {int(name): file.get_tensor(name) for name in file.keys()}, fingerprint  # noqa: SIM118 (it is no dict)
    return {}, {}


def read_mark_id(part: Path) -> int | None:
    """The watermark's id in a part's frames; None without one."""
    with suppress(OSError, SafetensorError, ValueError), safe_open(resume_path(part), "pt") as file:
        found = (file.metadata() or {}).get(MARK_KEY)
        return None if found is None else int(found)
    return None


def leftover_notes(target: Path) -> list[str]:
    """A sentence for each part of an earlier run."""
    notes = []
    for part in parts_of(target):
        frames = whole_frames(part)
        way_out = "--resume continues from there" if frames and resume_path(part).exists() else "it can be deleted"
        notes.append(f"an earlier run left {frames} frames in {part}; {way_out}")
    return notes


def resume_path(part: Path) -> Path:
    return part.with_name(part.name + ".resume")


def remove_resume_file(path: Path) -> None:
    for each in (path, path.with_name(path.name + ".new")):
        with suppress(OSError):
            each.unlink(missing_ok=True)


def checksum(paths: Iterable[Path]) -> str:
    """SHA-256 of the files in order, in hexadecimal; empty without files."""
    digest, any_file = hashlib.sha256(), False
    for path in paths:
        any_file = True
        digest.update(f"{path.stat().st_size}:".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest() if any_file else ""
