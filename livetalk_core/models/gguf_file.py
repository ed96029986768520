"""GGUF files as tensors: quantized ones as PackedWeights, all others under their own type. Everything is memory-mapped."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from livetalk_core.models.gguf_blocks import BLOCKS
from livetalk_core.models.packed import PackedWeight

PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def read_gguf(path: Path) -> dict[str, Tensor | PackedWeight]:
    """The tensors of a GGUF file. ValueError, naming the file, if it is cut, damaged, or has a type that cannot be read."""
    entries = gguf_entries(path)
    file = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)
    return {entry.name: tensor_of(path, entry, file) for entry in entries}


def gguf_entries(path: Path) -> list[Any]:
    """What the file says of each tensor: gguf.ReaderTensor. ValueError for a cut or damaged file."""
    try:
        from gguf import GGUFReader
    except ModuleNotFoundError:
        raise ValueError(f"{path} is a GGUF file, which needs the package 'gguf'; pip install gguf") from None
    try:
        entries = GGUFReader(path).tensors
    except (ValueError, IndexError, KeyError, OverflowError, UnicodeDecodeError, struct.error) as error:
        raise ValueError(f"{path} is not a whole GGUF file ({error or type(error).__name__}); download it again") from None
    end = max((int(entry.data_offset) + int(entry.n_bytes) for entry in entries), default=0)
    if end > path.stat().st_size or not entries:
        raise ValueError(f"{path} is not a whole GGUF file: it is {path.stat().st_size} bytes and needs {end}; download it again")
    return entries


def tensor_of(path: Path, entry: Any, file: Tensor) -> Tensor | PackedWeight:
    """One tensor of the mapped file. GGUF counts a shape's axes from the last one."""
    kind, shape = entry.tensor_type.name, tuple(int(size) for size in reversed(entry.shape))
    data = file[int(entry.data_offset) : int(entry.data_offset) + int(entry.n_bytes)]
    if kind in PLAIN:
        return data.view(PLAIN[kind]).view(shape)
    if kind not in BLOCKS or len(shape) != 2:
        raise ValueError(f"{path}: {entry.name} is {kind}, which cannot be read; choose a file of {', '.join([*PLAIN, *BLOCKS])}")
    return PackedWeight(form=kind, shape=shape, rows=data.view(torch.int8).view(shape[0], -1))
