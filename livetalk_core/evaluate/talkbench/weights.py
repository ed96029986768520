"""Which files the measures need, where they come from, and which of them are there. Nothing is ever downloaded."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """A published file that a measure needs."""

    key: str
    columns: str
    """The table's columns that need it."""
    names: tuple[str, ...]
    """Names under which it is found in the metrics folder; the first is the published one."""
    size: str
    source: str
    license: str
    without: str
    """What can be measured without it, in place of its columns."""

    def find(self, folder: Path | None) -> Path | None:
        """The file in the metrics folder or a folder in it; None if it is not there."""
        if folder is None or not folder.is_dir():
            return None
        places = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
        return next((path for name in self.names for place in places if (path := place / name).exists()), None)

    @property
    def missing(self) -> str:
        """One line on how to get it."""
        return f"needs {self.names[0]} ({self.size}, license: {self.license}) in --metrics-folder; get it from {self.source}"


SYNCNET = WeightFile(
    key="syncnet",
    columns="Sync-C, Sync-D",
    names=("syncnet_v2.model",),
    size="about 55 MB",
    source="https://www.robots.ox.ac.uk/~vgg/software/lipsync/data/syncnet_v2.model",
    license="none stated; the code is MIT",
    without="lip distance, where there is a true video",
)
S3FD = WeightFile(
    key="s3fd",
    columns="Sync-C, Sync-D (finds the face)",
    names=("sfd_face.pth",),
    size="about 90 MB",
    source="https://www.robots.ox.ac.uk/~vgg/software/lipsync/data/sfd_face.pth",
    license="none stated",
    without="lip distance, where there is a true video",
)
DINO = WeightFile(
    key="dino",
    columns="Subject-C",
    names=("dino_vitbase16_pretrain.pth",),
    size="about 343 MB",
    source="https://dl.fbaipublicfiles.com/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth",
    license="Apache-2.0",
    without="identity, if its two files are there",
)
CLIP = WeightFile(
    key="clip",
    columns="BG-C",
    names=("ViT-B-32.pt", "clip-vit-base-patch32"),
    size="about 354 MB",
    source="https://openaipublic.azureedge.net/clip/models/40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt",
    license="MIT",
    without="color drift",
)
AMT = WeightFile(
    key="amt",
    columns="Motion-S",
    names=("amt-s.pth",),
    size="about 12 MB of weights",
    source="https://huggingface.co/lalala125/AMT/resolve/main/amt-s.pth",
    license="CC BY-NC 4.0",
    without="Temporal-F",
)
YUNET = WeightFile(
    key="yunet",
    columns="identity (finds the face)",
    names=("face_detection_yunet_2023mar.onnx",),
    size="under 1 MB",
    source="https://github.com/opencv/opencv_zoo, models/face_detection_yunet",
    license="MIT",
    without="Subject-C",
)
SFACE = WeightFile(
    key="sface",
    columns="identity",
    names=("face_recognition_sface_2021dec.onnx",),
    size="under 40 MB",
    source="https://github.com/opencv/opencv_zoo, models/face_recognition_sface",
    license="Apache-2.0",
    without="Subject-C",
)
FILES = (SYNCNET, S3FD, DINO, CLIP, AMT, YUNET, SFACE)


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of a file that torch saved. ValueError, in one line, for anything else."""
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{path}: cannot be read as weights ({reason}); download it again") from None
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path}: holds no tensors by name; download it again")
    return state
