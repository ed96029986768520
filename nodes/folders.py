"""Models a user can choose: nano, folders in models/livetalk, and single files in ComfyUI's own folders."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

from . import host

if TYPE_CHECKING:
    from livetalk_core.engine.files import ModelFiles

log = logging.getLogger(__name__)

SHIPPED = "nano"
"""The model whose weights come with the pack: first in the list, and the default."""
NO_PATCH = "none"

TALKERS = re.compile(r"livetalk|flashtalk|infinitetalk|multitalk", re.IGNORECASE)
"""Names in diffusion_models of models that talk."""
BASES = re.compile(r"wan.?2[._]?1.*i2v", re.IGNORECASE)
"""Names in diffusion_models of base models, which need an audio patch to talk."""
PATCHES = re.compile(r"infinitetalk|multitalk", re.IGNORECASE)
"""Names of such patches."""
PATCH_FOLDERS = ("diffusion_models", "model_patches")
PARTS = {
    "vae": ("vae", re.compile(r"wan.?2[._]1.?vae", re.IGNORECASE)),
    "text": ("text_encoders", re.compile(r"umt5.xxl", re.IGNORECASE)),
    "image": ("clip_vision", re.compile(r"clip.vision.h|clip.*xlm.roberta", re.IGNORECASE)),
    "audio": ("audio_encoders", re.compile(r"wav2vec", re.IGNORECASE)),
}
"""ComfyUI's folder of each other part of a model, and the names of its files there."""
FOLDERS = {"audio_encoder": "audio_encoders", "decoder": "vae_approx", "image": "clip_vision", "text": "text_encoders", "vae": "vae"}
"""ComfyUI's folder for each engine option that takes a file."""


def model_names() -> list[str]:
    """Choices for the model input: models that talk without a patch, judged by their names."""
    own = [f"{host.MODEL_FOLDER}/{folder.name}" for folder, files in complete_folders() if files.dit]
    return [SHIPPED, *dict.fromkeys(own), *names_like(TALKERS, "diffusion_models")]


def complete_folders() -> list[tuple[Path, ModelFiles]]:
    """Folders in models/livetalk and their files. A half-downloaded one, with a shard missing or a broken file, is left out."""
    from livetalk_core.engine.files import find_files

    found = []
    for folder in host.own_model_folders():
        try:
            found.append((folder, find_files(folder)))
        except (OSError, ValueError) as error:
            log.warning("LiveTalk: models/%s/%s is left out: %s", host.MODEL_FOLDER, folder.name, error)
    return found


def base_names() -> list[str]:
    """Further choices where the node also has an audio_patch input."""
    return [name for name in names_like(BASES, "diffusion_models") if not TALKERS.search(name)]


def patch_names() -> list[str]:
    """Choices for the audio_patch input."""
    return [NO_PATCH, *(name for kind in PATCH_FOLDERS for name in names_like(PATCHES, kind))]


def names_like(pattern: re.Pattern, kind: str) -> list[str]:
    return [f"{kind}/{name}" for name in host.model_files(kind) if pattern.search(name)]


def find_model(name: str, audio_patch: str = NO_PATCH) -> str | Path | ModelFiles:
    """The source of EngineOptions for a chosen model and patch. ValueError for a name that is not on the lists now."""
    from livetalk_core.engine.files import ModelFiles, find_files

    source = find_source(name)
    if audio_patch == NO_PATCH:
        return source
    if audio_patch not in patch_names():
        raise ValueError(f"audio_patch {audio_patch!r} was not found; choose one of {', '.join(patch_names())}")
    if name == SHIPPED:
        raise ValueError(f"audio_patch {audio_patch!r} is for a Wan 2.1 I2V base, not for {name}; choose {NO_PATCH}, or another model")
    files = source if isinstance(source, ModelFiles) else find_files(source)
    kind, _, rest = audio_patch.partition("/")
    return files.override(dit=(*files.dit, host.model_path(kind, rest)))


def find_source(name: str) -> str | Path | ModelFiles:
    """The source of EngineOptions for a model without a patch."""
    kind, _, rest = name.partition("/")
    if name == SHIPPED:
        return name
    if kind == "diffusion_models" and rest in host.model_files(kind):
        return collect_parts(host.model_path(kind, rest))
    for folder in host.own_model_folders():
        if name == f"{host.MODEL_FOLDER}/{folder.name}":
            return folder
    raise ValueError(f"model {name!r} was not found; choose one of {', '.join((*model_names(), *base_names()))}")


def collect_parts(dit: Path) -> ModelFiles:
    """A single DiT file and its other parts, from a folder in models/livetalk, else from ComfyUI's folders.

    Folders of small models, which name a preset, are skipped: their VAE is of another kind.
    """
    from livetalk_core.engine.files import ModelFiles

    found = {part: first_match(*place) for part, place in PARTS.items()}
    for _, beside in complete_folders():
        if beside.preset is None:
            found |= {part: path for part in ("vae", "text", "image", "audio", "tokenizer") if (path := vars(beside)[part])}
    return ModelFiles(dit=(dit,)).override(**found)


def check_parts(name: str, source: str | Path | ModelFiles) -> None:
    """FileNotFoundError naming the parts of a model that were not found, and ComfyUI's folders to put them into."""
    from livetalk_core.engine.files import DOWNLOADS, find_files

    if isinstance(source, str):
        return
    files = find_files(source) if isinstance(source, Path) else source
    if missing := files.missing():
        places = {part: f"models/{kind}" for part, (kind, _) in PARTS.items()} if not files.preset else {}
        own = f"models/{host.MODEL_FOLDER}/{Path(name).name}" if isinstance(source, Path) else f"a folder in models/{host.MODEL_FOLDER}"
        ways = "; ".join(f"{part}: put it into {places.get(part, own)} ({DOWNLOADS[part]})" for part in missing)
        raise FileNotFoundError(f"model {name} is not complete, missing {ways}")


def describe_parts(source: str | Path | ModelFiles) -> str:
    """The files of a model's other parts, one line: what was found, or that it is missing."""
    from livetalk_core.engine.files import find_files

    if isinstance(source, str):
        return f"{source}: all parts come with the pack"
    files = find_files(source) if isinstance(source, Path) else source
    if files.preset:
        return f"{files.preset}: all parts are in its folder"
    found = {"VAE": files.vae, "text": files.text, "CLIP": files.image, "audio": files.audio}
    return ", ".join(f"{part}: {path.name if path else 'missing'}" for part, path in found.items())


def first_match(kind: str, pattern: re.Pattern) -> Path | None:
    name = next((name for name in host.model_files(kind) if pattern.search(name)), None)
    return name and host.model_path(kind, name)


def file_names(option: str) -> list[str]:
    """Choices of a single file."""
    return host.model_files(FOLDERS[option])


def find_file(option: str, name: str) -> Path:
    """The path of a chosen file. ValueError for a name that is not in the folder now."""
    if name not in file_names(option):
        raise ValueError(f"{name!r} is not in models/{FOLDERS[option]}; choose another file, or none")
    return host.model_path(FOLDERS[option], name)


def size_on_disk(source: str | Path | ModelFiles) -> int:
    """Bytes of the files that an engine would load from this source."""
    from livetalk_core.engine import files as checkpoints

    if isinstance(source, str):
        source = checkpoints.SHIPPED / source
    files = source if isinstance(source, checkpoints.ModelFiles) else checkpoints.find_files(source)
    return sum(path.stat().st_size for path in (*files.dit, files.vae, files.audio) if path)
