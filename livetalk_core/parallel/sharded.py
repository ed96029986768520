"""Sharded DiT weights: every process holds a part of each block, and a block is gathered just before it runs.

FSDP2 without gradients: `fully_shard` for each block, and separately for layers that are called outside the block's forward.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from livetalk_core.models.dit import AudioDiT
from livetalk_core.parallel.group import SequenceGroup

OUTSIDE_FORWARD = ("embed_context", "embed_audio", "absorb_audio")


def shard_blocks(
    dit: AudioDiT, group: SequenceGroup, dtype: torch.dtype, settle: Callable[[str, nn.Module], None] = lambda prefix, module: None
) -> None:
    """Shard the DiT's blocks over the group, which must be the whole world, on its device and in `dtype`.

    Afterwards every process must make the same calls in the same order. Blocks are moved and sharded one at a time; layers outside the
    blocks are small and stay whole on every process. While a block runs, the next is prefetched; the first of a step is not.
    Key layers of prompt and picture (a quarter of a block at 14B) are gathered once per stream, those of audio once per chunk.
    State dict names stay; block weights become DTensors. `settle` converts a part of the DiT before it is moved, given its names' prefix.
    """
    assert group.size == dist.get_world_size(), "FSDP uses the world's own process group, which attention does not use"
    how = {"mesh": DeviceMesh.from_group(dist.group.WORLD, group.device.type), "reshard_after_forward": True}
    for i, block in enumerate(dit.blocks):
        settle(f"blocks.{i}.", block)
        block.to(group.device, dtype)
        context, audio = block.cross_attn, block.audio_cross_attn
        fully_shard([context.k, context.v, context.norm_k, context.k_img, context.v_img, context.norm_k_img], **how)
        fully_shard(audio.kv_linear, **how)
        fully_shard(audio, **how)
        register_fsdp_forward_method(audio, "absorb")
        fully_shard(block, **how)
    for block, following in pairwise(dit.blocks):
        block.set_modules_to_forward_prefetch([following, following.audio_cross_attn])
    whole = {name: child for name, child in dit.named_children() if child is not dit.blocks}
    for name, child in whole.items():
        settle(f"{name}.", child)
        child.to(group.device, dtype)
    fully_shard(dit, ignored_params={weight for child in whole.values() for weight in child.parameters()}, **how)
    for name in OUTSIDE_FORWARD:
        register_fsdp_forward_method(dit, name)
