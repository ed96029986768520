"""The names, shapes and number formats of a checkpoint's tensors, from its header alone: no weights are read and torch is not imported.

Formats: safetensors; GGUF versions 2 and 3 (gguf-py's reader); torch's .pth, as a zip file or in the old form.
"""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

from livetalk_core.models.other_files import describe_other, is_gguf, is_safetensors

PREFIXES = ("model.diffusion_model.", "diffusion_model.", "module.")
"""What single-file exports put before the names of a diffusion model."""
MOST_BYTES = 100 << 20
"""Longest header of a safetensors file, as its own library has it."""
GGUF_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of GGUF's scalar types; 8 is a string, 9 an array."""
GGUF_TYPES = {
    **{0: ("F32", 1, 4), 1: ("F16", 1, 2), 30: ("BF16", 1, 2), 24: ("I8", 1, 1), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8)},
    **{2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 39: ("MXFP4", 32, 17)},
    **{10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210)},
    **{16: ("IQ2_XXS", 1, 0), 17: ("IQ2_XS", 1, 0), 18: ("IQ3_XXS", 1, 0), 19: ("IQ1_S", 1, 0), 20: ("IQ4_NL", 1, 0)},
    **{21: ("IQ3_S", 1, 0), 22: ("IQ2_S", 1, 0), 23: ("IQ4_XS", 1, 0), 29: ("IQ1_M", 1, 0)},
}
"""Name of a type, and the numbers and bytes of its blocks (ggml-common.h); 0 bytes where they do not matter here."""
STORAGES = {"Float": "F32", "Half": "F16", "BFloat16": "BF16", "Double": "F64", "Long": "I64", "Int": "I32", "Char": "I8", "Byte": "U8"}
OLD_MAGIC = 0x1950A86A20F9469CFC6C
"""First pickle of torch's old form."""

DAMAGES = (
    *(ValueError, KeyError, TypeError, AttributeError, IndexError, EOFError),
    *(struct.error, pickle.UnpicklingError, zipfile.BadZipFile),
)
"""What reading a damaged file may raise."""

Named = TypeVar("Named")
ODD_LORAS = {".hada_w": "LoHa", ".lokr_w": "LoKr", ".dora_scale": "DoRA", ".oft_": "OFT", ".lora_mid": "LoCon with lora_mid"}
"""Kinds of LoRA that cannot be read, by what their names have."""


class Stored(NamedTuple):
    """One tensor of a file. `kind`: F32, BF16, F8_E4M3, Q4_K, ..."""

    shape: tuple[int, ...]
    kind: str


def read_headers(path: Path) -> dict[str, Stored]:
    """All tensors of a file. ValueError, naming it, if it is damaged or no file of tensors."""
    try:
        with open(path, "rb") as file:
            if is_gguf(path):
                return read_gguf_header(file)[1]
            return read_safetensors_header(file) if is_safetensors(path) else read_pickle_header(path, file)
    except DAMAGES as error:
        raise ValueError(f"{path} {describe_other(path) or describe_damage(path, error)}") from None


def describe_damage(path: Path, error: Exception) -> str:
    """What is wrong with a file that begins as a checkpoint or as nothing known."""
    kind = "a whole GGUF file" if is_gguf(path) else "a whole safetensors file" if is_safetensors(path) else "a file of tensors"
    reason = next(iter(str(error).splitlines()), "")
    if isinstance(error, ValueError | pickle.UnpicklingError) and reason.startswith("it "):
        return f"is not {kind} ({reason}); {'choose another file' if reason.startswith('it holds') else 'download it again'}"
    if kind == "a file of tensors":
        return f"is not {kind}: it is none of torch's, and its ending is neither .safetensors nor .gguf; choose another file"
    return f"is not {kind} (its header is damaged); download it again"


def read_safetensors_header(file: BinaryIO) -> dict[str, Stored]:
    size, length = file_size(file), int.from_bytes(file.read(8), "little")
    if length > min(size, MOST_BYTES):
        raise ValueError("it has no whole header")
    header = json.loads(file.read(length))
    told = {name: each for name, each in header.items() if name != "__metadata__"}
    end = 8 + length + max((each["data_offsets"][1] for each in told.values()), default=0)
    if end > size:
        raise ValueError(f"it is {size} bytes and needs {end}")
    return {name: Stored(tuple(each["shape"]), each["dtype"]) for name, each in told.items()}


def read_formats(path: Path) -> set[str]:
    """The quantized formats that a file for ComfyUI names, in its header or in tensors `X.comfy_quant`; "rotated" added for convrot."""
    if not is_safetensors(path):
        return set()
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        told = json.loads(header.get("__metadata__", {}).get("_quantization_metadata", "{}")).get("layers", {})
        layers = list(told.values())
        for name, each in header.items():
            if name.endswith(".comfy_quant"):
                start, end = each["data_offsets"]
                file.seek(8 + length + start)
                layers.append(json.loads(file.read(end - start)))
    return {f"{'rotated ' if layer.get('convrot') else ''}{layer.get('format')}" for layer in layers}


def gguf_keys(path: Path) -> set[str]:
    """The names of a GGUF file's metadata; empty for other files."""
    if not is_gguf(path) or not path.is_file():
        return set()
    with open(path, "rb") as file:
        try:
            return read_gguf_header(file)[0]
        except (ValueError, KeyError, struct.error) as error:
            raise ValueError(f"{path} is not a whole GGUF file ({error}); download it again") from None


def read_gguf_header(file: BinaryIO) -> tuple[set[str], dict[str, Stored]]:
    """The names of the metadata, whose values are skipped, and the tensors, with shapes in torch's order."""
    magic, version, num_tensors, num_values = struct.unpack("<4sIQQ", file.read(24))
    if magic != b"GGUF" or version not in (2, 3):
        raise ValueError("it does not begin as one")
    keys = set()
    for _ in range(num_values):
        keys.add(read_text(file))
        skip_value(file, *struct.unpack("<I", file.read(4)))
    found, end = {}, 0
    for _ in range(num_tensors):
        name, (axes,) = read_text(file), struct.unpack("<I", file.read(4))
        *shape, kind, offset = struct.unpack(f"<{axes}QIQ", file.read(8 * axes + 12))
        known, size, num_bytes = GGUF_TYPES.get(kind, (f"type {kind}", 1, 0))
        found[name] = Stored(tuple(reversed(shape)), known)
        end = max(end, offset + prod(shape) // size * num_bytes)
    if (end := end + file.tell()) > (size := file_size(file)):
        raise ValueError(f"it is {size} bytes and needs {end}")
    return keys, found


def skip_value(file: BinaryIO, kind: int) -> None:
    if kind == 8:
        read_text(file)
    elif kind == 9:
        inner, count = struct.unpack("<IQ", file.read(12))
        if inner in GGUF_SIZES:
            file.seek(count * GGUF_SIZES[inner], 1)
        else:
            for _ in range(count):
                skip_value(file, inner)
    else:
        file.seek(GGUF_SIZES[kind], 1)


def read_text(file: BinaryIO) -> str:
    (length,) = struct.unpack("<Q", file.read(8))
    if length > MOST_BYTES:
        raise ValueError("it has a damaged header")
    return file.read(length).decode(errors="replace")


def read_pickle_header(path: Path, file: BinaryIO) -> dict[str, Stored]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            inner = next(name for name in [*archive.namelist(), ""] if name.endswith("data.pkl") or not name)
            if not inner:
                raise ValueError("it is a zip file without data.pkl")
            with archive.open(inner) as pickled:
                return tensors_in(ShapeReader(pickled).load())
    if ShapeReader(file).load() != OLD_MAGIC:
        raise ValueError("it does not begin as one")
    for _ in range(2):  # version and sizes of numbers
        ShapeReader(file).load()
    return tensors_in(ShapeReader(file).load())


def tensors_in(state: Any) -> dict[str, Stored]:
    if not isinstance(state, Mapping) or not all(isinstance(value, Stored) for value in state.values()):
        raise ValueError("it holds more than named tensors")
    return dict(state)


class ShapeReader(pickle.Unpickler):
    """Reads the shapes in a pickled state dict. No code of the file runs: names other than those of tensors are refused."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            return lambda kind, offset, shape, *rest: Stored(tuple(shape), kind)
        if module == "torch._utils" and name == "_rebuild_parameter":
            return lambda stored, *rest: stored
        if module == "torch" and name.endswith("Storage"):
            return STORAGES.get(name.removesuffix("Storage"), name)
        if (module, name) == ("torch", "Size"):
            return tuple
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise pickle.UnpicklingError(f"it holds {module}.{name}, which is no tensor")

    def persistent_load(self, told: tuple) -> str:
        return told[1]


def file_size(file: BinaryIO) -> int:
    size = file.seek(0, 2)
    file.seek(0)
    return size


def strip_prefix(tensors: Mapping[str, Named]) -> dict[str, Named]:
    """Remove the prefix from all names, or from those of a checkpoint's diffusion model."""
    for prefix in PREFIXES:
        inside = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        if inside:
            return inside | {name: tensor for name, tensor in tensors.items() if not name.startswith(PREFIXES)}
    return dict(tensors)
