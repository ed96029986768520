"""The DiT whose weights a group of processes shares: each holds its part of every block, and a block is gathered just before it works.

FSDP2 without a gradient: `fully_shard` per block, and apart from it for what is used apart from it. Blocks still run themselves.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from livetalk_core.models.dit import AudioDiT
from livetalk_core.parallel.group import SequenceGroup

OUTSIDE_FORWARD = ("embed_context", "embed_audio", "absorb_audio")


def shard_blocks(dit: AudioDiT, group: SequenceGroup, dtype: torch.dtype) -> None:
    """From now on every process of the group, which is the whole world, calls the DiT in the same order, on its device in `dtype`.

    A block's weights come to each process's device one block at a time, and all but 1 / size of them go again. What is outside the
    blocks is small and whole everywhere. While a block works, the next one is gathered; the first one of a step is waited for.
    The keys of prompt and picture (a quarter of a block at 14B) are gathered once a stream, those of the sound once a chunk.
    The names of the state dict stay; its block weights are DTensors.
    """
    assert group.size == dist.get_world_size(), "weights are shared over the world's own process group, which attention does not use"
    how = {"mesh": DeviceMesh.from_group(dist.group.WORLD, group.device.type), "reshard_after_forward": True}
    for block in dit.blocks:
        block.to(group.device, dtype)
        context, audio = block.cross_attn, block.audio_cross_attn
        fully_shard([context.k, context.v, context.norm_k, context.k_img, context.v_img, context.norm_k_img], **how)
        fully_shard(audio.kv_linear, **how)
        fully_shard(audio, **how)
        register_fsdp_forward_method(audio, "absorb")
        fully_shard(block, **how)
    for block, following in pairwise(dit.blocks):
        block.set_modules_to_forward_prefetch([following, following.audio_cross_attn])
    whole = [child.to(group.device, dtype) for child in dit.children() if child is not dit.blocks]
    fully_shard(dit, ignored_params={weight for child in whole for weight in child.parameters()}, **how)
    for name in OUTSIDE_FORWARD:
        register_fsdp_forward_method(dit, name)
