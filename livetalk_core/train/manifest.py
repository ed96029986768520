"""Finds the video segments to train on: in a folder of talking videos, or from a list of SpeakerVid-5M or TalkVid.

The data sets publish lists, not videos. Videos are found by the clip's name in the folder where the user put them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
PROMPT = "A person is talking."


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A part of a video file; with `end_s` None, up to the end of the file."""

    key: str
    path: Path
    start_s: float = 0.0
    end_s: float | None = None
    caption: str = PROMPT
    source: str


def find_segments(source: Path, videos: Path | None = None) -> Iterator[Segment]:
    """The segments of a folder of videos, or of a data set's JSON list and the folder with its clips.

    FileNotFoundError if `source` does not exist, ValueError for a list of unknown form.
    """
    if source.is_dir():
        yield from read_folder(source)
        return
    if not source.is_file():
        raise FileNotFoundError(f"{source}: no such folder of videos or JSON list; check the path")
    folder = videos or source.parent
    rows = read_list(source)
    if rows and isinstance(rows[0], dict) and {"id", "start-time", "end-time"} <= rows[0].keys():
        yield from read_talkvid(rows, folder)
    elif rows and isinstance(rows[0], str):
        yield from read_speakervid(rows, folder)
    else:
        raise ValueError(
            f"{source}: neither a TalkVid list (id, start-time, end-time) nor SpeakerVid-5M clip names; give a folder of videos"
        )


def read_folder(folder: Path) -> Iterator[Segment]:
    """Every video file in a folder and its subfolders; a .txt file of the same name is its caption."""
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEOS):
        words = path.with_suffix(".txt")
        caption = words.read_text(encoding="utf-8-sig").strip() if words.is_file() else PROMPT
        yield Segment(key=str(path.relative_to(folder)), path=path, caption=caption, source=folder.name)


def read_talkvid(rows: list[dict], folder: Path) -> Iterator[Segment]:
    """Rows of TalkVid: `<id>.mp4` is a finished clip; without it the whole video, named by its YouTube id, is cut here."""
    for row in rows:
        key, link = str(row["id"]), str(row.get("info", {}).get("Video Link", ""))
        caption = str(row.get("description") or PROMPT)
        whole = find_video(folder, link.rpartition("=")[2]) if link else None
        if (cut := find_video(folder, key)) is not None:
            yield Segment(key=key, path=cut, caption=caption, source="talkvid")
        elif whole is not None:
            yield Segment(
                key=key, path=whole, start_s=float(row["start-time"]), end_s=float(row["end-time"]), caption=caption, source="talkvid"
            )
        else:
            log.warning("talkvid %s: no video of that name in %s; skipped", key, folder)


def read_speakervid(names: list[str], folder: Path) -> Iterator[Segment]:
    """Clip names of SpeakerVid-5M: `<name>.mp4` is a clip that is already cut; `<name>.txt` beside it is the caption."""
    for name in names:
        path = find_video(folder, Path(name).stem)
        if path is None:
            log.warning("speakervid %s: no video of that name in %s; skipped", name, folder)
            continue
        words = path.with_suffix(".txt")
        caption = words.read_text(encoding="utf-8-sig").strip() if words.is_file() else PROMPT
        yield Segment(key=Path(name).stem, path=path, caption=caption, source="speakervid")


def read_list(path: Path) -> list:
    """The rows of a JSON list, or all clips of a JSON object {video: [clips]}."""
    try:
        value = json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}); download it again") from None
    if isinstance(value, dict):
        return [clip for clips in value.values() for clip in (clips if isinstance(clips, list) else [clips])]
    if not isinstance(value, list):
        raise ValueError(f"{path} must hold a JSON list; download it again")
    return value


def find_video(folder: Path, name: str) -> Path | None:
    return next((folder / f"{name}{suffix}" for suffix in VIDEOS if (folder / f"{name}{suffix}").is_file()), None)
