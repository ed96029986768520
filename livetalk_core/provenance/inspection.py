"""What is known of a video file: its Content Credentials and whether they hold, and its watermark."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import av

from livetalk_core.media.video import open_video, read_frames
from livetalk_core.provenance.credentials import CredentialsMissing, Read, read_credentials
from livetalk_core.provenance.detect import Found, find_mark
from livetalk_core.provenance.manifest import id_text

if TYPE_CHECKING:
    import numpy as np

FRAMES, EVERY = 50, 5
"""Frames in which the watermark is looked for: at most one in five, so of the first ten seconds; all of them in a short video."""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What was found in a file."""

    credentials: Read
    mark: Found | None
    mark_note: str = ""
    """Why no watermark was looked for, or what is amiss with it."""
    own: bool = False
    """Whether this installation has signed the file."""

    @property
    def good(self) -> bool:
        """Whether nothing speaks against the file; one without credentials and watermark is good too."""
        return self.credentials.state in ("valid", "none") and not self.contradiction

    @property
    def claimed_id(self) -> str | None:
        """The watermark's id by credentials that hold."""
        mark = self.credentials.details.get("watermark") if self.credentials.state == "valid" else None
        return str(mark.get("id")) if isinstance(mark, dict) else None

    @property
    def contradiction(self) -> bool:
        """Whether a readable watermark has another id than the credentials say."""
        return bool(self.claimed_id and self.mark and self.mark.readable and id_text(self.mark.mark_id) != self.claimed_id)


def inspect_video(video: Path, frames: int = FRAMES) -> Inspection:
    """Look at a file. FileNotFoundError or ValueError, in one line, for one that is no video at all; a damaged one is inspected.

    Credentials are read by c2pa; its absence is said in their reason.
    """
    if frames < 0:
        raise ValueError(f"frames={frames} must be 0 (look for no watermark) or more")
    credentials, own = credentials_of(video)
    try:
        with open_video(video) as container:
            step = max(1, min(EVERY, container.streams.video[0].frames // max(frames, 1)))
    except ValueError as error:
        if credentials.state == "none":
            raise
        return Inspection(credentials=credentials, own=own, mark=None, mark_note=f"not looked for: {error}")
    if frames == 0:
        return Inspection(credentials=credentials, own=own, mark=None, mark_note="not looked for")
    shown = list(some_frames(video, frames, step))
    if not shown:
        return Inspection(credentials=credentials, own=own, mark=None, mark_note="not looked for: no frame can be decoded")
    return Inspection(credentials=credentials, own=own, mark=find_mark(shown))


def credentials_of(video: Path) -> tuple[Read, bool]:
    """The file's credentials, and whether this installation signed them."""
    if not video.is_file():
        return Read(state="none"), False
    logging.getLogger("c2pa").setLevel(logging.ERROR)
    try:
        read = read_credentials(video)
        certificate = own_certificate() if read.state == "valid" and not read.trusted else b""
        own = bool(certificate) and read_credentials(video, certificate).trusted
    except CredentialsMissing as error:
        return Read(state="unknown", reason=str(error)), False
    return read, own


def own_certificate() -> bytes:
    """This installation's certificate, PEM; empty if none has been made or it cannot be read."""
    try:
        from livetalk_core.provenance.certificate import own_file, read_own

        return read_own(own_file()).certificate
    except (ImportError, OSError, ValueError):
        return b""


def some_frames(video: Path, count: int, step: int) -> Iterator[np.ndarray]:
    """Up to `count` frames of one size, each `step` after the last. A file that is cut gives those before the cut."""
    try:
        with closing(read_frames(video)) as frames:
            first = None
            for frame_HWC in islice(frames, 0, count * step, step):
                first = frame_HWC.shape if first is None else first
                if frame_HWC.shape == first:
                    yield frame_HWC
    except (ValueError, av.error.FFmpegError):
        return
