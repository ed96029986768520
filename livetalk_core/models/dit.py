"""The audio-driven diffusion transformer: Wan 2.1 I2V with audio cross-attention (InfiniteTalk), published state-dict names.

Axes: B batch, C channels, T latent frames, H W latent size, L tokens, D width, N heads, K head width, P people, A audio tokens, M keys.
Half precision follows the published rounding: time, modulation, norms, residual gates and head in float32, the rest in the weights' type.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from livetalk_core.models.attention import attention
from livetalk_core.models.layers import RMSNorm, heads, linear_fp32, modulate, norm_fp32
from livetalk_core.models.rope import rope_table, rotate
from livetalk_core.models.speakers import key_positions, speaker_positions, speaker_table


@dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """Sizes of the DiT; the defaults are the published 14B model's."""

    dim: int = 5120
    ffn_dim: int = 13824
    num_heads: int = 40
    num_layers: int = 40
    in_dim: int = 36
    out_dim: int = 16
    freq_dim: int = 256
    text_dim: int = 4096
    text_len: int = 512
    image_dim: int = 1280
    audio_window: int = 5
    audio_dim: int = 12 * 768
    """Values per window slot: audio layers x channels."""
    audio_hidden: int = 512
    audio_width: int = 768
    audio_tokens: int = 32
    patch_size: int = 2
    temporal_stride: int = 4
    eps: float = 1e-6


class TimeEmbedding(NamedTuple):
    """What the noise level says to the head and to every block; float32."""

    head_BD: Tensor
    blocks_B6D: Tensor


class KeyValue(NamedTuple):
    k_BMNK: Tensor
    v_BMNK: Tensor


class ContextKeys(NamedTuple):
    """One block's keys and values of the prompt and the picture: constant over a stream."""

    text: KeyValue
    image: KeyValue


class Grid(NamedTuple):
    """Where the tokens in hand stand in the chunk. A process that holds a part of the sequence has its own."""

    cos_LK: Tensor
    sin_LK: Tensor
    tokens_per_frame: int
    first: int = 0
    """Index of the first token in hand."""


class AudioDiT(nn.Module):
    """Velocity of the flow, from noisy latents, the condition, the time and the keys of picture, prompt and sound."""

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

    def forward(
        self,
        latent_BCTHW: Tensor,
        condition_BCTHW: Tensor,
        time: TimeEmbedding,
        context: list[ContextKeys],
        audio: list[KeyValue],
        speaker_masks_KHW: Tensor | None = None,
    ) -> Tensor:
        """Velocity [B, 16, T, H, W] float32. `audio` holds [B, T x A, N, K] per block; masks are needed for two people."""
        x_BLD, grid = self.embed_latent(latent_BCTHW, condition_BCTHW)
        masks_KL = None if speaker_masks_KHW is None else token_masks(speaker_masks_KHW, latent_BCTHW.shape[-2:], self.config.patch_size)
        x_BLD = self.run_blocks(x_BLD, grid, time, context, audio, masks_KL)
        return self.unpatchify(x_BLD, latent_BCTHW.shape)

    def run_blocks(self, x_BLD, grid: Grid, time: TimeEmbedding, context, audio, masks_KL) -> Tensor:
        """All blocks and the head. What a group of processes wraps to hold a slice of the tokens each."""
        for block, context_keys, audio_keys in zip(self.blocks, context, audio, strict=True):
            x_BLD = block(x_BLD, grid, time.blocks_B6D, context_keys, audio_keys, masks_KL)
        return self.head(x_BLD, time.head_BD)

    def embed_latent(self, latent_BCTHW: Tensor, condition_BCTHW: Tensor) -> tuple[Tensor, Grid]:
        """Patches of [latents, mask, reference latents] as tokens in frame, row, column order, and where they stand."""
        x = torch.cat([latent_BCTHW, condition_BCTHW], dim=1).to(self.patch_embedding.weight.dtype)
        x_BDTHW = self.patch_embedding(x)
        frames, rows, columns = x_BDTHW.shape[2:]
        cos_LK, sin_LK = rope_table(frames, rows, columns, self.config.dim // self.config.num_heads, x.device)
        return rearrange(x_BDTHW, "b d t h w -> b (t h w) d"), Grid(cos_LK, sin_LK, rows * columns)

    def embed_time(self, timestep_B: Tensor) -> TimeEmbedding:
        """Timesteps 0..1000 (float32, shifted) -> float32 embeddings."""
        e_BD = timestep_features(timestep_B, self.config.freq_dim)
        e_BD = linear_fp32(self.time_embedding[2], F.silu(linear_fp32(self.time_embedding[0], e_BD)))
        return TimeEmbedding(e_BD, linear_fp32(self.time_projection[1], F.silu(e_BD)).unflatten(1, (6, -1)))

    def embed_context(self, text_BLD: Tensor, image_BLD: Tensor) -> list[ContextKeys]:
        """Per block the keys and values of the prompt [B, rows <= 512, 4096] and the picture [B, 257, 1280]."""
        dtype = self.patch_embedding.weight.dtype
        text_BLD = F.pad(text_BLD.to(dtype), (0, 0, 0, self.config.text_len - text_BLD.shape[1]))
        text_BLD = self.text_embedding(text_BLD)
        image_BLD = self.img_emb(image_BLD.to(dtype))
        return [block.cross_attn.keys(text_BLD, image_BLD) for block in self.blocks]

    def embed_audio(self, features_BPTWX: Tensor) -> list[KeyValue]:
        """Per block the keys and values of the sound, [B, people, 4 t - 3 frames, window, layers x channels]."""
        people = features_BPTWX.shape[1]
        tokens_BTAD = self.audio_proj(features_BPTWX.to(self.patch_embedding.weight.dtype))
        return [block.audio_cross_attn.keys(tokens_BTAD, people) for block in self.blocks]

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

    def forward(self, x_BLD, grid: Grid, time_B6D, context: ContextKeys, audio: KeyValue, masks_KL) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.modulation.float() + time_B6D).split(1, dim=1)
        y, positions_BL = self.self_attn(modulate(x_BLD, shift1, scale1, self.eps), grid, masks_KL)
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
        self.attend = attention
        self.locate = speaker_positions

    def forward(self, x_BLD: Tensor, grid: Grid, masks_KL: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Attention over the whole chunk; with speaker masks also each token's place between the speakers [B, L]."""
        q, k, v = (heads(y, self.num_heads) for y in (self.norm_q(self.q(x_BLD)), self.norm_k(self.k(x_BLD)), self.v(x_BLD)))
        q, k = rotate(q, grid.cos_LK, grid.sin_LK), rotate(k, grid.cos_LK, grid.sin_LK)
        y = self.o(self.attend(q, k, v).flatten(2))
        return y, None if masks_KL is None else self.locate(q, k, masks_KL, grid.tokens_per_frame)


class ContextAttention(nn.Module):
    """Cross-attention to prompt and picture: one query, two sets of keys, one output projection."""

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
        return self.o((attention(q, *context.text) + attention(q, *context.image)).flatten(2))


class AudioAttention(nn.Module):
    """Cross-attention of each latent frame's tokens to that frame's own audio tokens."""

    def __init__(self, config: DiTConfig):
        super().__init__()
        self.num_heads = config.num_heads
        self.q_linear = nn.Linear(config.dim, config.dim)
        self.kv_linear = nn.Linear(config.audio_width, 2 * config.dim)
        self.proj = nn.Linear(config.dim, config.dim)

    def keys(self, tokens_BTAD: Tensor, people: int) -> KeyValue:
        """Keys and values [B x T, A, N, K]; with two people the keys are turned to their owner's place."""
        k, v = (heads(y.flatten(0, 1), self.num_heads) for y in self.kv_linear(tokens_BTAD).chunk(2, dim=-1))
        if people > 1:
            k = rotate(k, *speaker_table(key_positions(k.shape[1], k.device), k.shape[-1]))
        return KeyValue(k, v)

    def forward(self, x_BLD: Tensor, audio: KeyValue, grid: Grid, positions_BL: Tensor | None) -> Tensor:
        q = heads(self.q_linear(x_BLD), self.num_heads)
        if positions_BL is not None:
            q = rotate(q, *speaker_table(positions_BL, q.shape[-1]))
        return self.proj(attend_per_frame(q, audio, grid).flatten(2))


def attend_per_frame(q_BLNK: Tensor, audio: KeyValue, grid: Grid) -> Tensor:
    """Each token attends to the keys of its own frame only. Tokens may begin and end within a frame."""
    batch, length, size = q_BLNK.shape[0], q_BLNK.shape[1], grid.tokens_per_frame
    before, after = grid.first % size, -(grid.first + length) % size
    q = F.pad(q_BLNK, (0, 0, 0, 0, before, after)) if before or after else q_BLNK
    first, last = grid.first // size, -(-(grid.first + length) // size)
    k, v = (y.unflatten(0, (batch, -1))[:, first:last].flatten(0, 1) for y in audio)
    out = attention(q.unflatten(1, (-1, size)).flatten(0, 1), k, v)
    return out.unflatten(0, (batch, -1)).flatten(1, 2)[:, before : before + length]


class AudioProjection(nn.Module):
    """Windows of audio features to 32 tokens per latent frame."""

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
    """Window slots of one latent frame: the first frame's up to its own, each inner frame's own, the last frame's from its own on."""
    x, middle = features_BPTWX.unflatten(2, (-1, stride)), window // 2
    parts = [x[:, :, :, 0, : middle + 1], x[:, :, :, 1:-1, middle], x[:, :, :, -1, middle:]]
    return torch.cat(parts, dim=3).flatten(3)


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
        self.head = nn.Linear(config.dim, config.patch_size**2 * config.out_dim)

    def forward(self, x_BLD: Tensor, time_BD: Tensor) -> Tensor:
        shift, scale = (self.modulation.float() + time_BD[:, None]).split(1, dim=1)
        return linear_fp32(self.head, modulate(x_BLD, shift, scale, self.eps, dtype=torch.float32))


def timestep_features(timestep_B: Tensor, width: int) -> Tensor:
    """[cos, sin] of t 10000^(-k / half), in float64, as float32 [B, width]."""
    half = width // 2
    frequencies = 10000.0 ** (-torch.arange(half, dtype=torch.float64, device=timestep_B.device) / half)
    angles = torch.outer(timestep_B.double(), frequencies)
    return torch.cat([angles.cos(), angles.sin()], dim=1).float()


def token_masks(masks_KHW: Tensor, size: tuple[int, int], patch: int) -> Tensor:
    """Speaker masks at any resolution -> [K, tokens per frame], 0 or 1 (nearest)."""
    small = F.interpolate(masks_KHW[None].float(), size=(size[0] // patch, size[1] // patch), mode="nearest")[0]
    return (small > 0).flatten(1)
