"""Picture to features: CLIP's vision tower without its last block. The class token comes first.

Axes in names: C H W picture, L tokens, D width. A leading 1 is the batch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from livetalk_core.models.audio import count_blocks, heads_of, rename_keys, require_keys

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Statistics of CLIP's training pictures, RGB in [0, 1] (Radford et al. 2021)."""
HEAD_DIM = 80
BLOCK_PREFIX = "blocks.layers."
PUBLISHED_PARTS = {
    "norm1": "layer_norm1",
    "attn.to_qkv": "self_attn.qkv_proj",
    "attn.proj": "self_attn.out_proj",
    "norm2": "layer_norm2",
    "mlp.0": "mlp.fc1",
    "mlp.2": "mlp.fc2",
}
OUTER_NAMES = {
    "visual.cls_embedding": "cls_embedding",
    "visual.pos_embedding": "pos_embedding",
    "visual.patch_embedding.weight": "patch_embedding.weight",
    "visual.pre_norm.weight": "pre_norm.weight",
    "visual.pre_norm.bias": "pre_norm.bias",
    "vision_model.embeddings.class_embedding": "cls_embedding",
    "vision_model.embeddings.position_embedding.weight": "pos_embedding",
    "vision_model.embeddings.patch_embedding.weight": "patch_embedding.weight",
    "vision_model.pre_layrnorm.weight": "pre_norm.weight",
    "vision_model.pre_layrnorm.bias": "pre_norm.bias",
}
NOT_USED = (
    *("log_scale", "textual.", "visual.head", "visual.post_norm."),
    *("logit_scale", "text_model.", "text_projection.", "visual_projection.", "vision_model.post_layernorm."),
    "vision_model.embeddings.position_ids",
)


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """Sizes of a published CLIP vision tower. `layers` includes the last block, which is not built."""

    width: int
    layers: int
    heads: int
    ffn_width: int
    patch_size: int = 14
    image_size: int = 224
    eps: float = 1e-5

    @property
    def tokens(self) -> int:
        """One per patch plus the class token: 257."""
        return (self.image_size // self.patch_size) ** 2 + 1


class ImageEncoder(nn.Module):
    """A CLIP vision tower without its last block and without a final norm."""

    def __init__(self, config: ImageConfig) -> None:
        super().__init__()
        from transformers import CLIPVisionConfig
        from transformers.models.clip.modeling_clip import CLIPEncoder

        self.config = config
        self.cls_embedding = nn.Parameter(torch.randn(1, 1, config.width) * config.width**-0.5)
        self.pos_embedding = nn.Parameter(torch.randn(1, config.tokens, config.width) * config.width**-0.5)
        self.patch_embedding = nn.Conv2d(3, config.width, config.patch_size, stride=config.patch_size, bias=False)
        self.pre_norm = nn.LayerNorm(config.width, eps=config.eps)
        self.blocks = CLIPEncoder(
            CLIPVisionConfig(
                hidden_size=config.width,
                num_hidden_layers=config.layers - 1,
                num_attention_heads=config.heads,
                intermediate_size=config.ffn_width,
                layer_norm_eps=config.eps,
                hidden_act="gelu",
                attention_dropout=0.0,
                attn_implementation="sdpa",
            )
        )
        self.eval()

    @torch.no_grad()
    def forward(self, pixels_CHW: Tensor) -> Tensor:
        """Picture [3, H, W] in [-1, 1], any size and shape -> features [tokens, D] in the weights' type.

        The picture is resized to a square, ignoring its aspect ratio, and normalized in its own type, then cast to the weights' type.
        """
        pixels_1CHW = normalize_pixels(pixels_CHW[None], self.config.image_size).to(self.patch_embedding.weight.dtype)
        patches_1LD = self.patch_embedding(pixels_1CHW).flatten(2).transpose(1, 2)
        tokens_1LD = torch.cat([self.cls_embedding, patches_1LD], dim=1) + self.pos_embedding
        return self.blocks(inputs_embeds=self.pre_norm(tokens_1LD)).last_hidden_state[0]


def normalize_pixels(pixels_1CHW: Tensor, size: int) -> Tensor:
    """[1, 3, H, W] in [-1, 1] -> [1, 3, size, size] normalized with CLIP's statistics; bicubic, not antialiased."""
    pixels_1CHW = nn.functional.interpolate(pixels_1CHW, size=(size, size), mode="bicubic", align_corners=False) * 0.5 + 0.5
    mean_C11, std_C11 = (pixels_1CHW.new_tensor(values)[:, None, None] for values in (MEAN, STD))
    return (pixels_1CHW - mean_C11) / std_C11


def map_image_keys(state: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """The tensors of a CLIP file, named as published or as in transformers, under ImageEncoder's names; `layers` as in ImageConfig.

    Fused q, k, v are split into views. Raises ValueError, naming keys, if the file is not such a CLIP.
    """
    mapped = split_qkv(rename_keys(state, image_key))
    mapped = {name: tensor for name, tensor in mapped.items() if not in_blocks_from(name, layers - 1)}
    require_keys("CLIP's vision tower", mapped, expected_image_keys(layers))
    width = mapped["cls_embedding"].numel()
    return mapped | {name: mapped[name].reshape(1, -1, width) for name in ("cls_embedding", "pos_embedding")}


def image_config_from(shapes: Mapping[str, tuple[int, ...]], *, heads: int | None = None) -> ImageConfig:
    """The config that fits the shapes of a file's tensors, given under the file's own names. Heads are 80 wide unless `heads` is given."""
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    layers = max(2, count_blocks(rename_keys(state, image_key), BLOCK_PREFIX))
    mapped = map_image_keys(state, layers)
    width, _, patch_size, _ = mapped["patch_embedding.weight"].shape
    return ImageConfig(
        width=width,
        layers=layers,
        heads=heads if heads is not None else heads_of("CLIP's vision tower", width, HEAD_DIM),
        ffn_width=len(mapped[f"{BLOCK_PREFIX}0.mlp.fc1.weight"]),
        patch_size=patch_size,
        image_size=math.isqrt(mapped["pos_embedding"].shape[1] - 1) * patch_size,
    )


def image_key(key: str) -> str | None:
    """ImageEncoder's name for a file's key, with q, k, v still fused. None if it is not used; unknown keys are unchanged."""
    if key.startswith(NOT_USED):
        return None
    if key.startswith("vision_model.encoder.layers."):
        return key.replace("vision_model.encoder.layers.", BLOCK_PREFIX, 1)
    block = re.fullmatch(r"visual\.transformer\.(\d+)\.(.+)\.(weight|bias)", key)
    if block and block[2] in PUBLISHED_PARTS:
        return f"{BLOCK_PREFIX}{block[1]}.{PUBLISHED_PARTS[block[2]]}.{block[3]}"
    return OUTER_NAMES.get(key, key)


def split_qkv(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Split fused projections (rows of q, then k, then v) into three views each."""
    split = {}
    for name, tensor in state.items():
        if ".qkv_proj." not in name:
            split[name] = tensor
            continue
        for letter, part in zip("qkv", tensor.chunk(3), strict=True):
            split[name.replace(".qkv_proj.", f".{letter}_proj.")] = part
    return split


def in_blocks_from(name: str, first: int) -> bool:
    """Whether a key belongs to block `first` or a later one."""
    return name.startswith(BLOCK_PREFIX) and int(name.removeprefix(BLOCK_PREFIX).split(".")[0]) >= first


def expected_image_keys(layers: int) -> list[str]:
    """All keys of an ImageEncoder for a tower of `layers` blocks."""
    parts = [f"self_attn.{p}_proj" for p in ("q", "k", "v", "out")] + ["layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2"]
    modules = ["pre_norm", *(f"{BLOCK_PREFIX}{i}.{part}" for i in range(layers - 1) for part in parts)]
    outer = ["cls_embedding", "pos_embedding", "patch_embedding.weight"]
    return outer + [f"{module}.{kind}" for module in modules for kind in ("weight", "bias")]
