"""Loads the encoders of a model: wav2vec2, umT5 with its tokenizer, CLIP. Text and picture encoders are needed only for a moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from livetalk_core.engine.files import DOWNLOADS, SPIECE, ModelFiles
from livetalk_core.engine.soundness import FileChanged, check_finite, unchanged
from livetalk_core.models import weights
from livetalk_core.models.audio import AudioEncoder, audio_config_from, map_audio_keys
from livetalk_core.models.gguf_tokenizer import spiece_in_gguf
from livetalk_core.models.image import ImageEncoder, image_config_from, map_image_keys
from livetalk_core.models.other_files import is_gguf
from livetalk_core.models.text import (
    TextEncoder,
    Tokenizer,
    load_tokenizer,
    map_text_keys,
    sentencepiece_tokenizer,
    text_config_from,
)
from livetalk_core.parallel.memory import GIB, MIN_FREE_BYTES, free_bytes, host_bytes

KEPT_ON_HOST = 6 * GIB
"""Free host memory with which the picture encoder stays there."""


def load_audio(path: Path, device: torch.device) -> AudioEncoder:
    """wav2vec2 in float32, as published."""
    with naming("audio", path) as check:
        tensors = weights.read_tensors([path])
        config = audio_config_from(weights.shapes_of(tensors))
        how = {"what": "wav2vec2", "dtype": torch.float32, "device": device, "check": check}
        return sound(weights.build(lambda: AudioEncoder(config), map_audio_keys(tensors), **how), check)


def load_text(path: Path, dtype: torch.dtype, device: torch.device, packed: bool = True) -> TextEncoder:
    """umT5. Quantized weights stay packed, unless `packed` is false."""
    with naming("text", path) as check:
        tensors = weights.read_weights([path])
        config = text_config_from(weights.shapes_of(tensors))
        what = {"what": "umT5", "dtype": dtype, "device": device, "keep": "" if packed else None, "check": check}
        return sound(weights.build(lambda: TextEncoder(config), map_text_keys(tensors), **what), check)


def tokenizer_of(files: ModelFiles, length: int) -> Tokenizer:
    """The tokenizer in the model's folder, else the one inside the text encoder's file."""
    if files.tokenizer is not None:
        return load_tokenizer(files.tokenizer, length)
    if is_gguf(files.text):
        return sentencepiece_tokenizer(spiece_in_gguf(files.text), length)
    with safe_open(files.text, framework="pt") as file:
        return sentencepiece_tokenizer(bytes(file.get_tensor(SPIECE).numpy()), length)


def sound(module: nn.Module, check: Callable[[], None]) -> nn.Module:
    """The module, if all of its numbers are finite."""
    check_finite(module, check)
    return module


def load_image(path: Path, device: torch.device) -> ImageEncoder:
    """CLIP's vision tower, float16 on CUDA as published."""
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    with naming("image", path) as check:
        tensors = weights.read_tensors([path])
        config = image_config_from(weights.shapes_of(tensors))
        state = map_image_keys(tensors, config.layers)
        return sound(weights.build(lambda: ImageEncoder(config), state, what="CLIP", dtype=dtype, device=device, check=check), check)


@contextmanager
def naming(part: str, *paths: Path) -> Iterator[Callable[[], None]]:
    """Add the files and where they are published to a ValueError about them. Gives a check that they are still as they were."""
    try:
        with unchanged(*paths) as check:
            yield check
    except FileChanged:
        raise
    except ValueError as error:
        raise ValueError(f"{', '.join(path.name for path in paths)}: {error} (published in {DOWNLOADS[part]})") from None


def beside(load: Callable[[torch.device], nn.Module], needed: int, device: torch.device) -> Callable[[], nn.Module]:
    """Loads an encoder on the device if `needed` bytes are free there, with the room for a chunk's work, else on the CPU."""

    def place() -> torch.device:
        free = free_bytes(device)
        return device if free is None or free >= needed else torch.device("cpu")

    return lambda: load(place())


class KeptEncoder:
    """Loads an encoder on the first call, and keeps it if enough memory is free; else it is loaded again for every call."""

    def __init__(self, load: Callable[[], nn.Module], device: torch.device):
        self.load, self.device = load, device
        self.kept: nn.Module | None = None

    def __call__(self) -> nn.Module:
        if self.kept is not None:
            return self.kept
        encoder = self.load()
        free = host_bytes() if free_bytes(self.device) is None else free_bytes(self.device)
        if free is None or free >= MIN_FREE_BYTES or (self.device.type == "cpu" and free >= KEPT_ON_HOST):
            self.kept = encoder
        return encoder
