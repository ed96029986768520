"""The DiT over a group of processes: each holds a slice of the tokens, and only self-attention and the speaker map look beyond it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from livetalk_core.models.rope import Grid
from livetalk_core.models.runner import Attention, RunBlocks
from livetalk_core.models.speakers import line_positions, reference_likeness
from livetalk_core.parallel.exchange import gather_parts, share_first
from livetalk_core.parallel.group import SequenceGroup
from livetalk_core.parallel.ring import sequence_attention
from livetalk_core.parallel.topology import check_degrees, slice_lengths


class SequenceParallel:
    """A SequenceRunner: every process of the group calls the DiT with the same inputs, and gets the same, whole answer.

    Any number of tokens works, as long as each process has one. ValueError when the heads do not divide. `compiled`: the blocks are, and
    the group's exchanges stay out of their graphs.
    """

    def __init__(self, group: SequenceGroup, num_heads: int, compiled: bool = False):
        check_degrees(group.ulysses_degree, group.ring_degree, group.size, num_heads)
        self.group, self.compiled = group, compiled
        self.attentions: dict[int, Attention] = {}
        """By the number of tokens; a compiled block knows each by its identity."""

    def run(self, blocks: RunBlocks, x_BLD: Tensor, grid: Grid, skip: int) -> Tensor:
        """The blocks on this process's tokens, all of them; the head's output is gathered, and begins at token `skip`."""
        lengths = slice_lengths(x_BLD.shape[1], self.group.size)
        first = sum(lengths[: self.group.rank])
        mine = slice(first, first + lengths[self.group.rank])
        part = Grid(grid.cos_LK[mine], grid.sin_LK[mine], grid.tokens_per_frame, grid.first + first)
        y_BLD = blocks(x_BLD[:, mine], part, 0, self.attention_over(lengths))
        return gather_parts(y_BLD, 1, lengths, self.group.whole)[:, skip:]

    def attention_over(self, lengths: list[int]) -> Attention:
        total = sum(lengths)
        if total not in self.attentions:
            attention = SliceAttention(lengths, self.group)
            self.attentions[total] = outside_graphs(attention) if self.compiled else attention
        return self.attentions[total]


@dataclass(frozen=True)
class SliceAttention:
    """The Attention of one process's slice of tokens; `lengths[r]` is process r's."""

    lengths: list[int]
    group: SequenceGroup

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


@dataclass(frozen=True)
class OutsideGraphs:
    """An Attention that a compiler calls rather than looks into."""

    attend: Callable[..., Tensor]
    locate: Callable[..., Tensor]


def outside_graphs(attention: Attention) -> OutsideGraphs:
    return OutsideGraphs(torch.compiler.disable(attention.attend), torch.compiler.disable(attention.locate))


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
