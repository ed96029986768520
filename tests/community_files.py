"""The set of files that most people have, at toy size, in the layouts and under the names in which they are published.

`python tests/community_files.py DIR [gguf|fp8]` writes it into DIR, laid out as ComfyUI's models folder.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from made import write_published_folder
from safetensors.torch import save_file
from test_quantized_files import is_linear, quantized, spiece_model, write_gguf
from torch import Tensor

from livetalk_core.models.image import BLOCK_PREFIX, split_qkv
from livetalk_core.models.text import PUBLISHED_PARTS

BASES = {"gguf": "wan2.1-i2v-14b-480p-Q8_0.gguf", "fp8": "wan2.1_i2v_480p_14B_fp8_scaled.safetensors"}
PATCH = "wan2.1_infiniteTalk_single_fp16.safetensors"
LORA = "lightx2v_I2V_14B_480p_cfg_step_distill_rank64_bf16.safetensors"
NAMES = {
    "vae": "wan_2.1_vae.safetensors",
    "text_encoders": "umt5_xxl_fp8_e4m3fn_scaled.safetensors",
    "clip_vision": "clip_vision_h.safetensors",
    "audio_encoders": "wav2vec2-chinese-base_fp16.safetensors",
}


def write_set(models: Path, base: str = "gguf") -> dict[str, list[str]]:
    """Write the set; the file names in each folder."""
    with tempfile.TemporaryDirectory() as folder:
        parts = write_published_folder(Path(folder) / "m")
    audio = {name for name in parts["dit"] if "audio" in name or "norm_x" in name}
    wan = {name: tensor for name, tensor in parts["dit"].items() if name not in audio}
    files = {
        f"model_patches/{PATCH}": {name: halved(name, parts["dit"][name]) for name in audio},
        f"loras/{LORA}": step_lora(wan),
        f"vae/{NAMES['vae']}": parts["vae"],
        f"text_encoders/{NAMES['text_encoders']}": scaled_umt5(parts["text"]),
        f"clip_vision/{NAMES['clip_vision']}": transformers_clip(parts["image"]),
        f"audio_encoders/{NAMES['audio_encoders']}": {name: tensor.half() for name, tensor in parts["audio"].items()},
    }
    for name, state in files.items():
        save(models / name, state)
    (models / "diffusion_models").mkdir(parents=True, exist_ok=True)
    if base == "gguf":
        write_gguf(models / "diffusion_models" / BASES[base], wan)
    else:
        save(models / "diffusion_models" / BASES[base], quantized(wan, "comfy_fp8"))
    return {name.split("/")[0]: [name.split("/")[1]] for name in files} | {"diffusion_models": [BASES[base]]}


def save(path: Path, state: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)


def halved(name: str, tensor: Tensor) -> Tensor:
    """As in Comfy-Org's patch: matrices of blocks in float16, all else in float32."""
    return tensor.half() if name.startswith("blocks.") and tensor.ndim == 2 else tensor


def step_lora(wan: dict[str, Tensor], rank: int = 4) -> dict[str, Tensor]:
    """As lightx2v's: pairs without alpha for the linear layers, differences for biases, norms and modulations."""
    made, draw = {}, torch.Generator().manual_seed(5)
    for name, tensor in wan.items():
        base = f"diffusion_model.{name.rpartition('.')[0]}"
        if is_linear(name, tensor):
            made[f"{base}.lora_down.weight"] = 0.02 * torch.randn(rank, tensor.shape[1], generator=draw)
            made[f"{base}.lora_up.weight"] = 0.02 * torch.randn(tensor.shape[0], rank, generator=draw)
        elif name.startswith("blocks.") and name.endswith(".bias"):
            made[f"{base}.diff_b"] = 0.01 * torch.ones_like(tensor)
        elif name.startswith("blocks.") and name.endswith(".modulation"):
            made[f"{base}.diff_m"] = 0.01 * torch.ones_like(tensor)
    return {name: tensor.bfloat16() for name, tensor in made.items()}


def scaled_umt5(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """ComfyUI's: names of transformers, linear layers in fp8 with a scale, the SentencePiece model inside."""
    named = {"shared.weight": published["token_embedding.weight"], "encoder.final_layer_norm.weight": published["norm.weight"]}
    for name, tensor in published.items():
        if name.startswith("blocks."):
            _, block, part = name.removesuffix(".weight").split(".", 2)
            named[f"encoder.block.{block}.{PUBLISHED_PARTS[part]}.weight"] = tensor
    made: dict[str, Tensor] = {"scaled_fp8": torch.zeros(0, dtype=torch.float8_e4m3fn)}
    for name, tensor in named.items():
        if name.startswith("encoder.block.") and tensor.ndim == 2 and "relative" not in name:
            scale = tensor.abs().max() / 448
            made |= {name: (tensor / scale).to(torch.float8_e4m3fn), f"{name.removesuffix('weight')}scale_weight": scale.float()}
        else:
            made[name] = tensor.half()
    return made | {"spiece_model": torch.from_numpy(np.frombuffer(spiece_model(), np.uint8).copy())}


def transformers_clip(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """clip_vision_h: names of transformers, with q, k, v apart."""
    from livetalk_core.models.image import OUTER_NAMES, image_key

    theirs = {ours: name for name, ours in OUTER_NAMES.items() if name.startswith("vision_model.")}
    named = {image_key(name): tensor for name, tensor in published.items() if image_key(name)}
    made = {}
    for name, tensor in split_qkv(named).items():
        name = name.replace(BLOCK_PREFIX, "vision_model.encoder.layers.") if name.startswith(BLOCK_PREFIX) else theirs.get(name, name)
        made[name] = tensor.flatten() if name.endswith("class_embedding") else tensor[0] if tensor.ndim == 3 else tensor
    return {name: tensor.half() for name, tensor in made.items()}


if __name__ == "__main__":
    print(write_set(Path(sys.argv[1]), *sys.argv[2:]))
