"""ComfyUI's services: interrupt, progress, folders, web server."""

from __future__ import annotations

import logging
import os
import shutil
import uuid
import weakref
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from .types import ComfyAPISync

if TYPE_CHECKING:
    from torch import Tensor

    from livetalk_core.media.video import Seal

log = logging.getLogger(__name__)

MODEL_FOLDER = "livetalk"
TEXT_EVENT = "livetalk.text"
"""Event that tells every page what a running node has to say."""
WITH_LINE = ("LiveTalkGenerate", "LiveTalkLivePreview", "LiveTalkModelLoader", "LiveTalkAudioEmbedding")
"""Nodes that show it in a line of their own. ComfyUI's text box would make them grow over what is below them."""
GGUF_KINDS = ("diffusion_models", "model_patches", "text_encoders")
"""Folders of ComfyUI in which GGUF files are looked for."""


def check_interrupt() -> None:
    """Raises ComfyUI's own exception after the user has pressed stop."""
    from comfy.model_management import throw_exception_if_processing_interrupted

    throw_exception_if_processing_interrupted()


def show_progress(done: float, total: int, frame_HWC: Tensor | None = None) -> None:
    """Set the running node's progress to `done` of `total`; a uint8 frame [H, W, 3] becomes its preview picture."""
    from PIL import Image

    picture = None if frame_HWC is None else Image.fromarray(frame_HWC.numpy())
    ComfyAPISync().execution.set_progress(done, total, preview_image=picture, ignore_size_limit=True)


def show_text(text: str) -> None:
    """Text on the running node, if there is one and a server: in a line of its own, or in ComfyUI's text box below it."""
    from comfy_execution.utils import get_executing_context

    context, server = get_executing_context(), prompt_server()
    if context is None or server is None:
        return
    _, _, nodes, extra, *_ = running_prompt() or (0, "", {}, {})
    if nodes.get(context.node_id, {}).get("class_type") in WITH_LINE:
        workflow = extra.get("extra_pnginfo", {}).get("workflow", {}).get("id", "")
        server.send_sync(TEXT_EVENT, {"node": context.node_id, "workflow": workflow, "text": text})
    else:
        server.send_progress_text(text, context.node_id)


def tell(note: str) -> None:
    """A note for the user: on the running node, and in the log."""
    log.info("LiveTalk: %s", note)
    show_text(note)


def free_memory() -> int:
    """Bytes of free main memory, as ComfyUI counts it."""
    import comfy.model_management as mm
    import torch

    return mm.get_free_memory(torch.device("cpu"))


def is_read(dynprompt, node_id: str, output: int) -> bool:
    """Whether a node that this run needs is connected to an output. Nodes outside a partial run do not count."""
    nodes = dynprompt.get_original_prompt()
    needed, found = set(), [id for id in (outputs_of_run() or nodes) if id in nodes]
    while found:
        if (id := found.pop()) not in needed:
            needed.add(id)
            found += [value[0] for value in nodes[id]["inputs"].values() if isinstance(value, list) and value and value[0] in nodes]
    return any([node_id, output] in nodes[id]["inputs"].values() for id in needed)


def outputs_of_run() -> list[str] | None:
    """The output nodes of the prompt that runs now; None if that is not known."""
    running = running_prompt()
    return running and running[4]


def running_prompt() -> tuple | None:
    """What ComfyUI's queue holds of the prompt that runs now: number, id, nodes by id, extra data, output nodes."""
    queue = getattr(prompt_server(), "prompt_queue", None)
    running = queue.get_current_queue_volatile()[0] if queue else []
    return running[0] if running else None


def temp_path(suffix: str) -> Path:
    """A new path in ComfyUI's temporary folder, which ComfyUI empties when it starts."""
    import folder_paths

    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"livetalk_{uuid.uuid4().hex[:12]}{suffix}"


def spool_limit() -> int:
    """Bytes of raw frames that a stream may keep on disk. What fits into memory as an IMAGE, four times as large, is kept."""
    import folder_paths

    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    return min(free_memory(), shutil.disk_usage(folder).free) // 4


class TempFile(str):
    """The path of a file that is deleted when nothing refers to this object any more, such as a VIDEO or a stream."""

    seal: Seal | None = None
    """Signs copies of the file, if it is signed itself."""
    pace: dict | None = None
    """How fast a video was made, as the player shows it."""

    def __init__(self, path: Path) -> None:
        weakref.finalize(self, remove, str(path))


def remove(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)


def save_picture(picture_HWC: Tensor) -> TempFile:
    """A temporary PNG of a picture [H, W, 3] in [0, 1]."""
    from PIL import Image

    path = temp_path(".png")
    Image.fromarray((picture_HWC * 255).round().byte().numpy()).save(path)
    return TempFile(path)


def view_of(file: str) -> dict[str, str]:
    """How a page asks ComfyUI for a temporary file."""
    return {"filename": Path(file).name, "subfolder": "", "type": "temp"}


def input_folder() -> Path:
    import folder_paths

    return Path(folder_paths.get_input_directory())


def register_model_folder() -> None:
    """Add models/livetalk to ComfyUI's model folders; paths from extra_model_paths.yaml are kept."""
    import folder_paths

    folder_paths.add_model_folder_path(MODEL_FOLDER, os.path.join(folder_paths.models_dir, MODEL_FOLDER))
    paths, _ = folder_paths.folder_names_and_paths[MODEL_FOLDER]
    folder_paths.folder_names_and_paths[MODEL_FOLDER] = (paths, folder_paths.supported_pt_extensions)
    with suppress(OSError):  # a read-only place is no reason not to start
        Path(paths[0]).mkdir(parents=True, exist_ok=True)


def register_gguf_files() -> None:
    """Let ComfyUI list the .gguf files of the folders that may hold them, under keys of our own: its own lists leave them out."""
    import folder_paths

    for kind in GGUF_KINDS:
        if kind in folder_paths.folder_names_and_paths:  # the same list of paths, so that later ones count too
            paths, _ = folder_paths.folder_names_and_paths[kind]
            folder_paths.folder_names_and_paths[gguf_key(kind)] = (paths, {".gguf"})


def gguf_key(kind: str) -> str:
    return f"{MODEL_FOLDER}_gguf_{kind}"


def own_model_folders() -> Iterable[Path]:
    """Folders in models/livetalk, sorted; each may hold a published model."""
    import folder_paths

    roots = [Path(root) for root in folder_paths.get_folder_paths(MODEL_FOLDER)]
    return sorted(folder for root in roots if root.is_dir() for folder in root.iterdir() if folder.is_dir())


def model_files(kind: str) -> list[str]:
    """File names in one of ComfyUI's model folders, such as diffusion_models or vae, .gguf files included."""
    import folder_paths

    keys = [kind, *([gguf_key(kind)] if gguf_key(kind) in folder_paths.folder_names_and_paths else [])]
    return list(dict.fromkeys(name for key in keys for name in folder_paths.get_filename_list(key)))


def model_path(kind: str, name: str) -> Path:
    import folder_paths

    return Path(folder_paths.get_full_path_or_raise(kind, name))


def prompt_server():
    """ComfyUI's web server, or None when nodes run without one."""
    from server import PromptServer

    return vars(PromptServer).get("instance")
