"""Makes engines from presets and files: builds or loads the networks and puts them on a device."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from livetalk_core.engine.assemble import assemble, keep_dit
from livetalk_core.engine.encoders import KeptEncoder, beside, load_audio, load_image, load_text, naming, tokenizer_of
from livetalk_core.engine.engine import Engine, Models
from livetalk_core.engine.files import SHIPPED, ModelFiles, find_files
from livetalk_core.engine.kind import preset_of
from livetalk_core.engine.lora_files import parse_lora
from livetalk_core.engine.options import EngineOptions
from livetalk_core.engine.sniff import check_kinds
from livetalk_core.engine.soundness import check_finite, unchanged
from livetalk_core.engine.weight_plan import WeightPlan
from livetalk_core.engine.working import room_of
from livetalk_core.models import weights
from livetalk_core.models.attention import select_kernel
from livetalk_core.models.audio import AudioConfig, AudioEncoder
from livetalk_core.models.convolution import fold_kernels, lay_channels_last
from livetalk_core.models.dit import AudioDiT
from livetalk_core.models.enlarger import Enlarger, EnlargerConfig
from livetalk_core.models.image import ImageConfig, ImageEncoder
from livetalk_core.models.patch_vae import PatchVAE, PatchVAEConfig
from livetalk_core.models.small_dit import build_dit
from livetalk_core.models.text import TextConfig, TextEncoder, byte_tokenizer
from livetalk_core.models.vae import CausalVAE, VAEConfig
from livetalk_core.models.weightless import MelConfig, MelEncoder, NoText, NoTextConfig, ThumbnailConfig, ThumbnailEncoder, no_tokens
from livetalk_core.parallel.group import SequenceGroup, init_group
from livetalk_core.parallel.memory import OVERHEAD_BYTES, check_memory, free_bytes
from livetalk_core.presets import BY_NAME, PROMPT, Preset

log = logging.getLogger(__name__)

KINDS = {
    **{VAEConfig: CausalVAE, AudioConfig: AudioEncoder, TextConfig: TextEncoder, ImageConfig: ImageEncoder},
    **{PatchVAEConfig: PatchVAE, MelConfig: MelEncoder, NoTextConfig: NoText, ThumbnailConfig: ThumbnailEncoder},
    EnlargerConfig: Enlarger,
}
"""The network of each config."""
RoomOf = Callable[[Preset], int]
"""Bytes to leave free beside a model's weights."""


def load_engine(model: str | Path | ModelFiles = "nano", device: str = "auto", **asked: object) -> Engine:
    """An engine in this process: `load_engine("nano", device="cpu")`. `asked`: further fields of EngineOptions."""
    return load_member(None, EngineOptions(model=model, device=device, **asked))


def load_member(group: SequenceGroup | None, options: EngineOptions, prompt: str = PROMPT) -> Engine:
    """One process's part of an engine that a group shares: same calls, same results on every process. group=None: a single process.

    `prompt`: the one that is used first; see `encode_early`.
    """
    select_kernel(options.attention)
    if group is not None and options.decoder is not None:
        raise ValueError(f"--decoder {options.decoder} works in one process only; leave it out, or leave out --gpus and --workers")
    check_memory(options.memory, 1 if group is None else group.size)
    tiny = None if options.decoder is None else weights.read_tiny_decoder(Path(options.decoder))
    engine = load_part(group, options, prompt)
    if options.chunk_frames is not None:
        if options.chunk_frames < (least := 2 * engine.preset.motion_frames):
            raise ValueError(f"chunk_frames={options.chunk_frames} must be {least} or more: at least as many new frames as motion frames")
        engine.preset = replace(engine.preset, chunk_frames=options.chunk_frames)
    return assemble(engine, options, group, tiny)


def load_part(group: SequenceGroup | None, options: EngineOptions, prompt: str = PROMPT) -> Engine:
    """An engine that is not parallel yet, with the DiT's weights already where the options say."""
    place, model, memory = choose_device(options.device), options.source, options.memory
    dtype = options.torch_dtype or (torch.float32 if place.type == "cpu" else torch.bfloat16)
    plan = WeightPlan(device=place, dtype=dtype, form=options.weights, loras=options.lora)
    sizes = {"size": options.size, "chunk_frames": options.chunk_frames}
    room = partial(room_of, **sizes, processes=1 if group is None else group.size, item_bytes=dtype.itemsize)
    if isinstance(model, ModelFiles):
        return load_files(model, place, dtype, memory, group, prompt, plan, room)
    if model in BY_NAME:
        preset = BY_NAME[str(model)]()
        if not preset.trained:
            return build_random(preset, place, dtype, memory=memory, group=group, plan=plan)
        if not (SHIPPED / preset.name).is_dir():
            raise ValueError(f"no weights of {preset.name!r} are in this package; give the folder of the published model, or use nano")
        model = SHIPPED / preset.name
    return load_files(find_files(Path(model)), place, dtype, memory, group, prompt, plan, room)


def join_group(*, device: str, **meeting: int | float | str) -> SequenceGroup:
    """Join the other processes of an engine; see `init_group`. The device is that of `load_member`."""
    return init_group(device=torch.device(device), **meeting)


def choose_device(name: str) -> torch.device:
    """The device of this name; ValueError if it is unknown or not present."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device {name!r} must be auto, cpu, cuda or cuda:N") from None
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r} is not there: torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices; use cpu")
    return place


def build_random(
    preset: Preset,
    device: torch.device,
    dtype: torch.dtype,
    seed: int = 0,
    memory: str = "auto",
    group: SequenceGroup | None = None,
    plan: WeightPlan | None = None,
) -> Engine:
    """An engine with random weights, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        dit = build_dit(preset.dit)
        vae, audio, text, image = (KINDS[type(config)](config) for config in (preset.vae, preset.audio, preset.text, preset.image))
        enlarger = Enlarger(EnlargerConfig()) if preset.enlarged else None
    keep_dit(dit.eval().requires_grad_(False), memory, device, dtype, group, plan=plan)
    kinds = ((vae, dtype), (enlarger, dtype), (audio, torch.float32), (text, dtype), (image, torch.float32))
    for module, kind in kinds:
        if module is not None:
            module.to(device, kind).eval().requires_grad_(False)
    models = gather_models(preset, dit=dit, vae=vae, enlarger=enlarger, audio=audio, text=text, image=image)
    return Engine(preset, models, device, dtype)


def load_enlarger(path: Path, device: torch.device, dtype: torch.dtype) -> Enlarger:
    with naming("vae", path) as check:
        enlarger = weights.load_enlarger(weights.read_tensors([path]), dtype=dtype, device=device, check=check)
        check_finite(enlarger, check)
    return enlarger


def gather_models(preset: Preset, *, dit, vae, audio, text, image, enlarger=None) -> Models:
    """Models from networks that are all in memory, with a tokenizer that needs no file."""
    settle_vae(vae)
    tokenize = no_tokens if isinstance(text, NoText) else byte_tokenizer(preset.dit.text_len)
    if enlarger is not None:
        enlarger.to(memory_format=torch.channels_last)  # twice as fast, also on a CPU
    return Models(dit=dit, vae=vae, enlarger=enlarger, audio=audio, text=lambda: text, image=lambda: image, tokenize=tokenize)


def settle_vae(vae: CausalVAE | PatchVAE) -> None:
    """Prepare a VAE whose weights are in place: channels-last on CUDA (no gain on a CPU), kernels folded."""
    if next(vae.parameters()).is_cuda:
        lay_channels_last(vae)
    fold_kernels(vae)


def load_files(
    files: ModelFiles,
    device: torch.device,
    dtype: torch.dtype,
    memory: str = "auto",
    group: SequenceGroup | None = None,
    prompt: str = PROMPT,
    plan: WeightPlan | None = None,
    room: RoomOf = room_of,
) -> Engine:
    """An engine from checkpoint files; sizes come from the tensors. The DiT's files are mapped and go directly to where they are kept."""
    files.require()
    check_kinds(files)
    preset, plan = preset_of(files), plan or WeightPlan(device=device, dtype=dtype)
    with unchanged(*files.dit, *(parse_lora(lora)[0] for lora in plan.loras)) as check:
        plan = replace(plan, check=check)
        dit = read_dit(files)
        preset = replace(preset, dit=dit.config)
        free = room(preset)
        encodes = not files.preset and (group is None or group.rank == 0)
        prompts = encode_early(prompt, files, dit, plan, free) if encodes else {}
        others = bytes_of(files.vae) + bytes_of(files.audio)
        keep_dit(dit, memory, device, dtype, group, other_bytes=others, plan=plan, room_bytes=free)
        with naming("dit", *files.dit):
            check_finite(dit, check)
    with naming("vae", files.vae) as check:
        vae = weights.load_vae(weights.read_tensors([files.vae]), dtype=dtype, device=device, check=check)
        check_finite(vae, check)
    name = str(files.dit[0].parent.name)
    if files.preset:
        if dit.config.out_dim != vae.config.z_dim:
            raise ValueError(
                f"the DiT makes {dit.config.out_dim} channels and the VAE of {files.preset} takes {vae.config.z_dim}; "
                "name the folder of the DiT's own model with --model, or all its files"
            )
        blinks = bool(files.config.get("blinks", False))
        preset = replace(preset, name=name, dit=dit.config, vae=vae.config, blinks=blinks)
        enlarger = load_enlarger(files.enlarger, device, dtype) if preset.enlarged and files.enlarger else None
        preset = preset.without_enlarger() if enlarger is None else preset
        made = {part: KINDS[type(vars(preset)[part])](vars(preset)[part]).to(device) for part in ("audio", "text", "image")}
        return Engine(preset, gather_models(preset, dit=dit, vae=vae, enlarger=enlarger, **made), device, dtype)
    settle_vae(vae)
    audio = load_audio(files.audio, device)
    text = beside(lambda place: load_text(files.text, dtype, place, plan.form != "16bit"), bytes_of(files.text) + free, device)
    image = KeptEncoder(beside(lambda place: load_image(files.image, place), bytes_of(files.image) + free, device), device)
    tokenize = tokenizer_of(files, dit.config.text_len)
    models = Models(dit=dit, vae=vae, audio=audio, text=text, image=image, tokenize=tokenize)
    engine = Engine(replace(preset, name=name, dit=dit.config, vae=vae.config), models, device, dtype)
    engine.prompts |= prompts
    return engine


def encode_early(prompt: str, files: ModelFiles, dit: AudioDiT, plan: WeightPlan, room_bytes: int) -> dict[str, Tensor]:
    """A prompt's rows [L, D], made before the DiT takes the memory, if umT5 fits on the device now but would not beside the DiT and the
    room for its work.

    Then umT5 needs no room beside the DiT, which may stay on the device: on a GPU of 48 GB. Other prompts are encoded on the CPU.
    """
    free, size, device = free_bytes(plan.device), bytes_of(files.text), plan.device
    if free is None or not size or not size + OVERHEAD_BYTES <= free < sum(plan.bytes_of(dit)) + size + room_bytes:
        return {}
    log.info("the prompt is encoded before the DiT is loaded, since umT5 would not fit beside it")
    ids, mask = tokenizer_of(files, dit.config.text_len)(prompt)
    encoder = load_text(files.text, plan.dtype, device, plan.form != "16bit")
    rows = encoder(ids.to(device), mask.to(device)).to(plan.dtype)
    del encoder
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return {prompt: rows}


def read_dit(files: ModelFiles) -> AudioDiT:
    """The DiT of these files, still mapped."""
    known = {name: files.config[name] for name in ("num_heads", "text_len", "predicts", "picture_in") if name in files.config}
    with naming("dit", *files.dit):
        return weights.load_dit(weights.read_weights(files.dit), dtype=None, device="cpu", **known)


def bytes_of(path: Path | None) -> int:
    return 0 if path is None or not path.is_file() else path.stat().st_size
