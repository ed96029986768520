"""Finds the video segments to train on: in a folder of talking videos, or from a list of SpeakerVid-5M or TalkVid.

The data sets publish lists, not videos. Videos are found by name in the folder where the user put them, and in its
subfolders.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
PROMPT = "A person is talking."


Box = tuple[float, float, float, float]
"""(left, top, right, bottom), as fractions of width and height or in pixels."""
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
CLIP_NAME = re.compile(r"(?P<video>.+)_\d{3,}_(?P<start>\d+\.\d+)_(?P<end>\d+\.\d+)")
"""Names that TalkVid's downloader gives its clips: VIDEO_001_10.500_25.300."""
SPEAKERVID_NAME = re.compile(r"_\d+x\d+_full_video$")
"""End of SpeakerVid-5M's names for whole videos, after the YouTube id."""
ANNOTATIONS = ("merged_anno", "merge_anno")
"""Folders of SpeakerVid-5M with one JSON file per clip, beside its list."""
SAME_TIME_S = 0.01


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A part of a video file; with `end_s` None, up to the end of the file."""

    key: str
    path: Path
    start_s: float = 0.0
    end_s: float | None = None
    box: Box = WHOLE
    """The part of the picture with the person, as fractions."""
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
    rows, files = read_list(source), find_videos(videos or source.parent)
    first = rows[0] if rows else None
    if isinstance(first, dict) and {"id", "start-time", "end-time"} <= first.keys():
        yield from read_talkvid(rows, files)
    elif isinstance(first, str) or isinstance(first, dict) and {"filename", "video_name"} <= first.keys():
        yield from read_speakervid(rows, files, source.parent)
    else:
        raise ValueError(
            f"{source}: neither a TalkVid list (id, start-time, end-time) nor SpeakerVid-5M clip names; give a folder of videos"
        )


def find_videos(folder: Path) -> dict[str, Path]:
    """The videos in a folder and its subfolders, by name without suffix; of several with one name, the first by path."""
    found: dict[str, Path] = {}
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEOS):
        found.setdefault(path.stem, path)
    return found


def read_folder(folder: Path) -> Iterator[Segment]:
    """Every video file in a folder and its subfolders; a .txt file of the same name is its caption."""
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEOS):
        yield Segment(key=str(path.relative_to(folder)), path=path, caption=caption_of(path), source=folder.name)


def caption_of(path: Path) -> str:
    """The text file beside a video, or the usual prompt."""
    words = path.with_suffix(".txt")
    return words.read_text(encoding="utf-8-sig").strip() if words.is_file() else PROMPT


def read_talkvid(rows: list[dict], files: Mapping[str, Path]) -> Iterator[Segment]:
    """Rows of TalkVid. A finished clip is `<id>.mp4`, or named by its downloader; otherwise the whole video, `<YouTube id>.mp4`, is cut."""
    clips = {(name["video"], float(name["start"])): path for path in files.values() if (name := CLIP_NAME.fullmatch(path.stem))}
    starts: dict[str, list[float]] = {}
    for video, start in clips:
        starts.setdefault(video, []).append(start)
    for row in rows:
        key, start, video = str(row["id"]), float(row["start-time"]), youtube_id(str(row.get("info", {}).get("Video Link", "")))
        made = {"key": key, "caption": str(row.get("description") or PROMPT), "source": "talkvid"}
        near = next((other for other in starts.get(video, ()) if abs(other - start) < SAME_TIME_S), None)
        if (clip := files.get(key) or clips.get((video, near))) is not None:
            yield Segment(path=clip, **made)
        elif video in files:
            yield Segment(path=files[video], start_s=start, end_s=float(row["end-time"]), **made)
        else:
            log.warning("skipped talkvid %s: there is no video %s or %s", key, key, video)


def youtube_id(link: str) -> str:
    """The id in a link: watch?v=ID, youtu.be/ID or shorts/ID."""
    found = re.search(r"(?:v=|youtu\.be/|shorts/)([\w-]{6,})", link)
    return found[1] if found else ""


def read_speakervid(rows: list, files: Mapping[str, Path], folder: Path) -> Iterator[Segment]:
    """Clip names of SpeakerVid-5M, or rows with their annotation. A finished clip is `<name>.mp4`; otherwise the whole video is cut.

    Annotations: the person talks from `start` for `duration` seconds; `bbox` is (left, top, right, bottom) as fractions.
    """
    for row in rows:
        key = Path(row["filename"] if isinstance(row, dict) else row).stem
        if (clip := files.get(key)) is not None:
            yield Segment(key=key, path=clip, caption=caption_of(clip), source="speakervid")
            continue
        try:
            yield speakervid_segment(key, row if isinstance(row, dict) else read_annotation(folder, key), files)
        except (ValueError, KeyError, TypeError, OSError) as error:
            log.warning("skipped speakervid %s: %s", key, error)


def speakervid_segment(key: str, row: dict, files: Mapping[str, Path]) -> Segment:
    """The segment of a whole video that an annotation describes. ValueError if nobody talks, or the video is not there."""
    name, start, box = str(row["video_name"]), float(row["start"]), tuple(map(float, row["bbox"]))
    video = files.get(name) or files.get(SPEAKERVID_NAME.sub("", name))
    if not row.get("is_talking", 1):
        raise ValueError("the person does not talk")
    if video is None:
        raise ValueError(f"there is no video {SPEAKERVID_NAME.sub('', name)}")
    if len(box) != 4 or not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
        raise ValueError(f"bbox={row['bbox']} must be left, top, right and bottom from 0 to 1")
    return Segment(key=key, path=video, start_s=start, end_s=start + float(row["duration"]), box=box, source="speakervid")


def read_annotation(folder: Path, key: str) -> dict:
    """A clip's annotation file. FileNotFoundError if the folder has none."""
    path = next((path for name in ANNOTATIONS if (path := folder / name / f"{key}.json").is_file()), None)
    if path is None:
        raise FileNotFoundError(f"there is no video of that name, and no {ANNOTATIONS[0]}/{key}.json beside the list to cut it from")
    return json.loads(path.read_bytes())


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
