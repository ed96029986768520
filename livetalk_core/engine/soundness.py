"""Whether what was read can be used: numbers are finite, and files did not change meanwhile.

Weights are mapped, and reading what a file has lost since it was mapped ends the process. So the file is looked at before every weight
that is read from it. What remains: a file that is cut while one weight is copied, or later than it was loaded, by a process on a CPU that
computes with the mapped weights. Programs that write a new file and rename it, as download tools do, are safe at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from livetalk_core.models.gguf_blocks import scales_finite
from livetalk_core.models.packed import PackedRows


class FileChanged(ValueError):
    """A file is not what it was when its loading began."""


def check_finite(module: nn.Module, check: Callable[[], None] = lambda: None) -> None:
    """ValueError, naming a weight, if a weight or a scale has NaN or infinite numbers. `check` is called before each is read."""
    for name, weight in module.named_parameters():
        if weight.is_floating_point() and weight.numel() and not weight.is_meta:
            check()
            local = weight.to_local() if hasattr(weight, "to_local") else weight.data
            if local.numel() and not all(torch.isfinite(each) for each in torch.aminmax(local)):
                raise not_finite(name)
    for name, layer in module.named_modules():
        if isinstance(layer, PackedRows):
            check()
            if not rows_finite(layer):
                raise not_finite(f"{name}.weight")


def rows_finite(layer: PackedRows) -> bool:
    """Whether packed rows have finite numbers only. Scales that lie beside them were looked at when they were read."""
    rows = layer.weight.to_local() if hasattr(layer.weight, "to_local") else layer.weight.data
    if rows.is_meta or not rows.numel() or layer.form == "int8":
        return True
    if layer.form == "fp8":  # e4m3 has two NaNs, 0x7f and 0xff
        return not bool(((rows == 127) | (rows == -1)).any())
    if layer.form == "fp8_e5m2":  # NaN and infinity have all bits of the exponent
        return not bool(((rows & 0x7C) == 0x7C).any())
    return scales_finite(layer.form, rows)


def not_finite(name: str) -> ValueError:
    return ValueError(f"{name} has numbers that are not finite; download the file again")


@contextmanager
def unchanged(*paths: Path | None) -> Iterator[Callable[[], None]]:
    """FileChanged, a ValueError, if one of these files is not the same at the end as at the beginning. Gives the check for in between."""
    before = {path: stamp(path) for path in paths if path is not None}

    def check() -> None:
        for path, then in before.items():
            if stamp(path) != then:
                raise FileChanged(f"{path} changed while it was read; wait until it is written, and load it again")

    yield check
    check()


def stamp(path: Path) -> tuple[int, int, int] | None:
    if not path.is_file():
        return None
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino
