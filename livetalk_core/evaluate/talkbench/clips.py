"""Finds the clips of a benchmark: a picture, a sound and, where there is one, the true video of each."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".heic", ".bmp")
SOUNDS = (".wav", ".flac", ".m4a", ".mp3", ".aac", ".ogg", ".opus")
VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
MANIFESTS = ("manifest.json", "manifest.csv")


@dataclass(frozen=True, kw_only=True)
class BenchClip:
    """One clip of a benchmark."""

    set: str
    """Name of its set, such as short or long."""
    name: str
    picture: Path | None
    """None: the first frame of the true video."""
    sound: Path
    """A sound file, or the true video."""
    video: Path | None = None
    """The true video."""


def find_clips(folder: Path) -> list[BenchClip]:
    """The clips of a folder: from manifest.json or manifest.csv if it is there, else by name; each subfolder is a set.

    Files of one name are one clip: a.png and a.wav, with or without the true video a.mp4; or a.mp4 alone.
    FileNotFoundError or ValueError, in one line, if there are none or a file is missing.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder; give one with clips (a.png and a.wav, or a.mp4)")
    manifest = next((path for name in MANIFESTS if (path := folder / name).is_file()), None)
    clips = list(read_manifest(manifest) if manifest else read_folder(folder))
    if not clips:
        raise ValueError(f"{folder}: holds no clips; each needs a.png and a.wav of one name, or a.mp4 with sound")
    check_names(clips)
    return clips


def check_names(clips: list[BenchClip]) -> None:
    """ValueError for a name that is there twice or cannot be a file's."""
    seen = set()
    for clip in clips:
        for word in (clip.set, clip.name):
            if not word or word in (".", "..") or any(letter in word for letter in '/\\:*?"<>|'):
                raise ValueError(f"{word!r} cannot be the name of a clip or set, because files are named after it; use letters and digits")
        if (clip.set, clip.name) in seen:
            raise ValueError(f"two clips of set {clip.set} are named {clip.name}; give each its own name")
        seen.add((clip.set, clip.name))


def read_folder(folder: Path) -> Iterator[BenchClip]:
    """The clips beside each other in a folder, then those of its subfolders."""
    yield from clips_in(folder, folder.resolve().name)
    for each in sorted(path for path in folder.iterdir() if path.is_dir()):
        yield from clips_in(each, each.name)


def clips_in(folder: Path, set_name: str) -> Iterator[BenchClip]:
    """Files of one name are one clip. ValueError for a picture or a sound alone, and for two of a kind: which one is meant?"""
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")):
        kind = next((kind for kind, suffixes in KINDS.items() if path.suffix.lower() in suffixes), None)
        if kind:
            first = found.setdefault(path.stem, {}).setdefault(kind, path)
            if first != path:
                raise ValueError(f"{folder}: {first.name} and {path.name} are both the {kind} of clip {path.stem}; keep one of them")
    for name, files in found.items():
        yield clip_of(set_name, name, files, str(folder / name))


KINDS = {"picture": PICTURES, "sound": SOUNDS, "video": VIDEOS}


def clip_of(set_name: str, name: str, files: Mapping[str, Path], where: str) -> BenchClip:
    video = files.get("video")
    picture, sound = files.get("picture"), files.get("sound") or video
    if sound is None:
        raise ValueError(f"{where}: has a picture and no sound; put a .wav or the true video of the same name beside it")
    if picture is None and video is None:
        raise ValueError(f"{where}: has a sound and no picture; put a .png or the true video of the same name beside it")
    return BenchClip(set=set_name, name=name, picture=picture, sound=sound, video=video)


def read_manifest(path: Path) -> Iterator[BenchClip]:
    """Rows with `picture`, `sound` and `video` (paths from the manifest's folder), `name` and `set`; two of the five are enough."""
    for number, row in enumerate(rows_of(path), 1):
        where = f"{path}, row {number}"
        if not isinstance(row, dict):
            raise ValueError(f"{where}: {row!r} must have names: picture, sound, video, name, set")
        files = {kind: path.parent / str(row[kind]) for kind in KINDS if row.get(kind)}
        for file in files.values():
            if not file.is_file():
                raise FileNotFoundError(f"{where}: there is no file {file}; paths start at the manifest's folder")
        if not files:
            raise ValueError(f"{where}: names no file; give picture and sound, or video")
        name = str(row.get("name") or next(iter(files.values())).stem)
        yield clip_of(str(row.get("set") or path.parent.resolve().name), name, files, where)


def rows_of(path: Path) -> list:
    """The rows of a JSON list or a CSV file with a header."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is not text in UTF-8; save it as JSON or CSV in UTF-8") from None
    if path.suffix == ".csv":
        return list(csv.DictReader(text.splitlines()))
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: is not JSON ({error}); it must hold a list of rows") from None
    if not isinstance(rows, list):
        raise ValueError(f"{path}: must hold a list of rows, each with picture and sound, or video")
    return rows


def part_of(clips: list[BenchClip], part: str) -> list[BenchClip]:
    """Every Nth clip from the Ith on, of "I/N"; several processes share a benchmark so. ValueError for other words."""
    index, _, count = part.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ValueError(f"part {part!r} must be I/N with I from 0 to N - 1, such as 0/4")
    return clips[int(index) :: int(count)]
