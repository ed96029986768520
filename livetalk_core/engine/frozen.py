"""The networks that encode training data, without a DiT. They stay in memory for the whole data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from livetalk_core.engine.encoders import load_audio, load_image, load_text, naming, tokenizer_of
from livetalk_core.engine.files import SHIPPED, ModelFiles, find_files
from livetalk_core.engine.kind import named_preset
from livetalk_core.engine.load import KINDS, choose_device, settle_vae
from livetalk_core.engine.options import EngineOptions
from livetalk_core.models import weights
from livetalk_core.models.audio import normalize_loudness
from livetalk_core.models.patch_vae import PatchVAE
from livetalk_core.models.text import Tokenizer, byte_tokenizer
from livetalk_core.models.vae import CausalVAE
from livetalk_core.models.weightless import NoText, no_tokens
from livetalk_core.presets import BY_NAME, Preset


@dataclass(frozen=True, kw_only=True)
class FrozenNetworks:
    """What encodes clips for a preset's DiT."""

    preset: Preset
    device: torch.device
    vae: CausalVAE | PatchVAE
    audio: Callable[[Tensor], Tensor]
    """16 kHz sound [N] -> features [T, layers, width]."""
    text: Callable[[str], Tensor]
    """A prompt -> rows [L, D]."""
    image: Callable[[Tensor], Tensor]
    """A picture [3, H, W] in [-1, 1] -> rows [257, D]."""


def load_frozen(options: EngineOptions) -> FrozenNetworks:
    """The frozen networks of a model folder or preset. A preset with a VAE's file has that one, and needs no other weights."""
    device = choose_device(options.device)
    dtype = options.torch_dtype or (torch.float32 if device.type == "cpu" else torch.bfloat16)
    if options.model in BY_NAME and options.vae is not None:
        return random_networks(BY_NAME[options.model]().without_enlarger(), device, dtype, options.vae)
    model = options.source
    if not isinstance(model, ModelFiles) and model in BY_NAME:
        preset = BY_NAME[str(model)]().without_enlarger()
        if not preset.trained:
            return random_networks(preset, device, dtype)
        if not (SHIPPED / preset.name).is_dir():
            raise ValueError(f"no weights of {preset.name!r} are in this package; give the folder of the published model, or use nano")
        model = SHIPPED / preset.name
    return load_networks(model if isinstance(model, ModelFiles) else find_files(Path(model)), device, dtype)


def load_networks(files: ModelFiles, device: torch.device, dtype: torch.dtype) -> FrozenNetworks:
    """The frozen networks of checkpoint files. FileNotFoundError if one is missing; a DiT is not needed."""
    replace(files, dit=files.dit or (Path(),)).require()
    with naming("vae", files.vae):
        vae = weights.load_vae(weights.read_tensors([files.vae]), dtype=dtype, device=device)
    preset = (named_preset(files.preset) if files.preset else BY_NAME["livetalk_14b"]()).without_enlarger()
    known = {name: files.config[name] for name in ("text_len", "picture_in") if name in files.config and name in vars(preset.dit)}
    preset = replace(preset, dit=replace(preset.dit, **known), vae=vae.config)
    if files.preset:
        audio, text, image = (KINDS[type(config)](config).to(device) for config in (preset.audio, preset.text, preset.image))
        return gather(preset, device, dtype, vae, audio, text, image, no_tokens)
    tokenize = tokenizer_of(files, preset.dit.text_len)
    audio, text, image = load_audio(files.audio, device), load_text(files.text, dtype, device), load_image(files.image, device)
    return gather(preset, device, dtype, vae, audio, text, image, tokenize)


def random_networks(preset: Preset, device: torch.device, dtype: torch.dtype, vae_file: str | Path | None = None) -> FrozenNetworks:
    """Random networks, the same every time, with the VAE of a file if one is given."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae, audio, text, image = (KINDS[type(config)](config) for config in (preset.vae, preset.audio, preset.text, preset.image))
    for module, kind in ((vae, dtype), (audio, torch.float32), (text, dtype), (image, torch.float32)):
        module.to(device, kind).eval().requires_grad_(False)
    if vae_file is not None:
        vae = weights.load_vae(weights.read_tensors([Path(vae_file)]), dtype=dtype, device=device)
    return gather(
        preset, device, dtype, vae, audio, text, image, no_tokens if isinstance(text, NoText) else byte_tokenizer(preset.dit.text_len)
    )


def gather(preset: Preset, device: torch.device, dtype: torch.dtype, vae, audio, text, image, tokenize: Tokenizer) -> FrozenNetworks:
    """Networks as functions, as an engine calls them. The rows of a prompt are kept: captions often repeat."""
    settle_vae(vae)

    @lru_cache(maxsize=16)
    def text_rows(prompt: str) -> Tensor:
        ids, mask = tokenize(prompt)
        return text(ids.to(device), mask.to(device)).to(dtype)

    return FrozenNetworks(
        preset=preset,
        device=device,
        vae=vae,
        audio=lambda samples_N: audio(normalize_loudness(samples_N.cpu()).to(device)),
        text=text_rows,
        image=lambda pixels_CHW: image(pixels_CHW).to(dtype),
    )
