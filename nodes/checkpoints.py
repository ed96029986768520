"""Files in ComfyUI's model folders, judged by what they hold and not by their names."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from . import host

if TYPE_CHECKING:
    from livetalk_core.engine.sniff import FileKind

log = logging.getLogger(__name__)

DIT_FOLDER = "diffusion_models"
PATCH_FOLDERS = (DIT_FOLDER, "model_patches")
PARTS = {"vae": "vae", "text": "text_encoders", "image": "clip_vision", "audio": "audio_encoders"}
"""ComfyUI's folder of each other part of a model."""
KNOWN_FOLDERS = (*PATCH_FOLDERS, *PARTS.values(), "loras")
CHINESE = "chinese"
"""In the name of the wav2vec2 that the models were trained with; it has the tensors of all others."""


def kind_of(folder: str, name: str) -> FileKind | None:
    """What a file is; None if it is damaged, of another form, or gone."""
    from livetalk_core.engine.sniff import what_is

    try:
        return what_is(host.model_path(folder, name))
    except (OSError, ValueError):
        return None


def names_of(folder: str, *parts: str) -> list[str]:
    """FOLDER/NAME of all files in a folder of ComfyUI that are one of these parts."""
    return [f"{folder}/{name}" for name in host.model_files(folder) if (kind := kind_of(folder, name)) and kind.part in parts]


def best_file(part: str, sizes: Mapping[str, int]) -> Path | None:
    """The file of a part that fits a DiT of these sizes: a preferred one, a Chinese wav2vec2 before others, then by name."""
    folder, found = PARTS[part], []
    for name in host.model_files(folder):
        kind = kind_of(folder, name)
        if kind is not None and kind.part == part and kind.sizes.get(part) == sizes.get(part, kind.sizes.get(part)):
            found.append((part == "audio" and CHINESE not in name.lower(), not kind.preferred, name))
    return host.model_path(folder, min(found)[2]) if found else None


def refuse_other(folder: str, name: str, *parts: str) -> None:
    """ValueError, in one line, for a file that is known to be none of these parts."""
    from livetalk_core.engine.sniff import check_part

    path = host.model_path(folder, name)
    if path.is_file():  # one that is gone is told when it is loaded
        check_part(path, *parts)


def misplaced_files() -> list[str]:
    """One line for each file that LiveTalk could use if it lay in another folder."""
    found = []
    for folder in KNOWN_FOLDERS:
        for name in host.model_files(folder) if folder != "loras" else ():
            kind = kind_of(folder, name)
            if kind is not None and folder not in folders_of(kind.part):
                found.append(place_line(folder, name, kind))
    return found


def place_line(folder: str, name: str, kind: FileKind) -> str:
    return f"models/{folder}/{name} is {kind.text}; it belongs into models/{folders_of(kind.part)[0]}"


def folders_of(part: str) -> tuple[str, ...]:
    """The folders in which a part is looked for; KNOWN_FOLDERS, that is anywhere, for what is none."""
    if part in PARTS:
        return (PARTS[part],)
    return {"dit": (DIT_FOLDER,), "base": (DIT_FOLDER,), "patch": PATCH_FOLDERS, "lora": ("loras",)}.get(part, KNOWN_FOLDERS)


@lru_cache(maxsize=256)
def tell_once(line: str) -> None:
    log.warning("LiveTalk: %s", line)
