"""Which attention kernel a call gets: a fixed table by device and shape, so one machine always gives the same result.

Nothing is timed here. `livetalk bench` can time the kernels of a device and write a table; LIVETALK_KERNEL_TABLE names a table to use.
"""

from __future__ import annotations

import functools
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

TABLE_VARIABLE = "LIVETALK_KERNEL_TABLE"
MAX_WIDTH = {"cudnn": 128, "flash": 256, "flash2": 256, "flash3": 256, "sage": 128}
"""Largest head width of each kernel; no limit for those that are not here."""
MIN_CAPABILITY = {"cudnn": (8, 0), "flash": (8, 0), "flash2": (8, 0), "flash3": (9, 0), "sage": (8, 0)}
"""Lowest CUDA compute capability of each kernel. Those here also need half precision."""
PREFERRED = (
    ((9, 0), ("flash3", "cudnn", "flash", "flash2", "efficient")),
    ((8, 0), ("flash", "flash2", "cudnn", "efficient")),
    ((0, 0), ("efficient",)),
)
"""Kernels from a compute capability on, in order of preference; chosen from the kernels' own publications, not measured here."""


class Case(NamedTuple):
    """The properties of an attention call that the choice of its kernel depends on."""

    device: torch.device
    dtype: torch.dtype
    batch: int
    queries: int
    keys: int
    heads: int
    width: int

    def __str__(self) -> str:
        shape = f"{self.batch} x {self.queries} queries, {self.keys} keys, {self.heads} heads of {self.width}"
        return f"{shape}, {str(self.dtype).removeprefix('torch.')} on {self.device}"


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """The measured best kernel for one shape on one kind of device."""

    device: str
    """As the driver names it."""
    dtype: str
    queries: int
    keys: int
    heads: int
    width: int
    kernel: str


def preferred(case: Case) -> tuple[str, ...]:
    """Kernels for a call, best first: the measured table's if there is one, then the built-in ones."""
    capability = capability_of(case.device)
    built_in = next(names for lowest, names in PREFERRED if capability >= lowest)
    return (*measured(case), *built_in)


def supports(name: str, case: Case) -> bool:
    """Whether a kernel takes this device, precision and head width. A kernel that does not is never tried."""
    if case.width > MAX_WIDTH.get(name, case.width):
        return False
    if name not in MIN_CAPABILITY:
        return True
    return case.dtype in (torch.bfloat16, torch.float16) and capability_of(case.device) >= MIN_CAPABILITY[name]


def capability_of(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device)


def measured(case: Case) -> list[str]:
    """The kernel of the table's nearest shape for this device, precision and head width; empty without a table."""
    path = os.environ.get(TABLE_VARIABLE)
    if not path:
        return []
    dtype, name = str(case.dtype).removeprefix("torch."), device_name(case.device)
    rows = [row for row in read_table(Path(path)) if (row.device, row.dtype, row.width) == (name, dtype, case.width)]
    return [min(rows, key=lambda row: distance(row, case)).kernel] if rows else []


def distance(row: TableRow, case: Case) -> float:
    """How far apart two shapes are, in factors."""
    pairs = ((row.queries, case.queries), (row.keys, case.keys), (row.heads, case.heads))
    return sum(abs(math.log(mine / yours)) for mine, yours in pairs)


@functools.cache
def read_table(path: Path) -> tuple[TableRow, ...]:
    """The rows of a table. ValueError, naming the file, if it is not one."""
    try:
        return tuple(TableRow(**row) for row in json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"{TABLE_VARIABLE}={path} is not a kernel table ({error}); write one with livetalk bench, or unset the variable"
        ) from None
