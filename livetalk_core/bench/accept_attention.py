"""Every attention kernel that is here against plain attention, in the shapes of a model."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from livetalk_core.bench.accept import Target
from livetalk_core.bench.measurement import plan_of_size
from livetalk_core.bench.random_engine import META, random_engine
from livetalk_core.bench.timing import measure_rates, time_calls
from livetalk_core.engine.deviation import relative_rms
from livetalk_core.models.attention import BACKENDS, INEXACT, MODULES, RUN, attention_plain, installed
from livetalk_core.models.kernels import Case, TableRow, device_name, supports
from livetalk_core.models.vae import CausalVAE, FrameAttention
from livetalk_core.presets import BY_NAME

COMPARED_HEADS = 2
"""Heads compared with plain attention, whose scores take much memory; heads do not touch each other."""
KERNEL_ERROR = {"float32": 1e-4, "bfloat16": 0.02}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One attention of the model."""

    what: str
    queries: int
    keys: int
    heads: int
    width: int

    @property
    def flops(self) -> int:
        return 4 * self.queries * self.keys * self.heads * self.width

    def random(self, target: Target) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, the same every time."""
        generator = torch.Generator(target.place).manual_seed(0)
        sizes = ((1, length, self.heads, self.width) for length in (self.queries, self.keys, self.keys))
        q, k, v = (torch.randn(size, generator=generator, device=target.place).to(target.precision) for size in sizes)
        return q, k, v


@torch.no_grad()
def measure_attention(target: Target) -> dict:
    """Each kernel in each shape: its error, its time, its share of this device's matmul rate."""
    rates = measure_rates(target.place, target.precision, target.seconds)
    rows = [row for shape in shapes_of(target) for row in shape_rows(shape, target, rates)]
    return {"rates": rates, "kernels": rows, "checks": [row for row in rows if row["limit"] is not None]}


def shapes_of(target: Target) -> Iterator[Shape]:
    """Attention of the DiT's tokens to themselves, the prompt and the picture, and of the VAE's pixels."""
    preset = BY_NAME[target.model]()
    engine = random_engine(preset, META, target.precision)
    plan, dit = plan_of_size(engine, target.size), preset.dit
    heads = {"heads": dit.num_heads, "width": dit.dim // dit.num_heads}
    for what, keys in (("itself", plan.tokens), ("prompt", dit.text_len), ("picture", preset.image.tokens)):
        yield Shape(what=f"DiT to {what}", queries=plan.tokens, keys=keys, **heads)
    if isinstance(engine.models.vae, CausalVAE):
        attention = next(layer for layer in engine.models.vae.modules() if isinstance(layer, FrameAttention))
        pixels = plan.latent_height * plan.latent_width
        yield Shape(what="VAE", queries=pixels, keys=pixels, heads=1, width=attention.to_qkv.in_channels)


def shape_rows(shape: Shape, target: Target, rates: dict) -> Iterator[dict]:
    q, k, v = shape.random(target)
    few = (x[:, :, :COMPARED_HEADS].transpose(1, 2).float() for x in (q, k, v))
    plain = attention_plain(*few).transpose(1, 2)
    for name, kernel in RUN.items():
        row = {"kernel": name, "what": f"attention {name}, {shape.what}", "shape": vars(shape), "limit": None, "seconds": None}
        reason = missing(name, shape, target)
        try:
            if reason is None:
                error = relative_rms(kernel(q, k, v)[:, :, :COMPARED_HEADS], plain)
                seconds = statistics.median(time_calls(lambda kernel=kernel: kernel(q, k, v), target.place, target.seconds / 2))
                row |= {"error": error, "seconds": seconds, "matmul_share": shape.flops / seconds / rates["matmul_tflops"] / 1e12}
                limit = None if name in INEXACT else KERNEL_ERROR[target.dtype]
                row |= {"limit": limit, "passed": limit is None or error <= limit}
        except Exception as error:  # whatever a package raises, the other kernels are measured
            reason = (str(error).splitlines() or [type(error).__name__])[0]
        yield row if reason is None else row | {"skipped": reason}


def missing(name: str, shape: Shape, target: Target) -> str | None:
    """Why a kernel is not tried; None: it is."""
    if name in BACKENDS or name in MODULES:
        if target.place.type != "cuda":
            return "needs CUDA"
        if name in MODULES and not installed(name):
            return f"package {MODULES[name]} is not installed"
        sizes = {"queries": shape.queries, "keys": shape.keys, "heads": shape.heads, "width": shape.width}
        if not supports(name, Case(device=target.place, dtype=target.precision, batch=1, **sizes)):
            return f"does not take {target.dtype} heads of {shape.width} on this device"
    return None


def table_of(result: dict, device: str, dtype: str) -> list[TableRow]:
    """The fastest kernel of each shape that was measured, passed, and is not lossy. `result`: of `measure_attention`."""
    best: dict[str, dict] = {}
    for row in result["kernels"]:
        if row["kernel"] == "sdpa" or row["seconds"] is None or not row.get("passed") or row["kernel"] in INEXACT:
            continue
        what = row["shape"]["what"]
        if what not in best or row["seconds"] < best[what]["seconds"]:
            best[what] = row
    sizes = ("queries", "keys", "heads", "width")
    return [
        TableRow(device=device, dtype=dtype, kernel=row["kernel"], **{name: row["shape"][name] for name in sizes}) for row in best.values()
    ]


def write_table(report: dict, target: Target, path: Path) -> None:
    """Write the kernel table of an acceptance run. ValueError if it measured no kernel of this device."""
    result = report["parts"].get("attention", {})
    rows = table_of(result, device_name(target.place), target.dtype) if target.place.type == "cuda" and "kernels" in result else []
    if not rows:
        raise ValueError(f"--kernel-table {path} needs kernels that were measured on a GPU; run the part attention on one")
    path.write_text(json.dumps([vars(row) for row in rows], indent=1) + "\n", encoding="utf-8")
