"""How a DiT is run. The network is weights and formulas; where its weights wait and which tokens a process has is settled here.

BlockRunner: what the DiT asks of each block. A Block runs itself; what keeps weights elsewhere stands before one and brings them first.
SequenceRunner: which of a chunk's tokens go through the blocks in this process, and the Attention by which these see the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from livetalk_core.models.attention import attention
from livetalk_core.models.audio_attention import AbsorbedAudio
from livetalk_core.models.layers import ContextKeys, KeyValue
from livetalk_core.models.rope import Grid
from livetalk_core.models.speakers import speaker_positions


class Attention(Protocol):
    """How the tokens in hand look at those of the whole chunk."""

    def attend(self, q_BLNK: Tensor, k_BLNK: Tensor, v_BLNK: Tensor) -> Tensor:
        """Self-attention, [B, L, N, K]; there may be fewer queries than keys."""
        ...

    def locate(self, q_BLNK: Tensor, k_BLNK: Tensor, masks_KL: Tensor, tokens_per_frame: int) -> Tensor:
        """Each query's place between the speakers, [B, L]."""
        ...


class BlockRunner(Protocol):
    """One block: its keys once a stream and once a chunk, its work in every step."""

    def context_keys(self, text_BLD: Tensor, image_BLD: Tensor) -> ContextKeys: ...

    def audio_keys(self, tokens_BTAD: Tensor, people: int) -> KeyValue: ...

    def absorb(self, audio: KeyValue, batch: int) -> AbsorbedAudio: ...

    def __call__(
        self,
        x_BLD: Tensor,
        grid: Grid,
        time_B6D: Tensor,
        context: ContextKeys,
        audio: KeyValue | AbsorbedAudio,
        masks_KL: Tensor | None,
        skip: int,
        attention: Attention,
    ) -> Tensor: ...


RunBlocks = Callable[[Tensor, Grid, int, Attention], Tensor]
"""All blocks and the head on tokens [B, L, D] of a grid, by an attention; the first tokens, so many, are left out of the result."""


class SequenceRunner(Protocol):
    def run(self, blocks: RunBlocks, x_BLD: Tensor, grid: Grid, skip: int) -> Tensor:
        """What `blocks` make of a chunk's tokens, from token `skip` on: the same on every process."""
        ...


class WholeAttention:
    """All tokens are in hand."""

    def attend(self, q_BLNK: Tensor, k_BLNK: Tensor, v_BLNK: Tensor) -> Tensor:
        return attention(q_BLNK, k_BLNK, v_BLNK)

    def locate(self, q_BLNK: Tensor, k_BLNK: Tensor, masks_KL: Tensor, tokens_per_frame: int) -> Tensor:
        return speaker_positions(q_BLNK, k_BLNK, masks_KL, tokens_per_frame)


WHOLE = WholeAttention()


class WholeSequence:
    """One process works out all tokens."""

    def run(self, blocks: RunBlocks, x_BLD: Tensor, grid: Grid, skip: int) -> Tensor:
        return blocks(x_BLD, grid, skip, WHOLE)
