"""The DiT over a group of processes: each holds a slice of the tokens, and only self-attention and the speaker map look beyond it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from livetalk_core.models.dit import AudioDiT, ContextKeys, TimeEmbedding
from livetalk_core.models.layers import KeyValue
from livetalk_core.models.rope import Grid
from livetalk_core.models.speakers import line_positions, reference_likeness
from livetalk_core.parallel.exchange import gather_parts, share_first
from livetalk_core.parallel.group import SequenceGroup
from livetalk_core.parallel.ring import sequence_attention
from livetalk_core.parallel.topology import check_degrees, slice_lengths


def parallelize_dit(model: AudioDiT, group: SequenceGroup) -> None:
    """From now on every process of the group calls the model with the same inputs and gets the same, whole velocity.

    The state dict is unchanged. Any number of tokens works, as long as each process has one. ValueError when the heads do not divide.
    """
    check_degrees(group.ulysses_degree, group.ring_degree, group.size, model.config.num_heads)
    sequence = SequenceParallel(model.run_blocks, group)
    model.run_blocks = sequence.run_blocks
    for block in model.blocks:
        block.self_attn.attend, block.self_attn.locate = sequence.attend, sequence.locate


class SequenceParallel:
    """Stands where the model runs its blocks, attends, and locates speakers."""

    def __init__(self, run_whole: Callable[..., Tensor], group: SequenceGroup):
        self.run_whole, self.group = run_whole, group
        self.lengths: list[int] = []

    def run_blocks(
        self,
        x_BLD: Tensor,
        grid: Grid,
        time: TimeEmbedding,
        context: list[ContextKeys],
        audio: list[KeyValue],
        masks_KL: Tensor | None,
        skip: int = 0,
    ) -> Tensor:
        """The model's blocks on this process's tokens, all of them; the head's output is gathered, and begins at token `skip`."""
        self.lengths = slice_lengths(x_BLD.shape[1], self.group.size)
        first = sum(self.lengths[: self.group.rank])
        mine = slice(first, first + self.lengths[self.group.rank])
        part = Grid(grid.cos_LK[mine], grid.sin_LK[mine], grid.tokens_per_frame, grid.first + first)
        y_BLD = self.run_whole(x_BLD[:, mine], part, time, context, audio, masks_KL)
        return gather_parts(y_BLD, 1, self.lengths, self.group.whole)[:, skip:]

    def attend(self, q_BLNK: Tensor, k_BLNK: Tensor, v_BLNK: Tensor) -> Tensor:
        """Own tokens' attention to the whole chunk. xfuser takes half precision, and a ring only in equal slices."""
        usp, even = self.group.usp, len(set(self.lengths)) == 1
        if usp is None or q_BLNK.dtype not in (torch.bfloat16, torch.float16) or (self.group.ring_degree > 1 and not even):
            return sequence_attention(q_BLNK, k_BLNK, v_BLNK, self.lengths, self.group)
        return usp_attention(usp, q_BLNK, k_BLNK, v_BLNK, self.lengths)

    def locate(self, q_BLNK: Tensor, k_BLNK: Tensor, masks_KL: Tensor, tokens_per_frame: int) -> Tensor:
        """Own tokens' positions between the speakers: the first frame's keys from their owners, the extremes from all."""
        first_BSNK = share_first(k_BLNK, 1, tokens_per_frame, self.lengths, self.group.whole)
        likeness_BKL = reference_likeness(q_BLNK, first_BSNK, masks_KL)
        extremes_SBK1 = torch.stack([-likeness_BKL.amin(-1, keepdim=True), likeness_BKL.amax(-1, keepdim=True)])
        dist.all_reduce(extremes_SBK1, dist.ReduceOp.MAX, group=self.group.whole)
        return line_positions(likeness_BKL, -extremes_SBK1[0], extremes_SBK1[1])


def usp_attention(usp: Callable[..., Tensor], q_BLNK: Tensor, k_BLNK: Tensor, v_BLNK: Tensor, lengths: list[int]) -> Tensor:
    """xfuser's attention: slices filled up to one length, as it wants them, and the filling, all at the end, kept from the keys.

    `valid_kv_len` counts from the start after heads were traded for tokens (xfuser 0.7.0).
    Checked over gloo with a CPU kernel; not yet run on several GPUs.
    """
    own, longest, total = q_BLNK.shape[1], max(lengths), sum(lengths)
    q, k, v = (F.pad(x, (0, 0, 0, 0, 0, longest - own)).transpose(1, 2) for x in (q_BLNK, k_BLNK, v_BLNK))
    limit = {"valid_kv_len": total} if total < longest * len(lengths) else None
    out_BNLK = usp(q, k, v, combine_qkv_a2a=True, attention_kwargs=limit)
    return out_BNLK.transpose(1, 2)[:, :own]
