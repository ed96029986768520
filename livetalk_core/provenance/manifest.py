"""What a video's Content Credentials say: made by a machine, with what, when, and from which picture and sound."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from livetalk_core import __version__

PROJECT = "LiveTalk"
BY_MACHINE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's word for media that a trained model has made."""
PARTLY_BY_MACHINE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""IPTC's word for media of which a trained model has made a part."""
OURS = "livetalk.generation"
"""Label of the assertion with what only this project says."""
MARK_METHOD = "livetalk-watermark-1"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a video was made with. Hashes are SHA-256, hexadecimal; the picture and the sound themselves are not kept."""

    model: str
    picture: str = ""
    sound: tuple[str, ...] = ()
    """One per speaker."""
    hashes_of: str = "files"
    """What the hashes are taken of."""
    prompt: str | None = None
    mark_id: int | None = None
    """The watermark's id, if there is one in the frames."""
    composite: bool = False
    """Whether the model made only a part of each frame, and the rest is the picture's own."""


def manifest_of(origin: Origin, title: str, when: datetime.datetime | None = None) -> dict[str, object]:
    """A C2PA manifest definition, as c2pa's Builder takes it."""
    time = (when or datetime.datetime.now(datetime.timezone.utc)).strftime("%Y-%m-%dT%H:%M:%SZ")
    agent = {"name": PROJECT, "version": __version__}
    kind = PARTLY_BY_MACHINE if origin.composite else BY_MACHINE
    created = {"action": "c2pa.created", "when": time, "digitalSourceType": kind, "softwareAgent": agent}
    return {
        "claim_generator_info": [agent],
        "title": title,
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": [created]}},
            {"label": OURS, "data": {"time": time, **details_of(origin)}},
        ],
    }


def details_of(origin: Origin) -> dict[str, object]:
    details: dict[str, object] = {"model": origin.model, "hashes": f"SHA-256 of {origin.hashes_of}"}
    details |= {"picture": origin.picture} if origin.picture else {}
    details |= {"sound": list(origin.sound)} if origin.sound else {}
    if origin.prompt is not None:
        details["prompt"] = origin.prompt
    if origin.mark_id is not None:
        details["watermark"] = {"method": MARK_METHOD, "id": id_text(origin.mark_id)}
    return details


def id_text(mark_id: int) -> str:
    """A watermark's id as it is shown: eight hexadecimal digits."""
    return f"{mark_id:08x}"


def hash_of(source: Path | Iterable[bytes]) -> str:
    """SHA-256 of a file, or of pieces of bytes, in hexadecimal."""
    digest = hashlib.sha256()
    if isinstance(source, Path):
        with source.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    else:
        for block in source:
            digest.update(block)
    return digest.hexdigest()
