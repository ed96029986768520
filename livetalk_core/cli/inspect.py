"""livetalk inspect: where does a video come from?"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from livetalk_core.cli.say import say

if TYPE_CHECKING:
    from livetalk_core.provenance.inspection import Inspection


def add_inspect(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("video", type=Path, help="video file")
    sub.add_argument(
        "--frames", type=int, default=50, metavar="N", help="frames in which the watermark is looked for; 0 looks for none (default: 50)"
    )
    sub.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run_inspect(options: argparse.Namespace) -> int:
    """Exit status 1 for credentials that do not hold, or that contradict the watermark."""
    from livetalk_core.provenance.inspection import inspect_video

    found = inspect_video(options.video, options.frames)
    if options.json:
        print(json.dumps(as_json(found), indent=1))
    else:
        for name, text in lines(found):
            say(f"{plain(name):12} {plain(text)}")
    return 0 if found.good else 1


def plain(text: str) -> str:
    """Without what another maker's credentials could do to a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def lines(found: Inspection) -> Iterator[tuple[str, str]]:
    read = found.credentials
    yield "credentials", f"{read.state}{f': {read.reason}' if read.reason else ''}"
    if read.manifest and read.state == "valid":
        yield "signed by", f"{read.signer} ({vouched(found)})"
        made = "a part of the video" if read.composite else "the video"
        source = f", says that a trained model made {made}" if read.by_machine else ""
        yield "made with", f"{read.generator}{source}"
        for name, value in read.details.items():
            yield f"- {name}", text_of(value)
    elif read.manifest:
        yield "claim", f"signed by {read.signer}, made with {read.generator}; do not rely on it"
    yield "watermark", mark_text(found)


def vouched(found: Inspection) -> str:
    if found.own:
        return "this installation"
    return "on c2pa's list of trusted signers" if found.credentials.trusted else "nobody vouches for this name"


def mark_text(found: Inspection) -> str:
    mark = found.mark
    if mark is None:
        return found.mark_note
    if not mark.there:
        return "none found"
    chance = f"scale {mark.scale:.3f}, chance of a false find below {max(mark.false_find, 1e-99):.0e}"
    if not mark.readable:
        return f"there, its id cannot be read; {chance}"
    if found.contradiction:
        return f"id {mark.mark_id:08x}, but the credentials say {found.claimed_id}; {chance}"
    return f"id {mark.mark_id:08x}{', as the credentials say' if found.claimed_id else ''}; {chance}"


def text_of(value: object) -> str:
    """A list's or a dictionary's values in one line."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {each}" for name, each in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else " ".join(str(value).split())


def as_json(found: Inspection) -> dict[str, object]:
    read, mark = found.credentials, found.mark
    told: dict[str, object] = {"state": read.state, "reason": read.reason}
    if read.manifest:
        told |= {"signer": read.signer, "own": found.own, "trusted": read.trusted, "generator": read.generator}
        told |= {"by_machine": read.by_machine, "composite": read.composite, "details": read.details}
    seen: dict[str, object] = {"there": bool(mark and mark.there), "note": found.mark_note}
    if mark is not None and mark.there:
        bits = f"{mark.mark_id:032b}" if mark.readable else None
        seen |= {"id": f"{mark.mark_id:08x}" if mark.readable else None, "bits": bits, "scale": mark.scale}
        seen |= {
            "false_find": mark.false_find,
            "wrong_id": mark.wrong_id,
            "as_credentials": None if not found.claimed_id else not found.contradiction,
        }
    return {"credentials": told, "watermark": seen, "good": found.good}
