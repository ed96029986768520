"""The DiT in training, with everything in one forward pass; and an adapter that makes it a Denoiser.

Serving computes keys and values once per stream. In training each block computes its own while it runs, because its sharded weights are
gathered only then, and gradients must flow through them. The results are the same.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from livetalk_core.models.dit import Block, EmbeddedCondition
from livetalk_core.models.dit_config import DiTConfig
from livetalk_core.models.layers import KeyValue, heads
from livetalk_core.models.small_dit import build_dit
from livetalk_core.types import AudioWindow, Reference


class VelocityNet(nn.Module):
    """Predicts the velocity of a batch from text rows, image rows and sound features."""

    def __init__(self, config: DiTConfig):
        super().__init__()
        self.dit = build_dit(config)

    def forward(
        self,
        x_BCTHW: Tensor,
        t_B: Tensor,
        condition_BCTHW: Tensor,
        text_BLD: Tensor,
        image_BLD: Tensor,
        features_BPTWX: Tensor,
    ) -> Tensor:
        """v [B, C, T, H, W] float32 at flow times t in [0, 1]. Text has at most `text_len` rows; features [B, P, 4 T - 3, W, S x D]."""
        embedded = self.dit.embed_condition(condition_BCTHW)
        return self.velocity(x_BCTHW, t_B, condition_BCTHW, embedded, text_BLD, image_BLD, features_BPTWX)

    def velocity(
        self,
        x_BCTHW: Tensor,
        t_B: Tensor,
        condition_BCTHW: Tensor,
        embedded: EmbeddedCondition,
        text_BLD: Tensor,
        image_BLD: Tensor,
        features_BPTWX: Tensor,
    ) -> Tensor:
        """As forward, for a condition that is already embedded."""
        dit = self.dit
        dtype = dit.patch_embedding.weight.dtype
        missing = dit.config.text_len - text_BLD.shape[1]
        text_BLD = dit.text_embedding(nn.functional.pad(text_BLD.to(dtype), (0, 0, 0, missing)))
        image_BLD = dit.img_emb(image_BLD.to(dtype))
        tokens_BTAD = dit.audio_proj(features_BPTWX.to(dtype))
        context = [LateContext(block, text_BLD, image_BLD) for block in dit.blocks]
        audio = [LateAudio(block, tokens_BTAD, features_BPTWX.shape[1]) for block in dit.blocks]
        answer_BCTHW = dit(x_BCTHW, embedded, dit.embed_time(1000 * t_B.float()), context, audio)
        return dit.to_velocity(answer_BCTHW, x_BCTHW, t_B.view(-1, 1, 1, 1, 1), condition_BCTHW)


class LateContext:
    """Takes the place of ContextKeys; computes each pair when the block reads it, with the weights gathered then."""

    text_bias_M = None

    def __init__(self, block: Block, text_BLD: Tensor, image_BLD: Tensor):
        self.attention, self.text_BLD, self.image_BLD = block.cross_attn, text_BLD, image_BLD

    @property
    def text(self) -> KeyValue:
        a = self.attention
        return KeyValue(heads(a.norm_k(a.k(self.text_BLD)), a.num_heads), heads(a.v(self.text_BLD), a.num_heads))

    @property
    def image(self) -> KeyValue:
        a = self.attention
        return KeyValue(heads(a.norm_k_img(a.k_img(self.image_BLD)), a.num_heads), heads(a.v_img(self.image_BLD), a.num_heads))


class LateAudio:
    """Takes the place of the sound's KeyValue; computes it when the block unpacks it."""

    def __init__(self, block: Block, tokens_BTAD: Tensor, people: int):
        self.attention, self.tokens_BTAD, self.people = block.audio_cross_attn, tokens_BTAD, people

    def __iter__(self) -> Iterator[Tensor]:
        yield from self.attention.keys(self.tokens_BTAD, self.people)


class NetDenoiser:
    """Makes a VelocityNet the Denoiser of one sample: x0 = x - t v, with gradients if grad mode is on."""

    def __init__(self, net: nn.Module):
        self.net = net
        self.last_x0: Tensor | None = None
        """The last prediction, before motion latents are pinned."""

    def __call__(self, x_CTHW: Tensor, t: float, reference: Reference, window: AudioWindow, motion_latents: int = 0) -> Tensor:
        """x0 [C, T, H, W] float32, including the motion latents."""
        self.last_x0 = x_CTHW - t * velocity(self.net, x_CTHW, t, reference, window)
        return self.last_x0


def velocity(net: nn.Module, x_CTHW: Tensor, t: float, reference: Reference, window: AudioWindow) -> Tensor:
    """The velocity of one sample, float32 [C, T, H, W]."""
    return net(
        x_CTHW[None],
        torch.tensor([t], device=x_CTHW.device),
        reference.cond_CTHW[None],
        reference.text_LD[None],
        reference.image_LD[None],
        window.features_PTWSD[None].flatten(-2).to(x_CTHW.device),
    )[0]


def blocks_of(net: VelocityNet) -> Iterator[nn.Module]:
    """The blocks, whose weights are gathered one block at a time."""
    return iter(net.dit.blocks)


def fresh_state(config: DiTConfig, seed: int) -> dict[str, Tensor]:
    """Initial DiT weights: Xavier, small embeddings, a zero head. The same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        dit = build_dit(config)
        for module in dit.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(dit.patch_embedding.weight.flatten(1))
        for module in (*dit.text_embedding, *dit.time_embedding):
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(dit.head.head.weight)
    return dit.state_dict()


def net_state(dit_state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename a DiT's tensors to VelocityNet's names."""
    return {f"dit.{name}": tensor for name, tensor in dit_state.items()}
