"""Where a video is written: part files beside it, and how one takes its name without anything being lost."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

LONGEST_NAME = 255
"""Bytes of a file's name in the usual file systems."""


def check_target(path: Path, overwrite: bool) -> Path:
    """The path, if a video may be written there. ValueError or FileNotFoundError, in one line, if not."""
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; name an .mp4 file in it")
    if path.suffix.lower() != ".mp4":
        raise ValueError(f"{path}: the video must be an .mp4 file; write {path.with_suffix('.mp4').name}")
    folder = real_target(path).parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{path}: the folder {folder} does not exist; create it first")
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: is a pipe or a device, and a video needs a file; choose another name")
    if path.exists() and not overwrite:
        raise ValueError(f"{path}: exists already; choose another name or pass --overwrite")
    return path


def real_target(path: Path) -> Path:
    """The file itself, at the end of any symbolic links, whether it is there yet or not."""
    return path.resolve() if path.is_symlink() else path


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A file as it was when a run began, to notice when another run has written it since."""

    inode: int
    time_ns: int
    size: int


def seen(path: Path) -> Seen | None:
    """None if nothing is there."""
    with suppress(OSError):
        found = path.stat()
        return Seen(inode=found.st_ino, time_ns=found.st_mtime_ns, size=found.st_size)
    return None


class Target:
    """One run's place to write to. What it has written takes the target's name in `take`."""

    def __init__(self, path: Path, overwrite: bool) -> None:
        self.path = check_target(path, overwrite)
        self.real = real_target(self.path)
        self.before = seen(self.real)
        self.folder = part_folder(self.real)

    def open_part(self) -> tuple[Path, BinaryIO]:
        """A new part file, hidden beside the target, open to write and read; no other run takes it for left over while it is open."""
        part = self.folder / part_name(self.real.name, uuid.uuid4().hex[:8])
        file = part.open("x+b", buffering=0)
        lock(file)
        return part, file

    def take(self, part: Path, *, partial: bool = False) -> Path:
        """Give the part file its name; returns that name.

        It is the target's own, unless another run has written there since this one began, or what is there is whole and this is not:
        then the nearest free one. The older file's mode is kept.
        """
        self.real.parent.mkdir(parents=True, exist_ok=True)
        with locked_folder(self.real.parent):
            now = seen(self.real)
            name = self.real if now == self.before and not (partial and now) else free_name(self.real)
            if now is not None and name == self.real:
                with suppress(OSError):
                    part.chmod(stat.S_IMODE(self.real.stat().st_mode))
            move(part, name)
        return self.path if name == self.real else name


def part_folder(target: Path) -> Path:
    """Beside the target, or the folder for temporary files where only the target itself may be written."""
    if os.access(target.parent, os.W_OK) or not target.exists():
        return target.parent
    return Path(tempfile.gettempdir())


def part_name(name: str, key: str) -> str:
    """.NAME.KEY.part, its name cut to what file systems take."""
    room = LONGEST_NAME - len(f"..{key}.part.resume.new")
    return f".{os.fsdecode(os.fsencode(name)[:room])}.{key}.part"


def parts_of(target: Path) -> list[Path]:
    """Part files that earlier runs have left for a target, newest first. Those of runs that still go on are not among them."""
    target = real_target(target)
    head = part_name(target.name, "")[: -len("..part")]
    found = [path for path in part_folder(target).glob(".*.part") if path.name.startswith(f"{head}.") and path.name.count(".") >= 2]
    left = [path for path in found if len(path.name) == len(part_name(target.name, "0" * 8)) and not in_use(path)]
    return sorted(left, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def free_name(path: Path) -> Path:
    """NAME-2.mp4, or the next number that is free."""
    number = 2
    while (name := path.with_name(f"{path.stem}-{number}{path.suffix}")).exists():
        number += 1
    return name


def move(part: Path, target: Path) -> None:
    """Replace the target at once where the file system can; where only its content may be written, write that."""
    try:
        os.replace(part, target)
    except OSError:
        if not target.exists() and target.parent == part.parent:
            raise
        with part.open("rb") as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink)
        part.unlink()


def lock(file: BinaryIO) -> bool:
    """Hold a file for this process; False if another one holds it. Where there are no locks, nobody holds any."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return not isinstance(error, BlockingIOError)
    return True


def in_use(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return not lock(file)
    except OSError:
        return True


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """One process at a time, where folders can be locked."""
    try:
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        yield
        return
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
