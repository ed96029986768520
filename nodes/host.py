"""ComfyUI's services: interrupt, progress, folders, web server."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from .types import ComfyAPISync

if TYPE_CHECKING:
    from torch import Tensor

MODEL_FOLDER = "livetalk"


def check_interrupt(step: int = 0, steps: int = 0) -> None:
    """Raises ComfyUI's own exception after the user has pressed stop."""
    from comfy.model_management import throw_exception_if_processing_interrupted

    throw_exception_if_processing_interrupted()


def show_progress(done: int, total: int, frame_HWC: Tensor | None = None) -> None:
    """Set the running node's progress to `done` of `total`; a uint8 frame [H, W, 3] becomes its preview picture."""
    from PIL import Image

    picture = None if frame_HWC is None else Image.fromarray(frame_HWC.numpy())
    ComfyAPISync().execution.set_progress(done, total, preview_image=picture)


def free_memory() -> int:
    """Bytes of free main memory, as ComfyUI counts it."""
    import comfy.model_management as mm
    import torch

    return mm.get_free_memory(torch.device("cpu"))


def count_links(dynprompt, node_id: str, output: int) -> int:
    """How many inputs of the prompt are connected to this output."""
    nodes = dynprompt.get_original_prompt().values()
    return sum(value == [node_id, output] for node in nodes for value in node["inputs"].values())


def temp_path(suffix: str) -> Path:
    """A new path in ComfyUI's temporary folder, which ComfyUI empties when it starts."""
    import folder_paths

    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"livetalk_{uuid.uuid4().hex[:12]}{suffix}"


def input_folder() -> Path:
    import folder_paths

    return Path(folder_paths.get_input_directory())


def register_model_folder() -> None:
    """Add models/livetalk to ComfyUI's model folders; paths from extra_model_paths.yaml are kept."""
    import folder_paths

    folder_paths.add_model_folder_path(MODEL_FOLDER, os.path.join(folder_paths.models_dir, MODEL_FOLDER))
    paths, _ = folder_paths.folder_names_and_paths[MODEL_FOLDER]
    folder_paths.folder_names_and_paths[MODEL_FOLDER] = (paths, folder_paths.supported_pt_extensions)


def own_model_folders() -> Iterable[Path]:
    """Folders in models/livetalk, sorted; each may hold a published model."""
    import folder_paths

    roots = [Path(root) for root in folder_paths.get_folder_paths(MODEL_FOLDER)]
    return sorted(folder for root in roots if root.is_dir() for folder in root.iterdir() if folder.is_dir())


def model_files(kind: str) -> list[str]:
    """File names in one of ComfyUI's model folders, such as diffusion_models or vae."""
    import folder_paths

    return folder_paths.get_filename_list(kind)


def model_path(kind: str, name: str) -> Path:
    import folder_paths

    return Path(folder_paths.get_full_path_or_raise(kind, name))


def prompt_server():
    """ComfyUI's web server, or None when nodes run without one."""
    from server import PromptServer

    return vars(PromptServer).get("instance")
