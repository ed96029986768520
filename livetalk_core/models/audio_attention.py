"""Audio conditioning of the DiT: projects audio windows to tokens, and lets each latent frame attend to its own audio.

Axes: B batch, P people, T latent frames, W window, X audio layers x channels, A audio tokens, S tokens of a frame, L tokens, D width,
N heads, K head width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from livetalk_core.models.attention import attention
from livetalk_core.models.layers import KeyValue, heads, norm_fp32
from livetalk_core.models.packed import dense_weight
from livetalk_core.models.rope import Grid, rotate
from livetalk_core.models.speakers import key_positions, speaker_table

if TYPE_CHECKING:
    from livetalk_core.models.dit_config import DiTConfig


class AbsorbedAudio(NamedTuple):
    """One block's audio keys and values, multiplied in advance by the query and output projections, so that tokens need neither.

    This works because there is no norm on these queries and keys: q k = x (Wq k) + bq k, and Wo (sum of v) = sum of Wo v.
    """

    keys_BTND: Tensor
    """[B, T, N x A, D]."""
    bias_BTN: Tensor
    values_BTND: Tensor


class ScaledAudio(NamedTuple):
    """One block's audio keys and values, and a number [] by which the attention's output is multiplied."""

    keys: KeyValue | AbsorbedAudio
    strength: Tensor


AudioKeys: TypeAlias = KeyValue | AbsorbedAudio | ScaledAudio


def is_absorbed(audio: AudioKeys) -> bool:
    """Whether a block needs no query and output projections for this audio."""
    return isinstance(audio.keys if isinstance(audio, ScaledAudio) else audio, AbsorbedAudio)


class AudioAttention(nn.Module):
    """Cross-attention of each latent frame's tokens to that frame's own audio tokens."""

    def __init__(self, config: DiTConfig):
        super().__init__()
        self.num_heads = config.num_heads
        self.q_linear = nn.Linear(config.dim, config.dim)
        self.kv_linear = nn.Linear(config.audio_width, 2 * config.dim)
        self.proj = nn.Linear(config.dim, config.dim)

    def keys(self, tokens_BTAD: Tensor, people: int) -> KeyValue:
        """Keys and values [B x T, A, N, K]. With two people the keys are rotated to their speaker's position."""
        k, v = (heads(y.flatten(0, 1), self.num_heads) for y in self.kv_linear(tokens_BTAD).chunk(2, dim=-1))
        if people > 1:
            k = rotate(k, *speaker_table(key_positions(k.shape[1], k.device), k.shape[-1]))
        return KeyValue(k, v)

    def absorb(self, audio: KeyValue, batch: int) -> AbsorbedAudio:
        """Absorb q_linear and proj into one speaker's keys and values. Done once per chunk."""
        k, v = (y.unflatten(0, (batch, -1)) for y in audio)
        into_q = dense_weight(self.q_linear, k.dtype).unflatten(0, (self.num_heads, -1))
        bias = self.q_linear.bias.unflatten(0, (self.num_heads, -1))
        out_of_v = dense_weight(self.proj, v.dtype).unflatten(1, (self.num_heads, -1))
        return AbsorbedAudio(
            torch.einsum("btank,nkd->btnad", k, into_q).flatten(2, 3),
            torch.einsum("btank,nk->btna", k, bias).flatten(2, 3),
            torch.einsum("btank,dnk->btnad", v, out_of_v).flatten(2, 3),
        )

    def forward(self, x_BLD: Tensor, audio: AudioKeys, grid: Grid, positions_BL: Tensor | None) -> Tensor:
        if isinstance(audio, ScaledAudio):
            return self.attend(x_BLD, audio.keys, grid, positions_BL) * audio.strength
        return self.attend(x_BLD, audio, grid, positions_BL)

    def attend(self, x_BLD: Tensor, audio: KeyValue | AbsorbedAudio, grid: Grid, positions_BL: Tensor | None) -> Tensor:
        """The attention's output at full strength."""
        if isinstance(audio, AbsorbedAudio):
            return attend_absorbed(x_BLD, audio, grid, self.num_heads) + self.proj.bias
        q = heads(self.q_linear(x_BLD), self.num_heads)
        if positions_BL is not None:
            q = rotate(q, *speaker_table(positions_BL, q.shape[-1]))
        return self.proj(attend_per_frame(q, audio, grid).flatten(2))


def attend_per_frame(q_BLNK: Tensor, audio: KeyValue, grid: Grid) -> Tensor:
    """Each token attends to the keys of its own frame only."""
    batch = q_BLNK.shape[0]

    def attend(q_BTSNK: Tensor, frames: slice) -> Tensor:
        k, v = (y.unflatten(0, (batch, -1))[:, frames].flatten(0, 1) for y in audio)
        return attention(q_BTSNK.flatten(0, 1), k, v).unflatten(0, (batch, -1))

    return by_frame(attend, q_BLNK, grid)


def attend_absorbed(x_BLD: Tensor, audio: AbsorbedAudio, grid: Grid, num_heads: int) -> Tensor:
    """The same with absorbed keys: two matrix products on the tokens, with a softmax per head between them."""

    scale = (x_BLD.shape[-1] // num_heads) ** -0.5

    def attend(x_BTSD: Tensor, frames: slice) -> Tensor:
        keys, bias, values = (y[:, frames] for y in audio)
        scores = (multiply_fp32(x_BTSD, keys.transpose(-1, -2)) + bias[:, :, None]) * scale
        shares = scores.unflatten(-1, (num_heads, -1)).softmax(-1, dtype=torch.float32)
        return shares.to(values.dtype).flatten(-2) @ values

    return by_frame(attend, x_BLD, grid)


def multiply_fp32(a_BTSD: Tensor, b_BTDX: Tensor) -> Tensor:
    """a b in float32. A product in half precision would round its result, and scores need all digits before the softmax."""
    if a_BTSD.dtype == torch.float32:
        return a_BTSD @ b_BTDX
    if a_BTSD.is_cuda:
        shape = (*a_BTSD.shape[:-1], b_BTDX.shape[-1])
        b_BTDX = b_BTDX.expand(*a_BTSD.shape[:2], -1, -1)
        return torch.bmm(a_BTSD.flatten(0, 1), b_BTDX.flatten(0, 1), out_dtype=torch.float32).view(shape)
    if a_BTSD.is_meta:  # counted like CUDA's product, without copies of a and b
        return (a_BTSD @ b_BTDX).float()
    return a_BTSD.float() @ b_BTDX.float()


def by_frame(function: Callable[[Tensor, slice], Tensor], x: Tensor, grid: Grid) -> Tensor:
    """Run `function` on tokens [B, L, ...], padded to whole frames [B, T, S, ...]. The tokens may begin and end inside a frame."""
    length, size = x.shape[1], grid.tokens_per_frame
    before, after = grid.first % size, -(grid.first + length) % size
    if before or after:
        x = F.pad(x, (0, 0) * (x.ndim - 2) + (before, after))
    frames = slice(grid.first // size, -(-(grid.first + length) // size))
    return function(x.unflatten(1, (-1, size)), frames).flatten(1, 2)[:, before : before + length]


class AudioProjection(nn.Module):
    """Projects windows of audio features to 32 tokens per latent frame."""

    def __init__(self, config: DiTConfig):
        super().__init__()
        self.window, self.stride, self.num_tokens = config.audio_window, config.temporal_stride, config.audio_tokens
        self.proj1 = nn.Linear(config.audio_window * config.audio_dim, config.audio_hidden)
        self.proj1_vf = nn.Linear((config.audio_window + config.temporal_stride - 1) * config.audio_dim, config.audio_hidden)
        self.proj2 = nn.Linear(config.audio_hidden, config.audio_hidden)
        self.proj3 = nn.Linear(config.audio_hidden, config.audio_tokens * config.audio_width)
        self.norm = nn.LayerNorm(config.audio_width)

    def forward(self, features_BPTWX: Tensor) -> Tensor:
        """[B, P, 4 t - 3, window, X] -> [B, t, P x 32, 768]."""
        first = self.proj1(features_BPTWX[:, :, :1].flatten(3))
        rest = self.proj1_vf(group_slots(features_BPTWX[:, :, 1:], self.window, self.stride))
        x = self.proj3(F.relu(self.proj2(F.relu(torch.cat([first, rest], dim=2)))))
        x = norm_fp32(self.norm, x.unflatten(3, (self.num_tokens, -1)))
        return rearrange(x, "b p t a d -> b t (p a) d")


def group_slots(features_BPTWX: Tensor, window: int, stride: int) -> Tensor:
    """Window slots used for one latent frame of 4 video frames: the first frame's slots up to the middle, the middle slot of the inner
    frames, and the last frame's slots from the middle on."""
    x, middle = features_BPTWX.unflatten(2, (-1, stride)), window // 2
    parts = [x[:, :, :, 0, : middle + 1], x[:, :, :, 1:-1, middle], x[:, :, :, -1, middle:]]
    return torch.cat(parts, dim=3).flatten(3)
