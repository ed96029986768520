"""Which GPUs a pool runs on and how they share the work: asked of the driver and decided by what is free, with the reason in words."""

from __future__ import annotations

import json
import os
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

from livetalk_core.checkpoints import ModelFiles, find_files
from livetalk_core.models.weights import HEAD_DIM
from livetalk_core.parallel.topology import choose_topology
from livetalk_core.plan import StreamPlan
from livetalk_core.pool.wire import Placement
from livetalk_core.presets import BY_NAME
from livetalk_core.sizes import BUCKETS, parse_size

MIB = 1 << 20
WORKING_BYTES = 6 << 30
"""What a rank of the large model needs beyond its weights, for a chunk of 720 x 416: an estimate."""
QUERY = ["nvidia-smi", "--query-gpu=index,uuid,memory.free,name", "--format=csv,noheader,nounits"]


@dataclass(frozen=True, kw_only=True)
class Gpu:
    index: int
    uuid: str
    free_bytes: int
    name: str


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What a model asks of each GPU. Sequence parallelism splits the tokens, so every GPU holds all weights."""

    heads: int
    num_bytes: int
    tokens: int


def place_on_gpus(wanted: str, demand: Demand, gpus: list[Gpu]) -> Placement:
    """`wanted`: auto or a count. ValueError, with the possible choices, for what is not there or not free."""
    fitting = sorted((gpu for gpu in gpus if gpu.free_bytes >= demand.num_bytes), key=lambda gpu: -gpu.free_bytes)
    need = f"{demand.num_bytes / 2**30:.0f} GiB free each"
    if not gpus:
        raise ValueError(f"gpus={wanted} needs NVIDIA GPUs, and none is visible here; use --workers N for processes on the CPU")
    if not fitting:
        most = max(gpu.free_bytes for gpu in gpus) / 2**30
        raise ValueError(
            f"gpus={wanted}: none of {len(gpus)} GPUs has the {need} that this model needs (most: {most:.0f} GiB); free memory"
        )
    choices = possible_counts(len(fitting), demand)
    if wanted == "auto":
        count = max(choices, key=lambda n: (choose_topology(n, demand.heads, demand.tokens).ring_degree == 1, n))
    else:
        count = check_count("gpus", wanted)
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
        reason=f"{free}; {topology.reason}",
    )


def place_on_cpu(wanted: str, demand: Demand) -> Placement:
    """`wanted` processes on the CPU. ValueError with the possible choices."""
    count = check_count("workers", wanted)
    choices = possible_counts(count, demand)
    if count not in choices:
        raise ValueError(f"workers={count} leave some without work: {demand.tokens} tokens in a chunk; choose {choices[-1]} or fewer")
    topology = choose_topology(count, demand.heads, demand.tokens)
    degrees = {"ulysses_degree": topology.ulysses_degree, "ring_degree": topology.ring_degree}
    return Placement(
        num_workers=count,
        reason=f"{count} processes on the CPU; {topology.reason.replace('GPUs', 'processes').replace('GPU', 'process')}",
        **degrees,
    )


def check_count(name: str, wanted: str) -> int:
    if not wanted.isdecimal() or int(wanted) < 1:
        raise ValueError(f"{name}={wanted} must be 1 or more" + (", or auto" if name == "gpus" else ""))
    return int(wanted)


def possible_counts(most: int, demand: Demand) -> list[int]:
    """Counts that leave no worker without tokens."""
    counts = []
    for count in range(1, most + 1):
        try:
            choose_topology(count, demand.heads, demand.tokens)
        except ValueError:
            continue
        counts.append(count)
    return counts


def visible_gpus() -> list[Gpu]:
    """The GPUs that this process may use, found without touching CUDA; none without NVIDIA's driver."""
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
    """What a model asks for, from its files' names and headers only."""
    if not isinstance(model, ModelFiles) and model in BY_NAME:
        preset = BY_NAME[model]()
        return Demand(heads=preset.dit.num_heads, num_bytes=0, tokens=tokens_in(size, preset.bucket))
    files = model if isinstance(model, ModelFiles) else find_files(Path(model))
    files.require()
    weights = [*files.dit, files.vae, files.audio, max(files.text, files.image, key=lambda path: path.stat().st_size)]
    num_bytes = sum(path.stat().st_size for path in weights)
    heads = files.config["num_heads"] if "num_heads" in files.config else heads_in(files.dit[0])
    large = num_bytes > WORKING_BYTES
    return Demand(
        heads=heads, num_bytes=num_bytes + (WORKING_BYTES if large else 0), tokens=tokens_in(size, BY_NAME["livetalk_14b"]().bucket)
    )


def tokens_in(size: str, bucket: str) -> int:
    """Tokens of a chunk of the smallest picture that this size setting may come to."""
    sizes = BUCKETS[bucket if size == "auto" else size] if size == "auto" or size in BUCKETS else [parse_size(size)]
    return min(StreamPlan(width=width, height=height).tokens for width, height in sizes)


def heads_in(path: Path) -> int:
    """Heads of a DiT file, from the width of its tensors; the published model's 40 when the header does not tell."""
    if path.suffix == ".safetensors":
        with open(path, "rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        for name, tensor in header.items():
            if name.endswith("self_attn.norm_q.weight"):
                return max(1, tensor["shape"][0] // HEAD_DIM)
    return BY_NAME["livetalk_14b"]().dit.num_heads
