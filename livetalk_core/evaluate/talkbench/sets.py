"""Makes TalkBench-Short and -Long from SpeakerVid-5M or TalkVid, with no speaker both in them and in the training list.

The data sets' clips last 3 to 30 s. So a long clip's sound is a speaker's clips joined in the order of the list, until 5 minutes are full.
"""

from __future__ import annotations

import logging
import random
import wave
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from livetalk_core.evaluate.talkbench.files import write_json
from livetalk_core.media.encode import EXACT, FULL
from livetalk_core.media.video import VideoWriter
from livetalk_core.train.cut import frames_at_25, pixels_of
from livetalk_core.train.manifest import SPEAKERVID_NAME, Segment, find_segments, read_annotation, read_list, youtube_id
from livetalk_core.train.sound import read_sound

log = logging.getLogger(__name__)

RATE = 16000
SHORT_S = (4.4, 9.96)
"""Shortest and longest short clip: SyncNet needs more than 100 frames, and the set is under 10 s."""
LONG_S = 300.0


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A row of a data set's list: whose it is, and how long."""

    key: str
    row: dict | str
    labels: frozenset[str]
    """Person and source video; two entries that share one may show the same speaker."""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Sets:
    """What is made."""

    out: Path
    """Gets train.json, and clips in short/ and long/ of test/."""
    short: int
    long: int
    seed: int = 0


def make_sets(source: Path, videos: Path | None, sets: Sets, tell: Callable[[str], None] = print) -> dict[str, int]:
    """Write both sets and the list of what is left to train on. Returns the counts. ValueError if there are too few speakers."""
    entries = list(read_entries(source))
    segments = {segment.key: segment for segment in find_segments(source, videos)}
    groups = speaker_groups(entries)
    random.Random(sets.seed).shuffle(groups)
    counts, used = {"short": 0, "long": 0}, set()
    makers = {"long": (sets.long, write_long), "short": (sets.short, write_short)}
    for name, (wanted, write) in makers.items():
        for number, group in enumerate(groups):
            if counts[name] == wanted:
                break
            if number not in used and write(sets.out / "test" / name, group, segments):
                used.add(number)
                counts[name] += 1
                tell(f"{name}: {counts[name]} of {wanted}")
        if counts[name] < wanted:
            raise ValueError(f"{source}: only {counts[name]} of {wanted} {name} clips can be made of its speakers' videos; ask for fewer")
    left = [entry.row for number, group in enumerate(groups) if number not in used for entry in group]
    write_json(sets.out / "train.json", left)
    return counts | {"train": len(left)}


def read_entries(source: Path) -> Iterator[Entry]:
    """The rows of a list. One whose speaker cannot be told is logged and left out of both sides."""
    for row in read_list(source):
        try:
            yield entry_of(row, source.parent)
        except (KeyError, TypeError, ValueError, OSError) as error:
            log.warning("left out %s: %s", row if isinstance(row, str) else row.get("id") or row.get("filename"), error)


def entry_of(row: dict | str, folder: Path) -> Entry:
    """TalkVid names the person; SpeakerVid-5M only the source video, which stands for the speaker."""
    if isinstance(row, dict) and "start-time" in row:
        info = row["info"]
        labels = frozenset({f"person {info['Person ID']}", f"video {youtube_id(str(info['Video Link']))}"})
        return Entry(key=str(row["id"]), row=row, labels=labels, seconds=float(row["end-time"]) - float(row["start-time"]))
    key = Path(row["filename"] if isinstance(row, dict) else row).stem
    known = row if isinstance(row, dict) else read_annotation(folder, key)
    video = SPEAKERVID_NAME.sub("", str(known["video_name"]))
    return Entry(key=key, row=row, labels=frozenset({f"video {video}"}), seconds=float(known["duration"]))


def speaker_groups(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Entries that are connected by a person or a video, directly or through others, in one group."""
    root: dict[str, str] = {}

    def find(label: str) -> str:
        while root.setdefault(label, label) != label:
            root[label] = root[root[label]]
            label = root[label]
        return label

    for entry in entries:
        first, *others = sorted(entry.labels)
        for other in others:
            root[find(other)] = find(first)
    groups: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[find(min(entry.labels))].append(entry)
    return list(groups.values())


def write_short(folder: Path, group: Sequence[Entry], segments: dict[str, Segment]) -> bool:
    """One clip of a group: picture, sound and true video. False if none of its videos is there and long enough."""
    for entry in group:
        if entry.key in segments and entry.seconds >= SHORT_S[0]:
            segment = segments[entry.key]
            sound_N = cut_sound(segment, entry, SHORT_S[1])
            if len(sound_N) >= SHORT_S[0] * RATE:
                stem = folder / file_name(entry.key)
                write_picture(segment, stem.with_suffix(".png"))
                write_wav(sound_N, stem.with_suffix(".wav"))
                write_video(segment, len(sound_N) * 25 // RATE, stem)
                return True
    return False


def write_long(folder: Path, group: Sequence[Entry], segments: dict[str, Segment]) -> bool:
    """Picture and joined sound of a group that has 5 minutes. False if it has not."""
    there = [entry for entry in group if entry.key in segments]
    if sum(entry.seconds for entry in there) < LONG_S:
        return False
    pieces, length = [], 0
    for entry in there:
        pieces.append(cut_sound(segments[entry.key], entry, LONG_S))
        length += len(pieces[-1])
        if length >= LONG_S * RATE:
            stem = folder / file_name(there[0].key)
            write_picture(segments[there[0].key], stem.with_suffix(".png"))
            write_wav(np.concatenate(pieces), stem.with_suffix(".wav"))
            return True
    return False


def cut_sound(segment: Segment, entry: Entry, longest_s: float) -> np.ndarray:
    """A segment's own sound, at most so long, in whole frames."""
    seconds = min(entry.seconds, longest_s)
    return read_sound(segment)[: int(seconds * 25) * RATE // 25]


def frames_of(segment: Segment) -> Iterator[np.ndarray]:
    """uint8 RGB frames of the segment's box, sides even."""
    for moment in frames_at_25(segment):
        frame = moment.reformat(format="rgb24", dst_color_range=FULL, interpolation=EXACT).to_ndarray()
        left, top, right, bottom = pixels_of(segment.box, *frame.shape[1::-1])
        yield frame[top : bottom - (bottom - top) % 2, left : right - (right - left) % 2]


def write_picture(segment: Segment, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(next(frames_of(segment))).save(path)


def write_wav(samples_N: np.ndarray, path: Path) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((samples_N * 32767).round().clip(-32768, 32767).astype("<i2").tobytes())


def write_video(segment: Segment, num_frames: int, stem: Path) -> None:
    """The true video as H.264 with the clip's sound."""
    frames = islice(frames_of(segment), num_frames)
    first = next(frames)
    height, width = first.shape[:2]
    with VideoWriter(
        stem.with_suffix(".mp4"), width=width, height=height, fps=25, overwrite=True, audio=stem.with_suffix(".wav")
    ) as writer:
        for frame in (first, *frames):
            writer.write(frame[None])


def file_name(key: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in key)
