"""What a file is that holds no tensors, or holds them under a wrong ending, by how it begins."""

from __future__ import annotations

import zipfile
from pathlib import Path

SAFETENSORS = (".safetensors", ".sft")
BEGINNING = 512
TEXT = bytes(range(32, 127)) + b"\t\n\r"


def is_safetensors(path: Path) -> bool:
    """Whether a file has the ending of a safetensors file."""
    return path.suffix.lower() in SAFETENSORS


def is_gguf(path: Path) -> bool:
    """Whether a file has the ending of a GGUF file."""
    return path.suffix.lower() == ".gguf"


def describe_other(path: Path) -> str | None:
    """What a file is, with the way out, after its name; None if its beginning does not tell."""
    with open(path, "rb") as file:
        start = file.read(BEGINNING)
    text = start.lstrip().lower()
    if not start:
        return "is empty; download it again"
    if text.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS and not the file itself; fetch that with git lfs pull"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page and no checkpoint; download the file itself"
    if start.startswith(b"GGUF"):
        return None if is_gguf(path) else "is a GGUF file with another ending; rename it to .gguf"
    if zipfile.is_zipfile(path):
        return describe_zip(path)
    if len(start) > 8 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= path.stat().st_size:
        return None if is_safetensors(path) else "is a safetensors file with another ending; rename it to .safetensors"
    if text.startswith(b"{"):
        return "is a JSON file and holds no tensors; choose the checkpoint beside it"
    return "is a text file and no checkpoint; choose another file" if not start.strip(TEXT) else None


def describe_zip(path: Path) -> str | None:
    with zipfile.ZipFile(path) as archive:
        if not any(name.endswith("data.pkl") for name in archive.namelist()):
            return "is a ZIP archive and no checkpoint; unpack it first"
    return "is a file of torch with another ending; rename it to .pth" if is_safetensors(path) or is_gguf(path) else None
