"""Loads modules from files: sizes come from the tensors, modules are built on the meta device, memory holds one copy at most.

Files are memory-mapped: a tensor takes memory only when it is moved to its device. Names are the published ones; prefixes added by
single-file exports are removed.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from livetalk_core.models.audio import count_blocks, first_three
from livetalk_core.models.dit import AudioDiT
from livetalk_core.models.dit_config import DiTConfig
from livetalk_core.models.enlarger import Enlarger, EnlargerConfig
from livetalk_core.models.gguf_file import read_gguf
from livetalk_core.models.headers import strip_prefix
from livetalk_core.models.other_files import describe_other, is_gguf, is_safetensors
from livetalk_core.models.packed import PackedEmbedding, PackedLinear, PackedWeight
from livetalk_core.models.patch_vae import PatchVAE, PatchVAEConfig
from livetalk_core.models.scaled_files import Weights, join_scales
from livetalk_core.models.small_dit import build_dit, choose_config
from livetalk_core.models.tiny_decoder import TinyDecoder
from livetalk_core.models.vae import CausalVAE, VAEConfig

HEAD_DIM = 128
"""Head width of every Wan 2.1 model; tensor shapes do not show the number of heads."""
TINY_DOWNLOAD = "taew2_1.pth of github.com/madebyollin/taehv"

Shapes = dict[str, tuple[int, ...]]


def read_weights(paths: Iterable[Path]) -> Weights:
    """All tensors of .safetensors, .sft, .pth and .gguf files, memory-mapped, and quantized ones as PackedWeights.

    If a name is in several files, the last one counts. FileNotFoundError if a file is missing, ValueError naming the file if it is not a
    file of tensors, or its weights are in a form that cannot be read.
    """
    weights: Weights = {}
    for path in paths:
        if is_gguf(path) and path.is_file():
            weights |= strip_prefix(read_gguf(path))
            continue
        tensors = read_tensors([path])
        try:
            weights |= join_scales(tensors)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    return weights


def read_tensors(paths: Iterable[Path]) -> dict[str, Tensor]:
    """All tensors of .safetensors, .sft and .pth files as they are stored, memory-mapped. If a name is in several, the last one counts.

    Raises FileNotFoundError if a file is missing, ValueError naming the file if it is not a file of tensors.
    """
    tensors: dict[str, Tensor] = {}
    for path in paths:
        if path.is_dir():
            raise ValueError(f"{path} is a folder; name the files in it")
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; download it again or choose another model folder")
        tensors |= read_safetensors(path) if is_safetensors(path) else read_pickle(path)
    return strip_prefix(tensors)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()} | told_formats(file.metadata())  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        reason = describe_other(path) or f"is not a whole safetensors file ({error}); download it again"
        raise ValueError(f"{path} {reason}") from None


def told_formats(metadata: Mapping[str, str] | None) -> dict[str, Tensor]:
    """The formats of layers that ComfyUI writes into a header, as the tensors that it writes elsewhere."""
    layers = json.loads((metadata or {}).get("_quantization_metadata", "{}")).get("layers", {})
    return {f"{name}.comfy_quant": torch.tensor(list(json.dumps(told).encode())) for name, told in layers.items()}


def read_pickle(path: Path) -> dict[str, Tensor]:
    """The tensors of a .pth or .bin file. Pickled code is refused."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        reason = describe_other(path) or f"is not a file of tensors ({first_line(error)}); download it again"
        raise ValueError(f"{path} {reason}") from None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds more than named tensors; choose the published file")
    return dict(state)


def first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def build(
    make: Callable[[], nn.Module],
    tensors: Mapping[str, Tensor | PackedWeight],
    *,
    what: str,
    dtype: torch.dtype | None,
    device: str | torch.device,
    keep: str | None = None,
    check: Callable[[], None] = lambda: None,
) -> nn.Module:
    """Build a module on the meta device and load the tensors one by one, on `device` and in `dtype`.

    Packed weights of layers whose names begin with `keep` stay packed; None: all are unpacked. `check` is called before
    each tensor is read, and may raise. Raises ValueError, naming keys, if the
    tensors do not fit; `what` names the expected model.
    """
    with torch.device("meta"):
        module = make()
    check_fit(module, tensors, what)
    if keep is not None:
        put_packed(module, {name: tensors[name] for name in module.state_dict() if name.startswith(keep)}, dtype)
    state = {}
    for name, own in module.state_dict().items():
        check()
        found = own if not own.is_meta else tensors[name]
        if isinstance(found, PackedWeight):
            found = found.dense(dtype or torch.float32)
        state[name] = found.to(device=device, dtype=dtype if found.is_floating_point() else None)
    module.load_state_dict(state, strict=True, assign=True)
    assert not any(p.is_meta for p in (*module.parameters(), *module.buffers())), "a buffer of the module is not in its state"
    return module.to(device).eval().requires_grad_(False)


def put_packed(module: nn.Module, tensors: Mapping[str, Tensor | PackedWeight], dtype: torch.dtype | None) -> None:
    """Replace the layers whose weight is packed by layers that keep it so."""
    for name, packed in tensors.items():
        if isinstance(packed, PackedWeight):
            parent, _, last = name.removesuffix(".weight").rpartition(".")
            layer = module.get_submodule(parent).get_submodule(last)
            table = isinstance(layer, nn.Embedding)
            made = PackedEmbedding(packed, dtype or torch.float32) if table else PackedLinear(packed, layer.bias)
            setattr(module.get_submodule(parent), last, made)


def check_fit(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """ValueError, naming keys, unless every tensor of the module is present and has the right shape."""
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    missing = [name for name in shapes if name not in tensors]
    if missing:
        raise ValueError(f"not the weights of {what}: {first_three(missing)} missing; download it again or choose another file")
    wrong = [name for name, shape in shapes.items() if tuple(tensors[name].shape) != shape]
    if wrong:
        name = wrong[0]
        found = list(tensors[name].shape)
        raise ValueError(f"{what}: {name} is {found} but must be {list(shapes[name])}; the file belongs to another model")


def shapes_of(tensors: Mapping[str, Tensor | PackedWeight]) -> Shapes:
    """The shape of each tensor; configs are derived from these."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def load_dit(
    tensors: Mapping[str, Tensor | PackedWeight], *, dtype: torch.dtype | None, device: str | torch.device = "cpu", **known: int
) -> AudioDiT:
    """The DiT with these tensors; `known` as in dit_config_from."""
    config = dit_config_from(shapes_of(tensors), **known)
    return build(lambda: build_dit(config), tensors, what="the audio-driven DiT", dtype=dtype, device=device, keep="blocks.")


def load_vae(
    tensors: Mapping[str, Tensor], *, dtype: torch.dtype, device: str | torch.device = "cpu", check: Callable[[], None] = lambda: None
) -> CausalVAE | PatchVAE:
    """The VAE with these tensors: the large or the small one."""
    shapes = shapes_of(tensors)
    if "decoder.picture.rest.weight" in shapes:
        small = patch_vae_config_from(shapes)
        return build(lambda: PatchVAE(small), tensors, what="the small VAE", dtype=dtype, device=device, check=check)
    config = vae_config_from(shapes)
    return build(lambda: CausalVAE(config), tensors, what="the Wan 2.1 VAE", dtype=dtype, device=device, check=check)


def load_enlarger(
    tensors: Mapping[str, Tensor], *, dtype: torch.dtype, device: str | torch.device = "cpu", check: Callable[[], None] = lambda: None
) -> Enlarger:
    """The enlarger with these tensors."""
    config = enlarger_config_from(shapes_of(tensors))
    return build(lambda: Enlarger(config), tensors, what="the enlarger", dtype=dtype, device=device, check=check)


def read_tiny_decoder(path: Path) -> TinyDecoder:
    """The tiny decoder in this file, float32 on the CPU. FileNotFoundError if it is missing, ValueError if it is another kind of file."""
    if not path.is_file():
        raise FileNotFoundError(f"--decoder {path} is missing; name a file of {TINY_DOWNLOAD}, or leave it out")
    try:
        return load_tiny_decoder(read_tensors([path]), dtype=torch.float32)
    except ValueError as error:
        raise ValueError(f"--decoder {path}: {error} (published as {TINY_DOWNLOAD})") from None


def load_tiny_decoder(tensors: Mapping[str, Tensor], *, dtype: torch.dtype, device: str | torch.device = "cpu") -> TinyDecoder:
    """The tiny decoder with these tensors; the file's encoder is not used. ValueError if its decoder has other layers."""
    what = "the tiny decoder of Wan 2.1 (taew2_1)"
    decoder = build(TinyDecoder, tensors, what=what, dtype=dtype, device=device)
    known = decoder.state_dict().keys()
    if strange := [name for name in tensors if name.startswith("decoder.") and name not in known]:
        raise ValueError(f"not the weights of {what}: it has no {first_three(strange)}; choose another file")
    return decoder


def dit_config_from(
    shapes: Mapping[str, tuple[int, ...]],
    *,
    num_heads: int | None = None,
    text_len: int = 512,
    predicts: str = "velocity",
    picture_in: str = "first",
) -> DiTConfig:
    """The DiT's config from its tensors' shapes. Heads are 128 wide unless `num_heads` is given. ValueError for other models."""
    needed = ["patch_embedding.weight", "blocks.0.ffn.0.weight", "text_embedding.0.weight", "time_embedding.0.weight"]
    needed += ["img_emb.proj.0.weight", "head.head.weight"]
    audio = ["audio_proj.proj1.weight", "audio_proj.proj1_vf.weight", "audio_proj.proj3.weight", "audio_proj.norm.weight"]
    if missing := [name for name in needed if name not in shapes]:
        raise ValueError(f"not the weights of the audio-driven DiT (Wan 2.1 I2V): {first_three(missing)} missing; choose that model's file")
    if missing := [name for name in audio if name not in shapes]:
        raise ValueError(f"Wan 2.1 I2V without audio: {first_three(missing)} missing; add the InfiniteTalk or FlashTalk audio patch file")
    dim, in_dim, _, patch_size, _ = shapes["patch_embedding.weight"]
    hidden, first = shapes["audio_proj.proj1.weight"]
    slot = (shapes["audio_proj.proj1_vf.weight"][1] - first) // 3
    width = shapes["audio_proj.norm.weight"][0]
    if num_heads is None and dim % HEAD_DIM:
        raise ValueError(f"dim={dim} of the DiT is not a multiple of its published head size {HEAD_DIM}; give num_heads in config.json")
    rows = shapes["head.head.weight"][0] // patch_size**2
    shifts = shapes["shifts.weight"][0] // shapes["shifts.weight"][1] if "shifts.weight" in shapes else 0
    return choose_config(
        dim=dim,
        ffn_dim=shapes["blocks.0.ffn.0.weight"][0],
        num_heads=num_heads or dim // HEAD_DIM,
        num_layers=1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("blocks.")),
        in_dim=in_dim,
        out_dim=rows - shifts,
        freq_dim=shapes["time_embedding.0.weight"][1],
        text_dim=shapes["text_embedding.0.weight"][1],
        text_len=text_len,
        image_dim=shapes["img_emb.proj.0.weight"][0],
        audio_window=first // slot,
        audio_dim=slot,
        audio_hidden=hidden,
        audio_width=width,
        audio_tokens=shapes["audio_proj.proj3.weight"][0] // width,
        patch_size=patch_size,
        predicts=predicts,
        picture_in=picture_in,
        shifts=shifts,
    )


def vae_config_from(shapes: Mapping[str, tuple[int, ...]]) -> VAEConfig:
    """The VAE's config from its tensors' shapes; latent statistics are those of Wan 2.1."""
    needed = ["encoder.conv1.weight", "conv2.weight", "decoder.conv1.weight", "decoder.head.2.weight"]
    if missing := [name for name in needed if name not in shapes]:
        raise ValueError(f"not the weights of the Wan 2.1 VAE: {first_three(missing)} missing; choose Wan2.1_VAE.pth")
    dim = shapes["encoder.conv1.weight"][0]
    layers = 1 + max(int(name.split(".")[2]) for name in shapes if name.startswith("encoder.downsamples."))
    down = [i for i in range(layers) if f"encoder.downsamples.{i}.resample.1.weight" in shapes]
    starts = [0, *(i + 1 for i in down)]
    return VAEConfig(
        dim=dim,
        z_dim=shapes["conv2.weight"][0],
        dim_mult=tuple(shapes[f"encoder.downsamples.{i}.residual.2.weight"][0] // dim for i in starts),
        num_res_blocks=down[0],
        temporal_downsample=tuple(f"encoder.downsamples.{i}.time_conv.weight" in shapes for i in down),
    )


def patch_vae_config_from(shapes: Mapping[str, tuple[int, ...]]) -> PatchVAEConfig:
    """The small VAE's config from its tensors' shapes."""
    width, z_dim = shapes["decoder.embed.weight"][:2]
    return PatchVAEConfig(
        z_dim=z_dim,
        width=width,
        blocks=count_blocks(shapes, "decoder.blocks."),
        fine_width=shapes["decoder.head.weight"][1],
        fine_blocks=count_blocks(shapes, "decoder.fine."),
    )


def enlarger_config_from(shapes: Mapping[str, tuple[int, ...]]) -> EnlargerConfig:
    """The enlarger's config from its tensors' shapes. ValueError for another file."""
    if missing := [name for name in ("flow.weight", "merge.weight") if name not in shapes]:
        raise ValueError(f"not the weights of the enlarger: {first_three(missing)} missing; choose enlarger.safetensors of the model")
    return EnlargerConfig(
        width=shapes["flow.weight"][1],
        blocks=count_blocks(shapes, "blocks."),
        fine_width=shapes["merge.weight"][0],
        fine_blocks=count_blocks(shapes, "fine."),
    )
