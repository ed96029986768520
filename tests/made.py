"""Things made for tests: sounds, pictures, a model folder in the published form."""

from __future__ import annotations

import json
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

from livetalk_core.models.audio import AudioConfig, AudioEncoder
from livetalk_core.models.dit import AudioDiT
from livetalk_core.models.dit_config import DiTConfig
from livetalk_core.models.enlarger import Enlarger, EnlargerConfig
from livetalk_core.models.image import PUBLISHED_PARTS as IMAGE_PARTS
from livetalk_core.models.image import ImageConfig, ImageEncoder
from livetalk_core.models.patch_vae import PatchVAE
from livetalk_core.models.small_dit import build_dit
from livetalk_core.models.text import PUBLISHED_PARTS as TEXT_PARTS
from livetalk_core.models.text import TextConfig, TextEncoder
from livetalk_core.models.vae import CausalVAE, VAEConfig
from livetalk_core.presets import Preset, nano
from livetalk_core.train.export import config_of

HANG_S = 600
"""Longer than anything that is waited for takes on a busy machine: what is not there by then never comes."""
HEAD = Path(__file__).parent / "golden" / "face" / "head.jpg"
"""A rendered person's face, which fills most of the picture."""
GRAY = (120, 130, 140)
"""Around the small face."""

DIT = DiTConfig(
    dim=128, ffn_dim=160, num_heads=1, num_layers=2, freq_dim=32, text_dim=32, image_dim=80,
    audio_dim=2 * 64, audio_hidden=24, audio_width=16, audio_tokens=4,
)  # fmt: skip
AUDIO = AudioConfig(
    width=64, layers=2, heads=1, ffn_width=24, conv_widths=(8,) * 7, conv_kernels=(10, 3, 3, 3, 3, 2, 2),
    position_kernel=16, position_groups=4,
)  # fmt: skip
TEXT = TextConfig(vocab=64, width=32, attention_width=32, heads=4, ffn_width=48, layers=2)
IMAGE = ImageConfig(width=80, layers=3, heads=1, ffn_width=96)


def speech_like(seconds: float, rate: int = 16000, seed: int = 0) -> np.ndarray:
    """Noise under a 4 Hz envelope, float32 in [-0.3, 0.3]."""
    t = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(seed).uniform(-1, 1, len(t))
    return (0.3 * noise * np.sin(2 * np.pi * 2 * t) ** 2).astype(np.float32)


def write_wav(path: Path, samples: np.ndarray, rate: int = 16000) -> Path:
    """[N] or [N, channels] float in [-1, 1] as 16-bit WAV."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return path


def pixels(width: int = 48, height: int = 32, seed: int = 0) -> Tensor:
    """A picture [3, H, W] in [-1, 1]."""
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def write_published_folder(folder: Path, shards: int = 2, seed: int = 0) -> dict[str, dict[str, Tensor]]:
    """A toy model with the published file names, keys and head sizes; returns every part's tensors as written."""
    torch.manual_seed(seed)
    parts = {
        "dit": AudioDiT(DIT).state_dict(),
        "vae": CausalVAE(VAEConfig(dim=4)).state_dict(),
        "text": published_text(TextEncoder(TEXT).state_dict()),
        "image": published_image(ImageEncoder(IMAGE).state_dict()),
        "audio": {f"wav2vec2.{k.removeprefix('model.')}": v for k, v in AudioEncoder(AUDIO).state_dict().items()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_shards(folder, parts["dit"], shards)
    torch.save(parts["vae"], folder / "Wan2.1_VAE.pth")
    torch.save(parts["text"], folder / "models_t5_umt5-xxl-enc-bf16.pth")
    torch.save(parts["image"], folder / "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth")
    (folder / "chinese-wav2vec2-base").mkdir()
    torch.save(parts["audio"], folder / "chinese-wav2vec2-base" / "pytorch_model.bin")
    write_tokenizer(folder / "google" / "umt5-xxl")
    return parts


def small_nano() -> Preset:
    """The small model's form at a toy size."""
    preset = replace(nano(), vae=replace(nano().vae, width=8, blocks=1, fine_width=8, fine_blocks=1))
    return replace(preset, dit=replace(preset.dit, dim=48, ffn_dim=64, num_layers=1, audio_hidden=16, audio_width=16, audio_tokens=2))


def write_small_folder(folder: Path, seed: int = 0, enlarges: bool = False) -> Path:
    """A model folder of the small model's form, with random weights of a toy size; an enlarger only if asked for."""
    preset = small_nano()
    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    save_file(build_dit(preset.dit).state_dict(), folder / "diffusion_pytorch_model.safetensors")
    save_file(PatchVAE(preset.vae).state_dict(), folder / "vae.safetensors")
    (folder / "config.json").write_text(json.dumps(config_of(preset)))
    if enlarges:
        enlarger = Enlarger(EnlargerConfig(width=16, blocks=1, fine_width=8, fine_blocks=1))
        for layer in (enlarger.flow, enlarger.head):
            torch.nn.init.normal_(layer.weight, std=0.02)
        save_file(enlarger.state_dict(), folder / "enlarger.safetensors")
    return folder


def write_shards(folder: Path, state: dict[str, Tensor], shards: int) -> None:
    names = list(state)
    files = {
        name: f"diffusion_pytorch_model-{i * shards // len(names) + 1:05d}-of-{shards:05d}.safetensors" for i, name in enumerate(names)
    }
    for file in set(files.values()):
        save_file({name: state[name].contiguous() for name in names if files[name] == file}, folder / file)
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))


def write_tokenizer(folder: Path) -> None:
    """Whole words as tokens, with umT5's special ones."""
    folder.mkdir(parents=True)
    words = ["<pad>", "</s>", "<unk>", "A", "person", "is", "talking."]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))


def published_text(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """TextEncoder's tensors under umT5's published names."""
    ours = {theirs: mine for mine, theirs in TEXT_PARTS.items()}
    named = {"token_embedding.weight": state["token_embedding.weight"], "norm.weight": state["stack.final_layer_norm.weight"]}
    for name, tensor in state.items():
        if name.startswith("stack.block."):
            _, _, block, part = name.removesuffix(".weight").split(".", 3)
            named[f"blocks.{block}.{ours[part]}.weight"] = tensor
    return named


def published_image(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """ImageEncoder's tensors under CLIP's published names: q, k, v fused, and a last block that is never used."""
    named = {f"visual.{name}": tensor for name, tensor in state.items() if not name.startswith("blocks.")}
    for block in range(IMAGE.layers):
        source = f"blocks.layers.{min(block, IMAGE.layers - 2)}."
        for theirs, mine in IMAGE_PARTS.items():
            for kind in ("weight", "bias"):
                fused = [f"{source}self_attn.{p}_proj.{kind}" for p in "qkv"] if "qkv" in mine else [f"{source}{mine}.{kind}"]
                named[f"visual.transformer.{block}.{theirs}.{kind}"] = torch.cat([state[name] for name in fused])
    return named


def small_face(size: tuple[int, int] = (640, 300)) -> Image.Image:
    """A face of 60 pixels in a gray picture, right of its middle."""
    picture = Image.new("RGB", size, GRAY)
    picture.paste(Image.open(HEAD).resize((110, 110)), (430, 90))
    return picture
