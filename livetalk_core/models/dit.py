"""The audio-driven diffusion transformer: Wan 2.1 I2V with audio cross-attention (InfiniteTalk), published state-dict names.

Axes: B batch, C channels, T latent frames, H W latent size, L tokens, D width, N heads, K head width, P people, A audio tokens, M keys.
Half precision rounds as published: time, modulation, norms, residual gates and head in float32, the rest in the weights' type.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from livetalk_core.models.attention import attention
from livetalk_core.models.audio_attention import AbsorbedAudio, AudioAttention, AudioKeys, AudioProjection
from livetalk_core.models.dit_config import DiTConfig
from livetalk_core.models.layers import ContextKeys, KeyValue, RMSNorm, heads, linear_fp32, modulate, norm_fp32
from livetalk_core.models.precision import float64_device
from livetalk_core.models.rope import Grid, rope_table, rotate
from livetalk_core.models.runner import EVERY_FRAME, WHOLE, Attention, BlockRunner, SequenceRunner, WholeSequence

TEXT_ROWS = 64
"""The number of a prompt's keys is rounded up to a multiple of this."""


class TimeEmbedding(NamedTuple):
    """Embedding of the noise level for the head and for the blocks; float32."""

    head_BD: Tensor
    blocks_B6D: Tensor


class EmbeddedCondition(NamedTuple):
    """Mask and reference latents, and the positions of a chunk's tokens: constant over a stream."""

    condition_BCTHW: Tensor
    grid: Grid


class AudioDiT(nn.Module):
    """Predicts the flow's velocity from noisy latents, condition, time, and the keys of picture, prompt and audio."""

    def __init__(self, config: DiTConfig):
        super().__init__()
        self.config = config
        dim, patch = config.dim, (1, config.patch_size, config.patch_size)
        self.patch_embedding = nn.Conv3d(config.in_dim, dim, kernel_size=patch, stride=patch)
        self.text_embedding = nn.Sequential(nn.Linear(config.text_dim, dim), nn.GELU("tanh"), nn.Linear(dim, dim))
        self.time_embedding = nn.Sequential(nn.Linear(config.freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.img_emb = ImageEmbedding(config)
        self.audio_proj = AudioProjection(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.head = Head(config)
        self.runners: Sequence[BlockRunner] = list(self.blocks)
        """Runs the blocks, one runner per block."""
        self.sequence: SequenceRunner = WholeSequence()

    def forward(
        self,
        latent_BCTHW: Tensor,
        condition: Tensor | EmbeddedCondition,
        time: TimeEmbedding,
        context: list[ContextKeys],
        audio: Sequence[AudioKeys],
        speaker_masks_KHW: Tensor | None = None,
        skip_frames: int = 0,
    ) -> Tensor:
        """The velocity [B, 16, T, H, W] float32. The first `skip_frames` latent frames are not computed and are 0.

        `condition`: [B, 4 + 16, T, H, W], or the result of `embed_condition`. `context` and `audio` have one item per block, and
        `audio` has the latent frames that `sequence` names.
        Two people need masks, and then no frame is skipped.
        """
        if isinstance(condition, Tensor):
            condition = self.embed_condition(condition)
        grid = condition.grid
        x_BLD = self.embed_patches(latent_BCTHW, condition.condition_BCTHW)
        masks_KL = None if speaker_masks_KHW is None else token_masks(speaker_masks_KHW, latent_BCTHW.shape[-2:], self.config.patch_size)
        skip = skip_frames * grid.tokens_per_frame if masks_KL is None else 0
        run = partial(self.run_blocks, time=time, context=context, audio=audio, masks_KL=masks_KL)
        x_BLD = self.sequence.run(run, x_BLD, grid, skip)
        return self.unpatchify(F.pad(x_BLD, (0, 0, skip, 0)), latent_BCTHW.shape)

    def run_blocks(self, x_BLD, grid: Grid, skip: int, attention: Attention, *, time: TimeEmbedding, context, audio, masks_KL) -> Tensor:
        """Run all blocks and the head on the local tokens; the output begins at local token `skip`."""
        for i, (block, context_keys, audio_keys) in enumerate(zip(self.runners, context, audio, strict=True)):
            last = i == len(self.runners) - 1
            x_BLD = block(x_BLD, grid, time.blocks_B6D, context_keys, audio_keys, masks_KL, skip if last else 0, attention)
        return self.head(x_BLD, time.head_BD)

    def to_velocity(self, answer: Tensor, x: Tensor, t: Tensor | float, condition: Tensor) -> Tensor:
        """The flow's velocity from the network's output [..., C, T, H, W] at x and t. The published model outputs it directly."""
        return answer

    def embed_condition(self, condition_BCTHW: Tensor) -> EmbeddedCondition:
        """The condition in the weights' type, and the chunk's grid. Tokens are in frame, row, column order."""
        frames, size = condition_BCTHW.shape[2], condition_BCTHW.shape[-2:]
        rows, columns = (n // self.config.patch_size for n in size)
        cos_LK, sin_LK = rope_table(frames, rows, columns, self.config.dim // self.config.num_heads, condition_BCTHW.device)
        condition_BCTHW = condition_BCTHW.to(self.patch_embedding.weight.dtype)
        return EmbeddedCondition(condition_BCTHW, Grid(cos_LK, sin_LK, rows * columns))

    def embed_patches(self, latent_BCTHW: Tensor, condition_BCTHW: Tensor) -> Tensor:
        """Latents and condition, side by side as channels, as tokens [B, L, D]."""
        x_BCTHW = torch.cat([latent_BCTHW.to(condition_BCTHW.dtype), condition_BCTHW], dim=1)
        return self.patch_embedding(x_BCTHW).flatten(2).transpose(1, 2)

    def embed_time(self, timestep_B: Tensor) -> TimeEmbedding:
        """Timesteps 0..1000 (float32, shifted) -> float32 embeddings."""
        e_BD = timestep_features(timestep_B, self.config.freq_dim)
        e_BD = linear_fp32(self.time_embedding[2], F.silu(linear_fp32(self.time_embedding[0], e_BD)))
        return TimeEmbedding(e_BD, linear_fp32(self.time_projection[1], F.silu(e_BD)).unflatten(1, (6, -1)))

    def embed_context(self, text_BLD: Tensor, image_BLD: Tensor, merge_padding: bool = False) -> list[ContextKeys]:
        """Keys and values per block of the prompt [B, rows <= 512, 4096] and the picture [B, 257, 1280].

        The prompt is padded to 512 rows of zeros, which are attended too. `merge_padding`: one key stands for all equal padding rows,
        weighted by their number. Masked keys fill up to a multiple of TEXT_ROWS, so most prompts share one compiled shape.
        """
        dtype, rows = self.patch_embedding.weight.dtype, text_BLD.shape[1]
        padding = self.config.text_len - rows
        held = -(-(rows + 1) // TEXT_ROWS) * TEXT_ROWS
        merged = merge_padding and held < self.config.text_len
        text_BLD = self.text_embedding(F.pad(text_BLD.to(dtype), (0, 0, 0, held - rows if merged else padding)))
        image_BLD = self.img_emb(image_BLD.to(dtype))
        bias_M = None
        if merged:
            bias_M = F.pad(text_BLD.new_zeros(rows), (0, 1), value=math.log(padding))
            bias_M = F.pad(bias_M, (0, held - rows - 1), value=-math.inf)
        return [block.context_keys(text_BLD, image_BLD)._replace(text_bias_M=bias_M) for block in self.runners]

    def embed_audio(self, features_BPTWX: Tensor, frames: slice = EVERY_FRAME) -> list[KeyValue]:
        """Audio keys and values per block, from features [B, people, 4 t - 3 frames, window, layers x channels].

        `frames`: the latent frames to make them for, which are those that `sequence` names.
        """
        people = features_BPTWX.shape[1]
        tokens_BTAD = self.audio_proj(features_BPTWX.to(self.patch_embedding.weight.dtype))[:, frames]
        return [block.audio_keys(tokens_BTAD, people) for block in self.runners]

    def absorb_audio(self, audio: list[KeyValue], batch: int = 1) -> list[AbsorbedAudio]:
        """Audio keys and values with the query and output projections absorbed: a quarter of the work per step. One speaker only."""
        return [block.absorb(keys, batch) for block, keys in zip(self.runners, audio, strict=True)]

    def unpatchify(self, x_BLD: Tensor, shape: torch.Size) -> Tensor:
        p = self.config.patch_size
        rows, columns = shape[-2] // p, shape[-1] // p
        return rearrange(x_BLD, "b (t h w) (p q c) -> b c t (h p) (w q)", h=rows, w=columns, p=p, q=p)


class Block(nn.Module):
    def __init__(self, config: DiTConfig):
        super().__init__()
        dim = config.dim
        self.eps = config.eps
        self.modulation = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)
        self.self_attn = SelfAttention(config)
        self.norm3 = nn.LayerNorm(dim, eps=config.eps)
        self.cross_attn = ContextAttention(config)
        self.norm_x = nn.LayerNorm(dim, eps=config.eps)
        self.audio_cross_attn = AudioAttention(config)
        self.ffn = nn.Sequential(nn.Linear(dim, config.ffn_dim), nn.GELU("tanh"), nn.Linear(config.ffn_dim, dim))

    def context_keys(self, text_BLD: Tensor, image_BLD: Tensor) -> ContextKeys:
        return self.cross_attn.keys(text_BLD, image_BLD)

    def audio_keys(self, tokens_BTAD: Tensor, people: int) -> KeyValue:
        return self.audio_cross_attn.keys(tokens_BTAD, people)

    def absorb(self, audio: KeyValue, batch: int) -> AbsorbedAudio:
        return self.audio_cross_attn.absorb(audio, batch)

    def forward(
        self, x_BLD, grid: Grid, time_B6D, context: ContextKeys, audio, masks_KL, skip: int = 0, attention: Attention = WHOLE
    ) -> Tensor:
        """[B, L, D] -> [B, L - skip, D]: the first `skip` tokens are attended to, but not computed."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.modulation.float() + time_B6D).split(1, dim=1)
        y, positions_BL = self.self_attn(modulate(x_BLD, shift1, scale1, self.eps), grid, masks_KL, skip, attention)
        x_BLD, grid = x_BLD[:, skip:], grid.after(skip)
        x_BLD = (x_BLD + y * gate1).to(x_BLD.dtype)
        x_BLD = x_BLD + self.cross_attn(norm_fp32(self.norm3, x_BLD), context)
        x_BLD = x_BLD + self.audio_cross_attn(norm_fp32(self.norm_x, x_BLD), audio, grid, positions_BL)
        y = self.ffn(modulate(x_BLD, shift2, scale2, self.eps))
        return (x_BLD + y * gate2).to(x_BLD.dtype)


class SelfAttention(nn.Module):
    def __init__(self, config: DiTConfig):
        super().__init__()
        dim = config.dim
        self.num_heads = config.num_heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = (RMSNorm(dim, config.eps) for _ in range(2))

    def forward(self, x_BLD: Tensor, grid: Grid, masks_KL: Tensor | None, skip: int, attention: Attention) -> tuple[Tensor, Tensor | None]:
        """Attention of the tokens from `skip` on to the whole chunk. With masks, also their positions on the speakers' line [B, L]."""
        q, k, v = self.norm_q(self.q(x_BLD[:, skip:])), self.norm_k(self.k(x_BLD)), self.v(x_BLD)
        q, k, v = (heads(y, self.num_heads) for y in (q, k, v))
        q, k = rotate(q, grid.cos_LK[skip:], grid.sin_LK[skip:]), rotate(k, grid.cos_LK, grid.sin_LK)
        y = self.o(attention.attend(q, k, v).flatten(2))
        return y, None if masks_KL is None else attention.locate(q, k, masks_KL, grid.tokens_per_frame)


class ContextAttention(nn.Module):
    """Cross-attention to prompt and picture: shared queries, two sets of keys, one output projection."""

    def __init__(self, config: DiTConfig):
        super().__init__()
        dim = config.dim
        self.num_heads = config.num_heads
        self.q, self.k, self.v, self.o, self.k_img, self.v_img = (nn.Linear(dim, dim) for _ in range(6))
        self.norm_q, self.norm_k, self.norm_k_img = (RMSNorm(dim, config.eps) for _ in range(3))

    def keys(self, text_BLD: Tensor, image_BLD: Tensor) -> ContextKeys:
        text = (self.norm_k(self.k(text_BLD)), self.v(text_BLD))
        image = (self.norm_k_img(self.k_img(image_BLD)), self.v_img(image_BLD))
        return ContextKeys(*(KeyValue(*(heads(y, self.num_heads) for y in pair)) for pair in (text, image)))

    def forward(self, x_BLD: Tensor, context: ContextKeys) -> Tensor:
        q = heads(self.norm_q(self.q(x_BLD)), self.num_heads)
        text = attention(q, *context.text, context.text_bias_M)
        return self.o((text + attention(q, *context.image)).flatten(2))


class ImageEmbedding(nn.Module):
    def __init__(self, config: DiTConfig):
        super().__init__()
        width, dim = config.image_dim, config.dim
        self.proj = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, dim), nn.LayerNorm(dim))

    def forward(self, image_BLD: Tensor) -> Tensor:
        norm_in, linear_in, act, linear_out, norm_out = self.proj
        return norm_fp32(norm_out, linear_out(act(linear_in(norm_fp32(norm_in, image_BLD)))))


class Head(nn.Module):
    def __init__(self, config: DiTConfig):
        super().__init__()
        self.eps = config.eps
        self.modulation = nn.Parameter(torch.randn(1, 2, config.dim) / config.dim**0.5)
        self.head = nn.Linear(config.dim, config.patch_size**2 * config.answer_dim)

    def forward(self, x_BLD: Tensor, time_BD: Tensor) -> Tensor:
        shift, scale = (self.modulation.float() + time_BD[:, None]).split(1, dim=1)
        return linear_fp32(self.head, modulate(x_BLD, shift, scale, self.eps, dtype=torch.float32))


def timestep_features(timestep_B: Tensor, width: int) -> Tensor:
    """[cos, sin] of t 10000^(-k / half), in float64, as float32 [B, width]."""
    half = width // 2
    device = float64_device(timestep_B.device)
    frequencies = 10000.0 ** (-torch.arange(half, dtype=torch.float64, device=device) / half)
    angles = torch.outer(timestep_B.to(device).double(), frequencies)
    return torch.cat([angles.cos(), angles.sin()], dim=1).float().to(timestep_B.device)


def token_masks(masks_KHW: Tensor, size: tuple[int, int], patch: int) -> Tensor:
    """Speaker masks at any resolution -> [K, tokens per frame], 0 or 1 (nearest)."""
    small = F.interpolate(masks_KHW[None].float(), size=(size[0] // patch, size[1] // patch), mode="nearest")[0]
    return (small > 0).flatten(1)
