"""Models a user can choose: nano, folders in models/livetalk, and single files in ComfyUI's own folders."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from . import checkpoints, host
from .checkpoints import DIT_FOLDER, PARTS, PATCH_FOLDERS

if TYPE_CHECKING:
    from livetalk_core.engine.files import ModelFiles

log = logging.getLogger(__name__)

SHIPPED = "nano"
"""The model whose weights come with the pack: first in the list, and the default."""
NO_PATCH = "none"
AUTO = "auto"
"""As a model: the set of files that is found, see community.py."""
FOLDERS = {"audio_encoder": "audio_encoders", "decoder": "vae_approx", "image": "clip_vision", "text": "text_encoders", "vae": "vae"}
"""ComfyUI's folder for each engine option that takes a file."""


def model_names() -> list[str]:
    """Choices for the model input: models that talk without a patch, judged by what their files hold."""
    for line in checkpoints.misplaced_files():
        checkpoints.tell_once(line)
    own = [f"{host.MODEL_FOLDER}/{folder.name}" for folder, files in complete_folders() if files.dit]
    return [SHIPPED, *dict.fromkeys(own), *checkpoints.names_of(DIT_FOLDER, "dit")]


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
    return [*checkpoints.names_of(DIT_FOLDER, "base"), AUTO]


def patch_names() -> list[str]:
    """Choices for the audio_patch input."""
    return [NO_PATCH, *(name for kind in PATCH_FOLDERS for name in checkpoints.names_of(kind, "patch"))]


def refusal(model: str | None, audio_patch: str | None = None, *, alone: bool = False) -> str | None:
    """What is wrong with a chosen model and patch, in one line that says what the file is; None if nothing is.

    `alone`: the node has no audio_patch input. None as a choice: it comes over a wire.
    """
    parts = ("dit",) if alone else ("dit", "base")
    for chosen, known, wanted in (
        (model, [*model_names(), *([] if alone else base_names())], parts),
        (audio_patch, patch_names(), ("patch",)),
    ):
        if chosen is None or chosen in known:
            continue
        folder, _, name = chosen.partition("/")
        if name and folder in checkpoints.KNOWN_FOLDERS and name in host.model_files(folder):
            try:
                checkpoints.refuse_other(folder, name, *wanted)
            except (OSError, ValueError) as error:
                return str(error)
        return f"{'audio_patch' if wanted == ('patch',) else 'model'} {chosen!r} was not found; choose one of {', '.join(known)}"
    return None


def find_model(name: str, audio_patch: str = NO_PATCH) -> str | Path | ModelFiles:
    """The source of EngineOptions for a chosen model and patch. ValueError for a name that is not on the lists now."""
    from livetalk_core.engine.files import ModelFiles, find_files

    source = find_source(name)
    if audio_patch == NO_PATCH:
        return source
    if told := refusal(None, audio_patch):
        raise ValueError(told)
    if name == SHIPPED:
        raise ValueError(f"audio_patch {audio_patch!r} is for a Wan 2.1 I2V base, not for {name}; choose {NO_PATCH}, or another model")
    files = source if isinstance(source, ModelFiles) else find_files(source)
    patch = host.model_path(*audio_patch.split("/", 1))
    parts = {} if isinstance(source, Path) else other_parts((*files.dit, patch))
    return files.override(dit=(*files.dit, patch), **parts)


def find_source(name: str) -> str | Path | ModelFiles:
    """The source of EngineOptions for a model without a patch."""
    kind, _, rest = name.partition("/")
    if name == SHIPPED:
        return name
    if name in (*checkpoints.names_of(DIT_FOLDER, "dit", "base"),):
        return collect_parts(host.model_path(kind, rest))
    for folder in host.own_model_folders():
        if name == f"{host.MODEL_FOLDER}/{folder.name}":
            return folder
    raise ValueError(refusal(name) or f"model {name!r} has no folder in models/{host.MODEL_FOLDER}")


def collect_parts(*dit: Path) -> ModelFiles:
    """A DiT's files and its other parts, from a folder in models/livetalk, else from ComfyUI's folders."""
    from livetalk_core.engine.files import ModelFiles

    return ModelFiles(dit=dit).override(**other_parts(dit))


def other_parts(dit: tuple[Path, ...]) -> dict[str, Path]:
    """The parts of other folders that fit a DiT.

    Folders of small models, which name a preset, are skipped: their VAE is of another kind.
    """
    from livetalk_core.engine.sniff import what_is

    sizes = {part: size for path in dit for part, size in what_is(path).sizes.items()}
    found = {part: path for part in PARTS if (path := checkpoints.best_file(part, sizes))}
    for _, beside in complete_folders():
        if beside.preset is None:
            found |= {part: path for part in ("vae", "text", "image", "audio", "tokenizer") if (path := vars(beside)[part])}
    return found


def check_parts(name: str, source: str | Path | ModelFiles) -> None:
    """FileNotFoundError naming the parts of a model that were not found, and ComfyUI's folders to put them into."""
    from livetalk_core.engine.files import DOWNLOADS, find_files

    if isinstance(source, str):
        return
    files = find_files(source) if isinstance(source, Path) else source
    if missing := files.missing():
        places = {part: f"models/{kind}" for part, kind in PARTS.items()} if not files.preset else {}
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
    parts = ", ".join(f"{part}: {path.name if path else 'missing'}" for part, path in found.items())
    return f"DiT: {' + '.join(path.name for path in files.dit)}, {parts}"


def file_names(option: str) -> list[str]:
    """Choices of a single file."""
    return host.model_files(FOLDERS[option])


def find_file(option: str, name: str) -> Path:
    """The path of a chosen file. ValueError for a name that is not in the folder now, and for a file of another kind."""
    if name not in file_names(option):
        raise ValueError(f"{name!r} is not in models/{FOLDERS[option]}; choose another file, or none")
    if option != "decoder":  # a decoder for drafts may be a .pth file, which says nothing of itself before it is read
        checkpoints.refuse_other(FOLDERS[option], name, {"audio_encoder": "audio"}.get(option, option))
    return host.model_path(FOLDERS[option], name)


def size_on_disk(source: str | Path | ModelFiles) -> int:
    """Bytes of the files that an engine would load from this source."""
    from livetalk_core.engine import files as checkpoints

    if isinstance(source, str):
        source = checkpoints.SHIPPED / source
    files = source if isinstance(source, checkpoints.ModelFiles) else checkpoints.find_files(source)
    return sum(path.stat().st_size for path in files.kept)
