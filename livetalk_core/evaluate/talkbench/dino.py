"""DINO's vision transformer, in the layout of its published weights (Caron et al. 2021): the features of Subject-C.

Axes: B pictures, L tokens, D width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from livetalk_core.evaluate.talkbench.consistency import Consistency, file_version, normalize, resize_short
from livetalk_core.evaluate.talkbench.weights import read_state

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's."""
SIDE, HEAD_DIM = 224, 64


class Attention(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.heads = dim // HEAD_DIM
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x_BLD: Tensor) -> Tensor:
        q, k, v = self.qkv(x_BLD).unflatten(-1, (3, self.heads, HEAD_DIM)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x_BLD: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x_BLD)))


class Block(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn, self.mlp = Attention(dim), FeedForward(dim, hidden)

    def forward(self, x_BLD: Tensor) -> Tensor:
        x_BLD = x_BLD + self.attn(self.norm1(x_BLD))
        return x_BLD + self.mlp(self.norm2(x_BLD))


class PatchEmbed(nn.Module):
    def __init__(self, dim: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch, patch)


class Dino(nn.Module):
    """[B, 3, H, W], normalized -> [B, D], the class token's features. Pixels beyond whole patches are left out."""

    def __init__(self, dim: int = 768, layers: int = 12, patch: int = 16, positions: int = 197, hidden: int = 3072) -> None:
        super().__init__()
        self.patch = patch
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, positions, dim))
        self.patch_embed = PatchEmbed(dim, patch)
        self.blocks = nn.ModuleList(Block(dim, hidden) for _ in range(layers))
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, pictures_B3HW: Tensor) -> Tensor:
        tokens_BLD = self.patch_embed.proj(pictures_B3HW).flatten(2).transpose(1, 2)
        x_BLD = torch.cat([self.cls_token.expand(len(tokens_BLD), -1, -1), tokens_BLD], dim=1)
        x_BLD = x_BLD + self.positions(*pictures_B3HW.shape[-2:])
        for block in self.blocks:
            x_BLD = block(x_BLD)
        return self.norm(x_BLD)[:, 0]

    def positions(self, height: int, width: int) -> Tensor:
        """The position embedding for a picture of this size. The 0.1 is DINO's own guard against rounding; it moves the samples."""
        side = math.isqrt(self.pos_embed.shape[1] - 1)
        rows, columns = height // self.patch, width // self.patch
        if rows * columns == side * side and height == width:
            return self.pos_embed
        grid = self.pos_embed[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
        scale = ((rows + 0.1) / side, (columns + 0.1) / side)
        grid = F.interpolate(grid, scale_factor=scale, mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


def load_dino(state: Mapping[str, Tensor]) -> Dino:
    """A DINO of the sizes that its weights have. ValueError for other weights."""
    try:
        patch_D3PP, positions = state["patch_embed.proj.weight"], state["pos_embed"].shape[1]
        layers = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
        hidden = state["blocks.0.mlp.fc1.weight"].shape[0]
        model = Dino(patch_D3PP.shape[0], layers, patch_D3PP.shape[2], positions, hidden)
        model.load_state_dict(dict(state))
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"these are no weights of a DINO vision transformer ({error}); take dino_vitbase16_pretrain.pth") from None
    return model.eval()


def encode_dino(model: Dino, pictures_N3HW: Tensor) -> Tensor:
    """Pictures 0 to 255 -> features [N, D]: the whole picture, its shorter side 224 pixels."""
    return model(normalize(resize_short(pictures_N3HW, SIDE, "bilinear"), MEAN, DEVIATION))


def subject_consistency(path: Path, device: torch.device) -> Consistency:
    """Subject-C by DINO ViT-B/16."""
    model = load_dino(read_state(path)).to(device)
    version = file_version(path)
    return Consistency("subject_consistency", "subject_c", lambda pictures: encode_dino(model, pictures), device, version)
