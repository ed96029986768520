"""CLIP ViT-B/32's image features for BG-C, from OpenAI's file or a transformers folder; transformers has the network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from livetalk_core.evaluate.talkbench.consistency import Consistency, crop_center, file_version, normalize, resize_short

MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SIDE, HEAD_DIM = 224, 64
NAMES = {
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "conv1.weight": "embeddings.patch_embedding.weight",
    "ln_pre.weight": "pre_layrnorm.weight",
    "ln_pre.bias": "pre_layrnorm.bias",
    "ln_post.weight": "post_layernorm.weight",
    "ln_post.bias": "post_layernorm.bias",
}
"""OpenAI's names and those of transformers."""
BLOCK_NAMES = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "ln_2": "layer_norm2",
}


def background_consistency(path: Path, device: torch.device) -> Consistency:
    """BG-C by CLIP ViT-B/32. In float32 on every device; the published code takes float16 on a GPU."""
    model = (load_folder(path) if path.is_dir() else build_clip(openai_state(path))).to(device).eval()
    version = path.name if path.is_dir() else file_version(path)
    return Consistency("background_consistency", "bg_c", lambda pictures: encode_clip(model, pictures), device, version)


def encode_clip(model: torch.nn.Module, pictures_N3HW: Tensor) -> Tensor:
    """Pictures 0 to 255 -> features [N, D]: the middle square, 224 pixels a side."""
    square = crop_center(resize_short(pictures_N3HW, SIDE, "bicubic"), SIDE)
    return model(pixel_values=normalize(square, MEAN, DEVIATION)).image_embeds


def load_folder(path: Path) -> torch.nn.Module:
    """A folder as transformers saves it (openai/clip-vit-base-patch32)."""
    from transformers import CLIPVisionModelWithProjection

    try:
        return CLIPVisionModelWithProjection.from_pretrained(path, local_files_only=True, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: holds no CLIP model ({error}); download openai/clip-vit-base-patch32 again") from None


def openai_state(path: Path) -> dict[str, Tensor]:
    """The image tower's tensors in OpenAI's TorchScript file, in float32."""
    try:
        state = torch.jit.load(str(path), map_location="cpu").state_dict()
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path}: is not OpenAI's ViT-B-32.pt ({reason}); download it again") from None
    return {name.removeprefix("visual."): value.float() for name, value in state.items() if name.startswith("visual.")}


def build_clip(state: Mapping[str, Tensor]) -> torch.nn.Module:
    """transformers' image tower with OpenAI's weights, of the sizes that they have."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    patch_DCPP, positions = state["conv1.weight"], state["positional_embedding"].shape[0]
    width, patch = patch_DCPP.shape[0], patch_DCPP.shape[2]
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=state["transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        projection_dim=state["proj"].shape[1],
        num_hidden_layers=len({name.split(".")[2] for name in state if name.startswith("transformer.")}),
        num_attention_heads=width // HEAD_DIM,
        image_size=patch * round((positions - 1) ** 0.5),
        patch_size=patch,
        hidden_act="quick_gelu",
    )
    model = CLIPVisionModelWithProjection(config)
    prefix = next(name for name, _ in model.named_parameters()).split("embeddings.")[0]
    renamed = {"visual_projection.weight": state["proj"].T.contiguous()}
    for name, value in state.items():
        if name != "proj":
            renamed |= {prefix + key: part for key, part in renamed_parts(name, value)}
    left = model.load_state_dict(renamed, strict=False)
    missing = [name for name in left.missing_keys if not name.endswith("position_ids")]
    if missing or left.unexpected_keys:
        raise ValueError(f"these are no weights of CLIP's image tower: {(missing + left.unexpected_keys)[0]} does not fit")
    return model


def renamed_parts(name: str, value: Tensor) -> list[tuple[str, Tensor]]:
    """A tensor under transformers' name; OpenAI's joint query, key and value become three."""
    if name in NAMES:
        return [(NAMES[name], value)]
    _, _, index, rest = name.split(".", 3)
    block = f"encoder.layers.{index}"
    if rest.startswith("attn.in_proj_"):
        kind = rest.removeprefix("attn.in_proj_")
        return [(f"{block}.self_attn.{part}_proj.{kind}", piece.clone()) for part, piece in zip("qkv", value.chunk(3), strict=True)]
    module, _, kind = rest.rpartition(".")
    return [(f"{block}.{BLOCK_NAMES[module]}.{kind}", value)]
