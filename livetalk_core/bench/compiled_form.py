"""The large model's numbers in compiled form that have a target, at its real size."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from livetalk_core.bench.components import Inputs
from livetalk_core.bench.counted import BLOCK_OPS, DECODE_OPS, LARGE, STEP_BYTES, block_call
from livetalk_core.bench.fused import Fused, fuse, fuse_pieces
from livetalk_core.bench.networks import META, default_dtype, random_engine
from livetalk_core.engine.denoiser import Cuts
from livetalk_core.models.convolution import fold_kernels, lay_channels_last
from livetalk_core.models.small_dit import build_dit
from livetalk_core.models.vae import DECODER_FORM, CausalVAE, fit_groups
from livetalk_core.presets import Preset, livetalk_14b
from livetalk_core.stream.session import DECODE_GROUPS

FORM = "inductor's form for a CPU"


@functools.cache
def compiled_limits() -> dict[str, tuple[float, str]]:
    """The value, and what is to be said of it, of each of `count_limits`'s numbers that are the compiled form's; takes two minutes."""
    preset = livetalk_14b()
    block, pieces = fuse_block(preset, LARGE), fuse_decode(preset, LARGE)
    loops, calls = sum(piece.loops for piece in pieces), sum(piece.calls for piece in pieces)
    sizes = ", ".join(str(piece.ops) for piece in pieces)
    return {
        BLOCK_OPS: (block.ops, f"{block.loops} loops and {block.calls} calls in {FORM}"),
        STEP_BYTES: (preset.dit.num_layers * block.loop_bytes / 1e9, f"of its {preset.dit.num_layers} blocks, in {FORM}"),
        DECODE_OPS: (loops + calls, f"{loops} loops and {calls} calls in {FORM}, by pieces {sizes}"),
    }


@torch.no_grad()
def fuse_block(preset: Preset, size: tuple[int, int], dtype: torch.dtype = torch.bfloat16) -> Fused:
    """A DiT block that is not the last, with all savings."""
    with weightless_inputs(preset, size, dtype) as inputs:
        return fuse(block_call(inputs))


@torch.no_grad()
def fuse_decode(preset: Preset, size: tuple[int, int], dtype: torch.dtype = torch.bfloat16) -> list[Fused]:
    """The VAE's decoder, piece by piece as it is served, laid in memory as on a GPU, where pictures follow the weights."""
    with weightless_inputs(preset, size, dtype) as inputs:
        latents_BCTHW = inputs.latents(inputs.plan.latent_frames)[None].contiguous(memory_format=torch.channels_last_3d)
        pieces = latents_BCTHW.split(fit_groups(DECODE_GROUPS, inputs.plan.latent_frames), dim=2)
        return fuse_pieces(inputs.engine.models.vae.decoder, list(pieces), DECODER_FORM)


@contextmanager
def weightless_inputs(preset: Preset, size: tuple[int, int], dtype: torch.dtype) -> Iterator[Inputs]:
    """Of two blocks, the first of which is as all others, and a VAE, as if on the CPU. Tensors made here have no memory."""
    preset = replace(preset, dit=replace(preset.dit, num_layers=2))
    engine = random_engine(preset, META, dtype)
    inputs = Inputs(engine, engine.plan(*size), Cuts(), preset.steps)
    with FakeTensorMode(), default_dtype(dtype):
        dit, vae = (network.requires_grad_(False) for network in (build_dit(preset.dit), CausalVAE(preset.vae)))
        lay_channels_last(vae)
        fold_kernels(vae)
        engine.device, engine.models = torch.device("cpu"), replace(engine.models, dit=dit, vae=vae)
        yield inputs
