"""Exact self-attention over tokens on several processes: all-to-all of heads and tokens (Ulysses), keys passed around (ring).

Ulysses: Jacobs et al. 2023 (DeepSpeed-Ulysses). Ring: Liu et al. 2023 (Ring Attention). Both at once: Fang and Zhao 2024 (USP).
Slices may differ in length; nothing is padded.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from livetalk_core.models.attention import attention, wanted_kernel
from livetalk_core.parallel.exchange import gather_parts, heads_for_tokens, send_to_next, tokens_for_heads
from livetalk_core.parallel.group import SequenceGroup

aten = torch.ops.aten
RING_KERNELS = ("auto", "sdpa", "flash")
"""Selected kernels for which keys are passed around: torch's kernel that also returns the softmax's sum does the work. For all others the
ring gathers its keys first, so that any kernel works."""


def sequence_attention(q_BLNK: Tensor, k_BLNK: Tensor, v_BLNK: Tensor, lengths: list[int], group: SequenceGroup) -> Tensor:
    """Attention of the local tokens to all tokens of the group, [B, local L, N, K]; process r has `lengths[r]` tokens."""
    rows = [lengths[i : i + group.ulysses_degree] for i in range(0, group.size, group.ulysses_degree)]
    mine = rows[group.ring_place]
    q, k, v = tokens_for_heads(torch.stack([q_BLNK, k_BLNK, v_BLNK]), mine, group.ulysses)
    if group.ring_degree == 1:
        out = attention(q, k, v)
    elif wanted_kernel() in RING_KERNELS:
        out = ring_attention(q, k, v, [sum(row) for row in rows], group.ring)
    else:
        out = attention(q, *gather_parts(torch.stack([k, v]), 2, [sum(row) for row in rows], group.ring))
    return heads_for_tokens(out, mine, q_BLNK.shape[1], group.ulysses)


def ring_attention(q_BLNK: Tensor, k_BMNK: Tensor, v_BMNK: Tensor, lengths: list[int], group: dist.ProcessGroup) -> Tensor:
    """Attention to the keys of the whole ring, one block at a time. The next block is received meanwhile."""
    place, size = dist.get_rank(group), dist.get_world_size(group)
    block_SBMNK = torch.stack([k_BMNK, v_BMNK])
    out, lse = None, None
    for step in range(size):
        works: list[dist.Work] = []
        if step + 1 < size:
            shape = (*block_SBMNK.shape[:2], lengths[(place - step - 1) % size], *block_SBMNK.shape[3:])
            following = block_SBMNK.new_empty(shape)
            works = send_to_next(block_SBMNK, following, group)
        part = attention_lse(q_BLNK, *block_SBMNK)
        out, lse = part if out is None else merge(out, lse, *part)
        for work in works:
            work.wait()
            block_SBMNK = following
    return out.to(q_BLNK.dtype)


def merge(out_BLNK: Tensor, lse_BLN1: Tensor, other_BLNK: Tensor, other_lse_BLN1: Tensor) -> tuple[Tensor, Tensor]:
    """Combine attention over two sets of keys: outputs are weighted by their shares of the softmax's sum."""
    total_BLN1 = torch.logaddexp(lse_BLN1, other_lse_BLN1)
    return out_BLNK * (lse_BLN1 - total_BLN1).exp() + other_BLNK * (other_lse_BLN1 - total_BLN1).exp(), total_BLN1


def attention_lse(q_BLNK: Tensor, k_BMNK: Tensor, v_BMNK: Tensor) -> tuple[Tensor, Tensor]:
    """softmax(q k / sqrt(K)) v and the log of the softmax's sum, both float32: [B, L, N, K] and [B, L, N, 1]."""
    q, k, v = (x.transpose(1, 2) for x in (q_BLNK, k_BMNK, v_BMNK))
    if q.device.type != "cuda":
        out, lse = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)
    elif q.dtype == torch.float32:
        out, lse = aten._scaled_dot_product_efficient_attention(q, k, v, None, True)[:2]
    else:
        out, lse = aten._scaled_dot_product_flash_attention(*aligned(q, k, v), scale=q.shape[-1] ** -0.5)[:2]
    # Kernels may pad the queries (lse) and the head width (out).
    return out[..., : q.shape[-1]].transpose(1, 2).float(), lse[..., : q.shape[2]].transpose(1, 2)[..., None].float()


def aligned(*tensors: Tensor) -> list[Tensor]:
    """Head width padded with zeros to a multiple of 8, which the CUDA kernel requires."""
    return [F.pad(x, (0, -x.shape[-1] % 8)) if x.shape[-1] % 8 else x for x in tensors]
