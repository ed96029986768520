"""Models a user can choose: the shipped one, folders in models/livetalk, single files in ComfyUI's own folders."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from . import host

if TYPE_CHECKING:
    from livetalk_core.checkpoints import ModelFiles

SHIPPED = "tiny"
"""The preset whose weights come with the pack; always first in the list, and the default."""

TALKERS = re.compile(r"livetalk|flashtalk|infinitetalk|multitalk", re.IGNORECASE)
"""Files in diffusion_models that are talking models, by name."""
PARTS = {
    "vae": ("vae", re.compile(r"wan.?2[._]1.?vae", re.IGNORECASE)),
    "text": ("text_encoders", re.compile(r"umt5.xxl", re.IGNORECASE)),
    "image": ("clip_vision", re.compile(r"clip.vision.h|clip.*xlm.roberta", re.IGNORECASE)),
    "audio": ("audio_encoders", re.compile(r"wav2vec", re.IGNORECASE)),
}
"""Where ComfyUI keeps the other parts, and how their files are called."""


def model_names() -> list[str]:
    """Choices for the model input."""
    own = [f"{host.MODEL_FOLDER}/{folder.name}" for folder in host.own_model_folders()]
    single = [f"diffusion_models/{name}" for name in host.model_files("diffusion_models") if TALKERS.search(name)]
    return [SHIPPED, *dict.fromkeys(own), *single]


def find_model(name: str) -> str | Path | ModelFiles:
    """What load_engine takes for a choice. ValueError for a name that is not, or no longer, among them."""
    kind, _, rest = name.partition("/")
    if name == SHIPPED:
        return name
    if kind == "diffusion_models" and rest in host.model_files(kind):
        return collect_parts(host.model_path(kind, rest))
    for folder in host.own_model_folders():
        if name == f"{host.MODEL_FOLDER}/{folder.name}":
            return folder
    raise ValueError(f"model {name!r} is not there; choose one of {', '.join(model_names())}")


def collect_parts(dit: Path) -> ModelFiles:
    """A single DiT file and the other parts: those in a folder of models/livetalk, else in ComfyUI's folders."""
    from livetalk_core.checkpoints import ModelFiles, find_files

    found = {part: first_match(*place) for part, place in PARTS.items()}
    for folder in host.own_model_folders():
        beside = find_files(folder)
        found |= {part: path for part in ("vae", "text", "image", "audio", "tokenizer") if (path := vars(beside)[part])}
    return ModelFiles(dit=(dit,)).override(**found)


def first_match(kind: str, pattern: re.Pattern) -> Path | None:
    name = next((name for name in host.model_files(kind) if pattern.search(name)), None)
    return name and host.model_path(kind, name)


def size_on_disk(source: str | Path | ModelFiles) -> int:
    """Bytes of the files that an engine of this source would load; 0 for a preset, which has none."""
    from livetalk_core.checkpoints import ModelFiles, find_files

    if isinstance(source, str):
        return 0
    files = source if isinstance(source, ModelFiles) else find_files(source)
    return sum(path.stat().st_size for path in (*files.dit, files.vae, files.audio) if path)
