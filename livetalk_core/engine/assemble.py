"""Puts the networks together: where the DiT's weights are kept, how processes share the work, what is compiled.

`keep_dit` runs during loading, so that weights go from their files directly to where they are kept; `assemble` does the rest.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import torch

from livetalk_core.engine.compile import compile_models
from livetalk_core.engine.engine import Engine
from livetalk_core.engine.lora_files import read_loras
from livetalk_core.engine.options import EngineOptions
from livetalk_core.engine.weight_plan import WeightPlan, settle_whole
from livetalk_core.models.convolution import lay_channels_last
from livetalk_core.models.dit import AudioDiT
from livetalk_core.models.tiny_decoder import CHANNELS, SPATIAL_STRIDE, TEMPORAL_STRIDE, DraftVAE, TinyDecoder
from livetalk_core.models.vae import CausalVAE
from livetalk_core.parallel.context import SequenceParallel
from livetalk_core.parallel.group import SequenceGroup
from livetalk_core.parallel.memory import free_bytes, host_bytes, host_share, settle_memory
from livetalk_core.parallel.offload import offload_blocks
from livetalk_core.parallel.vae import parallelize_vae

log = logging.getLogger(__name__)


def assemble(engine: Engine, options: EngineOptions, group: SequenceGroup | None = None, tiny: TinyDecoder | None = None) -> Engine:
    """Prepare a loaded engine: share its work with a group, replace its decoder, compile, as the options say.

    ValueError for what the model or device cannot do.
    """
    dit = engine.models.dit
    if group is not None:
        dit.sequence = SequenceParallel(group, dit.config.num_heads, compiled=options.compile)
        engine.models = replace(engine.models, vae=parallelize_vae(engine.models.vae, group))
    if tiny is not None:
        draft_with(engine, tiny)
    if options.compile:
        compile_models(dit, engine.models.vae, engine.device)
        engine.deviations.compiled = True
    return engine


def draft_with(engine: Engine, tiny: TinyDecoder) -> None:
    """Make the engine's frames with the tiny decoder from now on. ValueError for latents other than Wan 2.1's."""
    vae = engine.models.vae
    fits = isinstance(vae, CausalVAE) and (vae.temporal_stride, vae.spatial_stride) == (TEMPORAL_STRIDE, SPATIAL_STRIDE)
    if not fits or vae.config.z_dim != CHANNELS:
        raise ValueError(
            f"--decoder takes latents of the Wan 2.1 VAE, {CHANNELS} channels, and {engine.preset.name} has another VAE, "
            f"{vae.config.z_dim} channels; leave it out, or choose a model with that VAE"
        )
    tiny.to(engine.device, engine.dtype)
    if engine.device.type == "cuda":
        lay_channels_last(tiny)
    draft = DraftVAE(vae, tiny)
    engine.models, engine.deviations.draft = replace(engine.models, vae=draft), draft


def keep_dit(
    dit: AudioDiT,
    memory: str,
    device: torch.device,
    dtype: torch.dtype,
    group: SequenceGroup | None = None,
    other_bytes: int = 0,
    plan: WeightPlan | None = None,
    room_bytes: int = 0,
) -> None:
    """Move the DiT's weights from the CPU, or from mapped files, to where `memory` says, converted as `plan` says.

    `other_bytes`: all other networks that stay loaded. `room_bytes`: those to leave free for the work. Encoders that are loaded only for a
    moment go to the CPU if there is no room.
    """
    plan = plan or WeightPlan(device=device, dtype=dtype)
    plan = replace(plan, deltas=read_loras(plan.loras, dit))
    if memory == "sharded":
        from livetalk_core.parallel.sharded import shard_blocks  # imported here because it takes 0.7 s

        return shard_blocks(dit, group, dtype, plan.settle)
    blocks, rest = plan.bytes_of(dit)
    count = len(dit.blocks)
    rest += other_bytes
    host = host_share(host_bytes(), 1 if group is None else group.size) if device.type == "cuda" else None
    settled, resident = settle_memory(memory, free_bytes(device), blocks // count, count, rest, room_bytes, host)
    if settled == "resident":
        settle_whole(dit, plan)
    else:
        dit.runners = offload_blocks(dit, device, dtype, resident=resident, settle=plan.settle)
    log.info("memory on %s: %s, %d of the DiT's %d blocks stay there", device, settled, resident, count)
