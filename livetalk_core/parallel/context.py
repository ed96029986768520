"""Sequence parallelism for the DiT: every process has a slice of the tokens; only self-attention and speaker positions communicate."""

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
    """A SequenceRunner. Every process of the group calls the DiT with the same inputs and gets the same whole output.

    Any number of tokens works if every process gets at least one. ValueError if the degrees do not divide the heads. `compiled`: the
    blocks are compiled; communication then runs outside their graphs.
    """

    def __init__(self, group: SequenceGroup, num_heads: int, compiled: bool = False):
        check_degrees(group.ulysses_degree, group.ring_degree, group.size, num_heads)
        self.group, self.compiled = group, compiled
        self.attentions: dict[int, Attention] = {}
        """By number of tokens. Cached because a compiled block recompiles for a new object."""

    def run(self, blocks: RunBlocks, x_BLD: Tensor, grid: Grid, skip: int) -> Tensor:
        """Run the blocks on this process's tokens and gather the output from token `skip` on."""
        lengths = slice_lengths(x_BLD.shape[1], self.group.size)
        first = sum(lengths[: self.group.rank])
        mine = slice(first, first + lengths[self.group.rank])
        part = Grid(grid.cos_LK[mine], grid.sin_LK[mine], grid.tokens_per_frame, first % grid.tokens_per_frame)
        y_BLD = blocks(x_BLD[:, mine], part, 0, self.attention_over(lengths))
        return gather_parts(y_BLD, 1, lengths, self.group.whole)[:, skip:]

    def frames(self, num_frames: int, tokens_per_frame: int) -> slice:
        """The latent frames that this process's tokens are part of: two or three of nine on each of 8 processes at 720 x 416."""
        lengths = slice_lengths(num_frames * tokens_per_frame, self.group.size)
        first = sum(lengths[: self.group.rank])
        return slice(first // tokens_per_frame, -(-(first + lengths[self.group.rank]) // tokens_per_frame))

    def attention_over(self, lengths: list[int]) -> Attention:
        total = sum(lengths)
        if total not in self.attentions:
            attention = SliceAttention(lengths, self.group)
            self.attentions[total] = untraced(attention) if self.compiled else attention
        return self.attentions[total]


@dataclass(frozen=True)
class SliceAttention:
    """The Attention for one process's slice of tokens; process r has `lengths[r]` tokens."""

    lengths: list[int]
    group: SequenceGroup

    def attend(self, q_BLNK: Tensor, k_BLNK: Tensor, v_BLNK: Tensor) -> Tensor:
        """Attention of the local tokens to the whole chunk. xfuser supports half precision only, and a ring only with equal slices."""
        usp, even = self.group.usp, len(set(self.lengths)) == 1
        if usp is None or q_BLNK.dtype not in (torch.bfloat16, torch.float16) or (self.group.ring_degree > 1 and not even):
            return sequence_attention(q_BLNK, k_BLNK, v_BLNK, self.lengths, self.group)
        return usp_attention(usp, q_BLNK, k_BLNK, v_BLNK, self.lengths)

    def locate(self, q_BLNK: Tensor, k_BLNK: Tensor, masks_KL: Tensor, tokens_per_frame: int) -> Tensor:
        """Positions of the local tokens on the speakers' line. First-frame keys are broadcast; extremes are reduced over the group."""
        first_BSNK = share_first(k_BLNK, 1, tokens_per_frame, self.lengths, self.group.whole)
        likeness_BKL = reference_likeness(q_BLNK, first_BSNK, masks_KL)
        extremes_SBK1 = torch.stack([-likeness_BKL.amin(-1, keepdim=True), likeness_BKL.amax(-1, keepdim=True)])
        dist.all_reduce(extremes_SBK1, dist.ReduceOp.MAX, group=self.group.whole)
        return line_positions(likeness_BKL, -extremes_SBK1[0], extremes_SBK1[1])


@dataclass(frozen=True)
class UntracedAttention:
    """An Attention that a compiler calls but does not trace."""

    attend: Callable[..., Tensor]
    locate: Callable[..., Tensor]


def untraced(attention: Attention) -> UntracedAttention:
    return UntracedAttention(torch.compiler.disable(attention.attend), torch.compiler.disable(attention.locate))


def usp_attention(usp: Callable[..., Tensor], q_BLNK: Tensor, k_BLNK: Tensor, v_BLNK: Tensor, lengths: list[int]) -> Tensor:
    """xfuser's attention. It needs equal slices, so they are padded; the padding is last, and `valid_kv_len` masks it.

    `valid_kv_len` counts from the start of the sequence after the all-to-all (xfuser 0.7.0).
    Checked over gloo with a CPU kernel; not yet run on several GPUs.
    """
    own, longest, total = q_BLNK.shape[1], max(lengths), sum(lengths)
    q, k, v = (F.pad(x, (0, 0, 0, 0, 0, longest - own)).transpose(1, 2) for x in (q_BLNK, k_BLNK, v_BLNK))
    limit = {"valid_kv_len": total} if total < longest * len(lengths) else None
    out_BNLK = usp(q, k, v, combine_qkv_a2a=True, attention_kwargs=limit)
    return out_BNLK.transpose(1, 2)[:, :own]
