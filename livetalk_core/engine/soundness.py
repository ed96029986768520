"""Whether what was read can be used: numbers are finite, and files did not change meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from livetalk_core.models.packed import PackedRows


def check_finite(module: nn.Module) -> None:
    """ValueError, naming a weight, if a weight or a scale has NaN or infinite numbers. Numbers packed as GGUF are not checked."""
    for name, weight in module.named_parameters():
        if weight.is_floating_point() and weight.numel() and not weight.is_meta:
            local = weight.to_local() if hasattr(weight, "to_local") else weight.data
            if local.numel() and not all(torch.isfinite(each) for each in torch.aminmax(local)):
                raise not_finite(name)
    for name, layer in module.named_modules():
        if isinstance(layer, PackedRows) and layer.form == "fp8" and has_nan(layer.weight):
            raise not_finite(f"{name}.weight")


def has_nan(rows: torch.Tensor) -> bool:
    """Whether bytes of e4m3 numbers have a NaN: 0x7f or 0xff."""
    local = rows.to_local() if hasattr(rows, "to_local") else rows.data
    return not local.is_meta and bool(((local == 127) | (local == -1)).any())


def not_finite(name: str) -> ValueError:
    return ValueError(f"{name} has numbers that are not finite; download the file again")


@contextmanager
def unchanged(paths: Iterable[Path | None]) -> Iterator[None]:
    """ValueError if one of these files is not the same at the end as at the beginning."""
    before = {path: stamp(path) for path in paths if path is not None}
    yield
    for path, then in before.items():
        if stamp(path) != then:
            raise ValueError(f"{path} changed while it was read; wait until it is written, and load it again")


def stamp(path: Path) -> tuple[int, int, int] | None:
    if not path.is_file():
        return None
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino
