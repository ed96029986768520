"""Chooses the GPUs of a pool and how they share the work, from the driver's free memory, and explains the choice."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from livetalk_core.engine.files import ModelFiles, find_files
from livetalk_core.models.weights import HEAD_DIM
from livetalk_core.parallel.memory import blocks_on_device, check_memory, working_room
from livetalk_core.parallel.topology import choose_topology
from livetalk_core.plan import StreamPlan
from livetalk_core.pool.wire import Placement
from livetalk_core.presets import BY_NAME
from livetalk_core.sizes import BUCKETS, parse_size

MIB = 1 << 20
BLOCK = re.compile(r"(?:^|\.)blocks\.(\d+)\.")
QUERY = ["nvidia-smi", "--query-gpu=index,uuid,memory.free,name", "--format=csv,noheader,nounits"]


@dataclass(frozen=True, kw_only=True)
class Gpu:
    index: int
    uuid: str
    free_bytes: int
    name: str


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What a model needs on each GPU. Tokens are split, so every GPU holds all weights unless these are sharded or offloaded."""

    heads: int
    num_bytes: int
    """Bytes of all weights, plus working memory."""
    tokens: int
    block_bytes: int = 0
    """Bytes of one DiT block; all `num_blocks` blocks are part of `num_bytes`."""
    num_blocks: int = 0

    def on_each(self, memory: str, count: int) -> int:
        """Bytes that each of `count` GPUs must have free for this choice of memory."""
        rest = self.num_bytes - self.num_blocks * self.block_bytes
        return rest + blocks_on_device(memory, self.block_bytes, self.num_blocks, count)


def place_on_gpus(wanted: int | Literal["auto"], demand: Demand, gpus: list[Gpu], memory: str = "auto") -> Placement:
    """`wanted`: a count or auto. ValueError, with the possible choices, for what is not there or not free.

    `memory`: where the DiT's weights are kept; auto takes GPUs that hold them whole.
    """
    if not gpus:
        raise ValueError(f"gpus={wanted} needs NVIDIA GPUs, and none is visible here; use --workers N for processes on the CPU")
    check_memory(memory, len(gpus))
    choices = fitting_counts(demand, gpus, memory)
    if not choices:
        raise ValueError(f"gpus={wanted}: {explain_misfit(demand, gpus, memory)}")
    best = max(choices, key=lambda n: (choose_topology(n, demand.heads, demand.tokens).ring_degree == 1, n))
    count = best if wanted == "auto" else wanted
    check_memory(memory, count)
    fitting = fitting_gpus(demand.on_each(memory, count), gpus)
    need = in_gib(demand.on_each(memory, count)) + " free each"
    if count not in choices:
        listed = ", ".join(map(str, choices))
        raise ValueError(f"gpus={wanted} is not possible: {len(gpus)} GPUs are visible, {len(fitting)} with {need}; choose {listed}")
    chosen = sorted(fitting[:count], key=lambda gpu: gpu.index)
    topology = choose_topology(count, demand.heads, demand.tokens)
    free = f"{len(fitting)} of {len(gpus)} GPUs have {need}; taking {', '.join(str(gpu.index) for gpu in chosen)}"
    return Placement(
        num_workers=count,
        ulysses_degree=topology.ulysses_degree,
        ring_degree=topology.ring_degree,
        gpus=tuple(gpu.uuid for gpu in chosen),
        reason=f"{free}; {topology.reason}{explain_memory(demand, memory, count)}",
    )


def fitting_counts(demand: Demand, gpus: list[Gpu], memory: str) -> list[int]:
    """Possible numbers of GPUs. Sharded weights need at least two GPUs, and more memory on each the fewer there are."""
    least = 2 if memory == "sharded" else 1
    counts = [count for count in possible_counts(len(gpus), demand) if count >= least]
    return [count for count in counts if len(fitting_gpus(demand.on_each(memory, count), gpus)) >= count]


def fitting_gpus(num_bytes: int, gpus: list[Gpu]) -> list[Gpu]:
    """GPUs with at least `num_bytes` free, the freest first."""
    return sorted((gpu for gpu in gpus if gpu.free_bytes >= num_bytes), key=lambda gpu: -gpu.free_bytes)


def explain_misfit(demand: Demand, gpus: list[Gpu], memory: str) -> str:
    """Why the GPUs do not suffice, and which other choices of memory would work."""
    count = len(gpus)
    most = in_gib(max(gpu.free_bytes for gpu in gpus))
    others = {other: fitting_counts(demand, gpus, other) for other in ("sharded", "offload") if other != memory}
    ways = " or ".join(
        f"--memory {other} ({in_gib(demand.on_each(other, counts[-1]))} on each of {counts[-1]})"
        for other, counts in others.items()
        if counts
    )
    need = f"{in_gib(demand.on_each(memory, count))} free each that this model needs"
    kept = "" if memory in ("auto", "resident") else f" with memory={memory}"
    return f"none of {count} GPUs has the {need}{kept} (most: {most}); free memory{' or use ' + ways if ways else ''}"


def explain_memory(demand: Demand, memory: str, count: int) -> str:
    """Where the weights are, unless they are whole on every GPU."""
    whole = demand.num_blocks * demand.block_bytes
    if whole == 0:
        return ""
    if memory == "sharded":
        return f"; weights sharded: 1/{count} of the DiT's blocks on each, {in_gib(whole // count)} of {in_gib(whole)}"
    if memory == "offload":
        return f"; weights offloaded: the DiT's blocks in host memory, {in_gib(whole)} for each of {count}"
    return ""


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


def demand_of(model: str | ModelFiles, size: str = "auto") -> Demand:
    """What a model needs, from its files' sizes and headers only."""
    if not isinstance(model, ModelFiles) and model in BY_NAME:
        preset = BY_NAME[model]()
        return Demand(heads=preset.dit.num_heads, num_bytes=0, tokens=tokens_in(size, preset.bucket))
    files = model if isinstance(model, ModelFiles) else find_files(Path(model))
    files.require()
    stay = sum(path.stat().st_size for path in (*files.dit, files.vae, files.audio) if path is not None)
    encoder = max((path.stat().st_size for path in (files.text, files.image) if path is not None), default=0)
    block_bytes, num_blocks = blocks_in(files.dit)
    return Demand(
        heads=files.config["num_heads"] if "num_heads" in files.config else heads_in(files.dit[0]),
        num_bytes=stay + working_room(stay, encoder),
        tokens=tokens_in(size, BY_NAME[files.preset or "livetalk_14b"]().bucket),
        block_bytes=block_bytes,
        num_blocks=num_blocks,
    )


def tokens_in(size: str, bucket: str) -> int:
    """Tokens in a chunk of the smallest picture that this size setting allows."""
    sizes = BUCKETS[bucket if size == "auto" else size] if size == "auto" or size in BUCKETS else [parse_size(size)]
    return min(StreamPlan(width=width, height=height).tokens for width, height in sizes)


def heads_in(path: Path) -> int:
    """Number of heads of a DiT file, from its tensors' width; the published model's 40 if the header does not tell."""
    for name, tensor in read_header(path).items():
        if name.endswith("self_attn.norm_q.weight"):
            return max(1, tensor["shape"][0] // HEAD_DIM)
    return BY_NAME["livetalk_14b"]().dit.num_heads


def blocks_in(paths: Iterable[Path]) -> tuple[int, int]:
    """Bytes of one DiT block in these files, and the number of blocks. A file without a header counts as the published 40 blocks."""
    total, last = 0, 0
    for path in paths:
        header = read_header(path)
        found = [(int(match[1]), tensor["data_offsets"]) for name, tensor in header.items() if (match := BLOCK.search(name))]
        total += sum(stop - start for _, (start, stop) in found) if header else path.stat().st_size
        last = max([last, *(number for number, _ in found)] if header else [last, BY_NAME["livetalk_14b"]().dit.num_layers - 1])
    return total // (last + 1), last + 1


def read_header(path: Path) -> dict[str, dict]:
    """The header of a safetensors file; empty for other kinds of file. ValueError for a damaged one."""
    if path.suffix != ".safetensors":
        return {}
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            return json.loads(file.read(min(length, path.stat().st_size)))
        except ValueError:
            raise ValueError(f"{path} is not a whole safetensors file; download it again") from None
