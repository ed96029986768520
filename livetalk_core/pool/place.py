"""Chooses the GPUs of a pool and how they share the work, from the driver's free memory, and explains the choice."""

from __future__ import annotations

import math
import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from livetalk_core.engine.files import ModelFiles, find_files, read_header
from livetalk_core.engine.kind import preset_of
from livetalk_core.engine.working import plans_of, room_of
from livetalk_core.models.gguf_file import gguf_entries
from livetalk_core.models.other_files import is_gguf, is_safetensors
from livetalk_core.models.weights import HEAD_DIM
from livetalk_core.parallel.memory import blocks_beyond_host, blocks_on_device, check_memory, host_share
from livetalk_core.parallel.topology import choose_topology
from livetalk_core.pool.wire import Placement
from livetalk_core.presets import BY_NAME, Preset

MIB = 1 << 20
MOST_GPUS = 16
"""More are planned like so many."""
KINDS = ("resident", "sharded", "offload")
"""Where the DiT's weights can be kept, in the order in which auto tries them."""
BLOCK = re.compile(r"(?:^|\.)blocks\.(\d+)\.")
QUERY = ["nvidia-smi", "--query-gpu=index,uuid,memory.free,name", "--format=csv,noheader,nounits"]


@dataclass(frozen=True, kw_only=True)
class Gpu:
    index: int
    uuid: str
    free_bytes: int
    name: str


@dataclass(frozen=True, kw_only=True)
class Box:
    """What a machine has free."""

    gpus: tuple[Gpu, ...]
    host_bytes: int | None = None
    """None: not known, so it is not checked."""


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What a model needs on each GPU. Tokens are split, so every GPU holds all weights unless these are sharded or offloaded."""

    heads: int
    num_bytes: int
    """Bytes of all weights, plus the room for the work on a GPU that is alone."""
    tokens: int
    block_bytes: int = 0
    """Bytes of one DiT block; all `num_blocks` blocks are part of `num_bytes`."""
    num_blocks: int = 0
    rooms: tuple[int, ...] = ()
    """The room for the work on each of 1, 2, 3, ... GPUs that share it. Empty: always the same."""

    @property
    def whole(self) -> int:
        """Bytes of all blocks."""
        return self.num_blocks * self.block_bytes

    def on_each(self, memory: str, count: int, host: int | None = None) -> int:
        """Bytes that each of `count` GPUs must have free for this choice of memory. `host`: all free host memory."""
        kept = blocks_beyond_host(self.block_bytes, self.num_blocks, host_share(host, count)) if memory == "offload" else 0
        blocks = blocks_on_device(memory, self.block_bytes, self.num_blocks, count) + kept * self.block_bytes
        saved = self.rooms[0] - self.rooms[min(count, len(self.rooms)) - 1] if self.rooms else 0
        return self.num_bytes - self.whole + blocks - saved


def place_on_gpus(wanted: int | Literal["auto"], demand: Demand, box: Box, memory: str = "auto", *, can_shard: bool = True) -> Placement:
    """`wanted`: a count or auto. ValueError, with the possible choices, for what is not there or not free.

    `memory` auto: the first that fits of resident, sharded and offload; `can_shard`: whether the engine's other options allow sharding.
    """
    if not box.gpus:
        raise ValueError(f"gpus={wanted} needs NVIDIA GPUs, and none is visible here; use --workers N for processes on the CPU")
    check_memory(memory, len(box.gpus) if wanted == "auto" else wanted)
    kinds = (memory,) if memory != "auto" else tuple(kind for kind in KINDS if can_shard or kind != "sharded")
    choices = {kind: fitting_counts(demand, box, kind) for kind in kinds}
    kind = next((kind for kind in kinds if wanted in choices[kind] or (wanted == "auto" and choices[kind])), None)
    if kind is None:
        raise ValueError(explain_misfit(wanted, demand, box, choices))
    count = best_count(choices[kind], demand) if wanted == "auto" else wanted
    need = demand.on_each(kind, count, box.host_bytes)
    fitting = fitting_gpus(need, box)
    chosen = sorted(fitting[:count], key=lambda gpu: gpu.index)
    topology = choose_topology(count, demand.heads, demand.tokens)
    taken = ", ".join(str(gpu.index) for gpu in chosen)
    free = f"{len(fitting)} of {len(box.gpus)} GPUs have {in_gib(need)} free each; taking {taken}"
    return Placement(
        num_workers=count,
        ulysses_degree=topology.ulysses_degree,
        ring_degree=topology.ring_degree,
        memory=kind,
        gpus=tuple(gpu.uuid for gpu in chosen),
        reason=f"{free}; {topology.reason}{explain_memory(demand, kind, count, box, automatic=memory == 'auto')}",
    )


def best_count(counts: list[int], demand: Demand) -> int:
    """The most GPUs that divide the heads, so that they need no ring; else the most."""
    return max(counts, key=lambda n: (choose_topology(n, demand.heads, demand.tokens).ring_degree == 1, n))


def fitting_counts(demand: Demand, box: Box, memory: str) -> list[int]:
    """Possible numbers of GPUs. Sharded weights need at least two GPUs, and more memory on each the fewer there are."""
    least = 2 if memory == "sharded" else 1
    counts = [count for count in possible_counts(len(box.gpus), demand) if count >= least]
    return [count for count in counts if len(fitting_gpus(demand.on_each(memory, count, box.host_bytes), box)) >= count]


def fitting_gpus(num_bytes: int, box: Box) -> list[Gpu]:
    """GPUs with at least `num_bytes` free, the freest first."""
    return sorted((gpu for gpu in box.gpus if gpu.free_bytes >= num_bytes), key=lambda gpu: -gpu.free_bytes)


def explain_misfit(wanted: int | str, demand: Demand, box: Box, choices: dict[str, list[int]]) -> str:
    """Why this number of GPUs is not possible, and which numbers or other choices of memory are."""
    possible = sorted({count for counts in choices.values() for count in counts})
    if possible:
        kind = next(kind for kind, counts in choices.items() if counts)
        need = demand.on_each(kind, min(wanted, len(box.gpus)), box.host_bytes)
        fitting, listed = len(fitting_gpus(need, box)), ", ".join(map(str, possible))
        have = f"{len(box.gpus)} GPUs are visible, {fitting} with {in_gib(need)} free each"
        return f"gpus={wanted} is not possible: {have}; choose {listed}"
    kind, most = list(choices)[-1], in_gib(max(gpu.free_bytes for gpu in box.gpus))
    need = in_gib(demand.on_each(kind, len(box.gpus) if kind == "sharded" else 1, box.host_bytes))
    host = "" if kind != "offload" or box.host_bytes is None else f" with {in_gib(box.host_bytes)} of host memory"
    ways = [f"--memory {other}" for other in KINDS[1:] if other not in choices and fitting_counts(demand, box, other)]
    return (
        f"gpus={wanted}: the model needs {need} free on each GPU with memory={kind}{host}; none of {len(box.gpus)} has that "
        f"(most: {most}); free memory{' or use ' * bool(ways)}{' or '.join(ways)}"
    )


def explain_memory(demand: Demand, memory: str, count: int, box: Box, *, automatic: bool) -> str:
    """Where the weights are and why, unless they are whole on every GPU."""
    if demand.whole == 0 or memory == "resident":
        return ""
    why = f", since whole ones need {in_gib(demand.on_each('resident', count))} on each GPU" if automatic else ""
    if memory == "sharded":
        share = in_gib(demand.whole // count)
        return f"; weights sharded: 1/{count} of the DiT's blocks on each, {share} of {in_gib(demand.whole)}{why}"
    return f"; weights offloaded: the DiT's blocks in host memory, up to {in_gib(demand.whole)} for each of {count}{why}"


def in_gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.0f} GiB"


def place_on_cpu(count: int, demand: Demand, memory: str = "auto") -> Placement:
    """`count` processes on the CPU. ValueError with the possible choices."""
    check_memory(memory, count)
    choices = possible_counts(count, demand)
    if count not in choices:
        raise ValueError(f"workers={count} are too many for {demand.tokens} tokens in a chunk; choose {choices[-1]} or fewer")
    topology = choose_topology(count, demand.heads, demand.tokens)
    degrees = {"ulysses_degree": topology.ulysses_degree, "ring_degree": topology.ring_degree}
    return Placement(
        num_workers=count,
        reason=f"{count} processes on the CPU; {topology.reason.replace('GPUs', 'processes').replace('GPU', 'process')}",
        **degrees,
    )


def possible_counts(most: int, demand: Demand) -> list[int]:
    """Counts up to `most` with which every worker has tokens."""
    counts = []
    for count in range(1, most + 1):
        try:
            choose_topology(count, demand.heads, demand.tokens)
        except ValueError:
            continue
        counts.append(count)
    return counts


def visible_gpus() -> list[Gpu]:
    """The GPUs that this process may use, found without initializing CUDA; none without NVIDIA's driver."""
    try:
        text = subprocess.run(QUERY, capture_output=True, text=True, timeout=30, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        return []
    rows = [[field.strip() for field in line.split(",", 3)] for line in text.splitlines() if line.strip()]
    gpus = [Gpu(index=int(index), uuid=uuid, free_bytes=int(free) * MIB, name=name) for index, uuid, free, name in rows]
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None:
        return gpus
    names = [name.strip() for name in allowed.split(",") if name.strip()]
    return [gpu for name in names for gpu in gpus if name == str(gpu.index) or gpu.uuid.startswith(name)]


def demand_of(model: str | ModelFiles, size: str = "auto", weights: str = "auto") -> Demand:
    """What a model needs with its weights in this form, from its files' sizes and headers only."""
    if not isinstance(model, ModelFiles) and model in BY_NAME:
        preset = BY_NAME[model]()
        return Demand(heads=preset.dit.num_heads, num_bytes=0, tokens=tokens_in(size, preset))
    files = model if isinstance(model, ModelFiles) else find_files(Path(model))
    files.require()
    stay = sum(path.stat().st_size for path in files.kept)
    (stored, num_blocks), (block_bytes, _) = blocks_in(files.dit), blocks_in(files.dit, weights)
    stay += num_blocks * (block_bytes - stored)
    preset, heads = preset_of(files), files.config["num_heads"] if "num_heads" in files.config else heads_in(files.dit[0])
    sized = replace(preset, dit=replace(preset.dit, dim=heads * HEAD_DIM))
    rooms = tuple(room_of(sized, size, processes=count) for count in range(1, MOST_GPUS + 1))
    return Demand(
        heads=heads,
        num_bytes=stay + rooms[0],
        tokens=tokens_in(size, preset),
        block_bytes=block_bytes,
        num_blocks=num_blocks,
        rooms=rooms,
    )


def tokens_in(size: str, preset: Preset) -> int:
    """Tokens in a chunk of the smallest picture that this size setting allows."""
    return min(plan.tokens for plan in plans_of(preset, size))


def heads_in(path: Path) -> int:
    """Number of heads of a DiT file, from its tensors' width; the published model's 40 if the header does not tell."""
    for name, tensor in stored_tensors(path):
        if name.endswith("self_attn.norm_q.weight"):
            return max(1, tensor.shape[0] // HEAD_DIM)
    return BY_NAME["livetalk_14b"]().dit.num_heads


def blocks_in(paths: Iterable[Path], weights: str = "auto") -> tuple[int, int]:
    """Bytes of one DiT block of these files with the weights in this form, and the number of blocks.

    A file without a header counts as the published 40 blocks.
    """
    total, last = 0, 0
    for path in paths:
        found = [(int(match[1]), tensor) for name, tensor in stored_tensors(path) if (match := BLOCK.search(name))]
        total += sum(tensor.bytes_as(weights) for _, tensor in found) if found or is_listed(path) else path.stat().st_size
        last = max([last, *(number for number, _ in found)] if is_listed(path) else [last, BY_NAME["livetalk_14b"]().dit.num_layers - 1])
    return total // (last + 1), last + 1


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor as its file has it."""

    shape: tuple[int, ...]
    num_bytes: int

    def bytes_as(self, weights: str) -> int:
        """Bytes with the weights in this form; matrices alone are kept in 8 bits."""
        if weights == "auto":
            return self.num_bytes
        count = math.prod(self.shape)
        return count + 4 * self.shape[0] if len(self.shape) == 2 and weights != "16bit" else 2 * count


def is_listed(path: Path) -> bool:
    """Whether a file's tensors can be listed without reading it."""
    return is_safetensors(path) or is_gguf(path)


def stored_tensors(path: Path) -> Iterator[tuple[str, StoredTensor]]:
    """The tensors of a safetensors or GGUF file; none of other kinds of file."""
    if is_gguf(path):
        for entry in gguf_entries(path):
            yield entry.name, StoredTensor(shape=tuple(map(int, reversed(entry.shape))), num_bytes=int(entry.n_bytes))
    for name, told in read_header(path).items():
        if name != "__metadata__":
            first, last = told["data_offsets"]
            yield name, StoredTensor(shape=tuple(told["shape"]), num_bytes=last - first)
