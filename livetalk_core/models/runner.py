"""Interfaces that decide how a DiT runs: where a block's weights are, and which tokens this process computes.

BlockRunner: the calls that the DiT makes to each block. A Block implements it; a wrapper can load the block's weights first.
SequenceRunner: chooses the tokens that this process runs through the blocks, and the Attention by which they see the other tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from livetalk_core.models.attention import attention
from livetalk_core.models.audio_attention import AbsorbedAudio, AudioKeys
from livetalk_core.models.layers import ContextKeys, KeyValue
from livetalk_core.models.rope import Grid
from livetalk_core.models.speakers import speaker_positions


class Attention(Protocol):
    """How the local tokens attend to the whole chunk."""

    def attend(self, q_BLNK: Tensor, k_BLNK: Tensor, v_BLNK: Tensor) -> Tensor:
        """Self-attention [B, L, N, K]. There may be fewer queries than keys."""
        ...

    def locate(self, q_BLNK: Tensor, k_BLNK: Tensor, masks_KL: Tensor, tokens_per_frame: int) -> Tensor:
        """Each query's position on the speakers' line, [B, L]."""
        ...


class BlockRunner(Protocol):
    """One block: context keys once per stream, audio keys once per chunk, the call itself in every step."""

    def context_keys(self, text_BLD: Tensor, image_BLD: Tensor) -> ContextKeys: ...

    def audio_keys(self, tokens_BTAD: Tensor, people: int) -> KeyValue: ...

    def absorb(self, audio: KeyValue, batch: int) -> AbsorbedAudio: ...

    def __call__(
        self,
        x_BLD: Tensor,
        grid: Grid,
        time_B6D: Tensor,
        context: ContextKeys,
        audio: AudioKeys,
        masks_KL: Tensor | None,
        skip: int,
        attention: Attention,
    ) -> Tensor: ...


EVERY_FRAME = slice(None)
RunBlocks = Callable[[Tensor, Grid, int, Attention], Tensor]
"""Runs all blocks and the head on tokens [B, L, D]: (tokens, grid, skip, attention). The first `skip` tokens are not in the result."""


class SequenceRunner(Protocol):
    def run(self, blocks: RunBlocks, x_BLD: Tensor, grid: Grid, skip: int) -> Tensor:
        """The output of `blocks` for a chunk's tokens from token `skip` on, the same on every process."""
        ...

    def frames(self, num_frames: int, tokens_per_frame: int) -> slice:
        """The latent frames of a chunk whose audio keys this process needs: those of its tokens."""
        ...


class WholeAttention:
    """This process has all tokens."""

    def attend(self, q_BLNK: Tensor, k_BLNK: Tensor, v_BLNK: Tensor) -> Tensor:
        return attention(q_BLNK, k_BLNK, v_BLNK)

    def locate(self, q_BLNK: Tensor, k_BLNK: Tensor, masks_KL: Tensor, tokens_per_frame: int) -> Tensor:
        return speaker_positions(q_BLNK, k_BLNK, masks_KL, tokens_per_frame)


WHOLE = WholeAttention()


class WholeSequence:
    """One process computes all tokens."""

    def run(self, blocks: RunBlocks, x_BLD: Tensor, grid: Grid, skip: int) -> Tensor:
        return blocks(x_BLD, grid, skip, WHOLE)

    def frames(self, num_frames: int, tokens_per_frame: int) -> slice:
        return slice(0, num_frames)
