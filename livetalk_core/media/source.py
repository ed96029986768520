"""Files that the user names: checked before anything is decoded."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import av
from av.audio.stream import AudioStream
from av.container import InputContainer

from livetalk_core.media.whole import check_chunks, check_whole_mp4

ADDRESSES = ("http:", "https:", "ftp:", "s3:", "file:")
"""How an address begins, as a path has it, which joins two slashes to one."""


def check_file(path: str | Path, kind: str) -> Path:
    """The path, if a file with bytes in it is there. `kind` is its name in the error: "sound file", "picture".

    Raises FileNotFoundError for a missing file, ValueError for a folder or an empty file.
    """
    path = Path(path)
    if path.parts[:1] and path.parts[0] in ADDRESSES and not path.exists():
        address = f"{path.parts[0]}//{'/'.join(path.parts[1:])}"
        raise FileNotFoundError(f"{address}: is an address; download it, and give the path of the {kind} on this machine")
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such {kind}; check the path, seen from {Path.cwd()}")
    if path.is_dir():
        raise ValueError(f"{path}: is a folder, not a {kind}; give the path of one file in it")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: is empty (0 bytes), not a {kind}; copy or export the file again")
    return path


def plain_file(path: str | Path, folder: Path) -> Path:
    """The path; or, of a pipe (a FIFO, a process substitution), a file in `folder` with all that comes out of it: it is read twice."""
    path = Path(path)
    if not path.exists() or path.is_file() or path.is_dir():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f"{path.name}-", dir=folder)
    with path.open("rb") as pipe, os.fdopen(handle, "wb") as file:
        shutil.copyfileobj(pipe, file)
    return Path(name)


def open_media(path: str | Path, kind: str) -> InputContainer:
    """An open container; close it after use. ValueError or FileNotFoundError, as in `check_file`, if it cannot be read."""
    path = check_file(path, kind)
    try:
        container = av.open(str(path.resolve()))
    except av.error.FFmpegError as error:
        check_chunks(path)
        check_whole_mp4(path)
        raise ValueError(f"{path}: cannot be read as a {kind} ({error.strerror}); export it as WAV, MP3, FLAC, M4A or MP4") from error
    for stream in container.streams.audio:
        forget_custom_order(stream)
    return container


def forget_custom_order(stream: AudioStream) -> None:
    """Give a track whose channels are in an order of their own (AIFF and CAF of 7.1) a layout without places.

    PyAV frees such a layout's list of channels once for each object that shows the layout, which ends the process. One object is made
    here, and the track has another layout before it is freed.
    """
    layout = stream.codec_context.layout
    if "(" in layout.name and "+" in layout.name:
        stream.codec_context.layout = f"{layout.nb_channels} channels"
