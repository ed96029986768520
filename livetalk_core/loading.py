"""Engines from presets and from files: networks built or loaded, put on a device, and shared by a group of processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from livetalk_core.checkpoints import DOWNLOADS, ModelFiles, find_files
from livetalk_core.engine import Engine, Models
from livetalk_core.models import weights
from livetalk_core.models.attention import select_kernel
from livetalk_core.models.audio import AudioEncoder, audio_config_from, map_audio_keys
from livetalk_core.models.dit import AudioDiT
from livetalk_core.models.image import ImageEncoder, image_config_from, map_image_keys
from livetalk_core.models.text import TextEncoder, byte_tokenizer, load_tokenizer, map_text_keys, text_config_from
from livetalk_core.models.vae import CausalVAE, fold_upsampling
from livetalk_core.parallel.context import parallelize_dit
from livetalk_core.parallel.group import SequenceGroup, init_group
from livetalk_core.parallel.vae import parallelize_vae
from livetalk_core.presets import BY_NAME, Preset


def load_engine(model: str | Path | ModelFiles = "tiny", device: str = "auto", dtype: torch.dtype | None = None) -> Engine:
    """An engine of a preset's name, of a published model folder, or of named files.

    `device` auto: CUDA where there is one. `dtype`: bfloat16 on CUDA and float32 on the CPU unless given.
    """
    place = choose_device(device)
    dtype = dtype or (torch.float32 if place.type == "cpu" else torch.bfloat16)
    if isinstance(model, ModelFiles):
        return load_files(model, place, dtype)
    if model in BY_NAME:
        preset = BY_NAME[str(model)]()
        if preset.name != "tiny":
            raise ValueError(f"no weights of {preset.name!r} are in this package; give the folder of the published model, or use tiny")
        return build_random(preset, place, dtype)
    return load_files(find_files(Path(model)), place, dtype)


def load_member(
    group: SequenceGroup | None, model: str | Path | ModelFiles, device: str, dtype: torch.dtype | None = None, attention: str = "auto"
) -> Engine:
    """One process's part of an engine that a group shares: same calls on every process, same results. Alone without a group."""
    select_kernel(attention)
    engine = load_engine(model, device, dtype)
    if group is None:
        return engine
    parallelize_dit(engine.models.dit, group)
    models = replace(engine.models, vae=parallelize_vae(engine.models.vae, group))
    return Engine(engine.preset, models, engine.device, engine.dtype)


def join_group(*, device: str, **meeting: int | float | str) -> SequenceGroup:
    """Meet the other processes of an engine; see `init_group`. The device is that of `load_member`."""
    return init_group(device=torch.device(device), **meeting)


def choose_device(name: str) -> torch.device:
    """The device of this name; ValueError when it is not a device or not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device {name!r} must be auto, cpu, cuda or cuda:N") from None
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r} is not there: torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices; use cpu")
    return place


def build_random(preset: Preset, device: torch.device, dtype: torch.dtype, seed: int = 0) -> Engine:
    """An engine with random weights, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        dit, vae, audio = AudioDiT(preset.dit), CausalVAE(preset.vae), AudioEncoder(preset.audio)
        text, image = TextEncoder(preset.text), ImageEncoder(preset.image)
    for module, kind in ((dit, dtype), (vae, dtype), (audio, torch.float32), (text, dtype), (image, torch.float32)):
        module.to(device, kind).eval().requires_grad_(False)
    fold_upsampling(vae)
    models = Models(
        dit=dit, vae=vae, audio=audio, text=lambda: text, image=lambda: image, tokenize=byte_tokenizer(preset.dit.text_len)
    )  # fmt: skip
    return Engine(preset, models, device, dtype)


def load_files(files: ModelFiles, device: torch.device, dtype: torch.dtype) -> Engine:
    """An engine of checkpoint files; sizes come from the tensors."""
    files.require()
    known = {name: files.config[name] for name in ("num_heads", "text_len") if name in files.config}
    with naming("dit", *files.dit):
        dit = weights.load_dit(weights.read_tensors(files.dit), dtype=dtype, device=device, **known)
    with naming("vae", files.vae):
        vae = weights.load_vae(weights.read_tensors([files.vae]), dtype=dtype, device=device)
    fold_upsampling(vae)
    audio = load_audio(files.audio, device)
    text, image = (lambda: load_text(files.text, dtype, device)), (lambda: load_image(files.image, device))
    tokenize = load_tokenizer(files.tokenizer, dit.config.text_len)
    models = Models(dit=dit, vae=vae, audio=audio, text=text, image=image, tokenize=tokenize)
    large = BY_NAME["livetalk_14b"]()
    return Engine(replace(large, name=str(files.dit[0].parent.name), dit=dit.config, vae=vae.config), models, device, dtype)


def load_audio(path: Path, device: torch.device) -> AudioEncoder:
    """wav2vec2 in float32, as published."""
    with naming("audio", path):
        tensors = weights.read_tensors([path])
        config = audio_config_from(weights.shapes_of(tensors))
        return weights.build(lambda: AudioEncoder(config), map_audio_keys(tensors), what="wav2vec2", dtype=torch.float32, device=device)


def load_text(path: Path, dtype: torch.dtype, device: torch.device) -> TextEncoder:
    with naming("text", path):
        tensors = weights.read_tensors([path])
        config = text_config_from(weights.shapes_of(tensors))
        return weights.build(lambda: TextEncoder(config), map_text_keys(tensors), what="umT5", dtype=dtype, device=device)


def load_image(path: Path, device: torch.device) -> ImageEncoder:
    """CLIP's vision tower, float16 on CUDA as published."""
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    with naming("image", path):
        tensors = weights.read_tensors([path])
        config = image_config_from(weights.shapes_of(tensors))
        state = map_image_keys(tensors, config.layers)
        return weights.build(lambda: ImageEncoder(config), state, what="CLIP", dtype=dtype, device=device)


@contextmanager
def naming(part: str, *paths: Path) -> Iterator[None]:
    """Put the files and where they are published before and after what is wrong with them."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{', '.join(path.name for path in paths)}: {error} (published in {DOWNLOADS[part]})") from None
