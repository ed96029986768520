"""What a checkpoint file is, judged by its tensors' names and shapes, and where it belongs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from livetalk_core.engine.files import ModelFiles, read_header
from livetalk_core.models import weights
from livetalk_core.models.gguf_file import gguf_entries

Shapes = Mapping[str, tuple[int, ...]]

PLACES = {
    "dit": "choose it as the model (models/diffusion_models)",
    "patch": "choose it as the audio patch, after a Wan 2.1 I2V base (models/diffusion_models or models/model_patches)",
    "lora": "choose it as a LoRA (models/loras)",
    "vae": "choose it as the VAE (models/vae)",
    "decoder": "choose it as the tiny decoder (models/vae_approx)",
    "text": "choose it as the text encoder (models/text_encoders)",
    "image": "choose it as the CLIP vision encoder (models/clip_vision)",
    "audio": "choose it as the audio encoder (models/audio_encoders)",
    "none": "LiveTalk cannot use it",
}
"""What to do with a file of each part."""
NEEDED = {
    "dit": "a Wan 2.1 I2V 14B with its audio patch, or SoulX-FlashTalk-14B",
    "vae": "the Wan 2.1 VAE",
    "text": "the umT5-xxl encoder",
    "image": "clip_vision_h",
    "audio": "chinese-wav2vec2-base",
}
LARGE_WAV2VEC = 1024
"""Width of the large wav2vec2; the models hear with the base one, 768 wide."""
SCALES = ("scale_weight", "weight_scale", "weight._scale")


@dataclass(frozen=True, kw_only=True)
class FileKind:
    """What a file is. `part`: a key of PLACES."""

    part: str
    text: str
    """Without capital and period."""
    form: str
    """How its numbers are stored."""

    @property
    def told(self) -> str:
        return f"{self.text} ({self.form})"


def what_is(path: Path) -> FileKind:
    """FileNotFoundError for a missing file, ValueError for one that is damaged or no file of tensors."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; check the path")
    stat = path.stat()
    return sniffed(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=64)
def sniffed(path: Path, size: int, changed_ns: int) -> FileKind:
    shapes, form = listed(path)
    return FileKind(**dict(zip(("part", "text"), judge(weights.strip_prefix(shapes)), strict=True)), form=form)


def listed(path: Path) -> tuple[dict[str, tuple[int, ...]], str]:
    """The shapes of a file's tensors, and how they are stored."""
    if path.suffix == ".gguf":
        entries = gguf_entries(path)
        found = {entry.name: (tuple(int(size) for size in reversed(entry.shape)), entry.tensor_type.name) for entry in entries}
    elif path.suffix == ".safetensors":
        header = {name: told for name, told in read_header(path).items() if name != "__metadata__"}
        found = {name: (tuple(told["shape"]), told["dtype"]) for name, told in header.items()}
    else:
        found = {name: (tuple(tensor.shape), str(tensor.dtype)[6:]) for name, tensor in weights.read_pickle(path).items()}
    counts = Counter(kind for shape, kind in found.values() if len(shape) > 1) or Counter(kind for _, kind in found.values())
    kind = counts.most_common(1)[0][0] if counts else "empty"
    prefix = "GGUF " if path.suffix == ".gguf" else "scaled " if any(name.endswith(SCALES) for name in found) else ""
    return {name: shape for name, (shape, _) in found.items()}, prefix + kind


def judge(shapes: Shapes) -> tuple[str, str]:
    """Part and description of a file with tensors of these names and shapes."""
    if any(mark in name for name in shapes for mark in (".lora_down.", ".lora_A.", ".lora.down.", ".diff_b")):
        return "lora", lora_text(shapes)
    for part, judged in (("dit", dit_text), ("text", text_text), ("image", image_text), ("audio", audio_text), ("vae", vae_text)):
        if found := judged(shapes):
            return found if isinstance(found, tuple) else (part, found)
    return "none", f"no file of a kind that is known here ({', '.join(sorted(shapes)[:2]) or 'it has no tensors'})"


def lora_text(shapes: Shapes) -> str:
    downs = {name: shape for name, shape in shapes.items() if any(mark in name for mark in (".lora_down.", ".lora_A.", ".lora.down."))}
    ranks, widths = Counter(shape[0] for shape in downs.values() if shape), Counter(shape[1] for shape in downs.values() if len(shape) > 1)
    if not ranks or not widths:
        return "a LoRA"
    return f"a LoRA of rank {ranks.most_common(1)[0][0]} for {len(downs)} layers, most of them {widths.most_common(1)[0][0]} wide"


def dit_text(shapes: Shapes) -> str | tuple[str, str] | None:
    if "head.modulation" not in shapes:
        patch = "audio_proj.proj1.weight" in shapes
        return ("patch", "an audio patch (InfiniteTalk or MultiTalk) for a Wan 2.1 I2V base") if patch else None
    width = shapes["head.modulation"][-1]
    if "img_emb.proj.0.weight" not in shapes and "img_emb.proj.0.bias" not in shapes:
        return "none", f"a Wan DiT without a picture input ({width} wide): Wan 2.1 text-to-video or Wan 2.2"
    if "audio_proj.proj1.weight" in shapes:
        return f"a DiT that talks: Wan 2.1 I2V with audio ({width} wide)"
    return f"a Wan 2.1 I2V base ({width} wide), which needs an audio patch to talk"


def text_text(shapes: Shapes) -> str | None:
    names = ("encoder.block.0.layer.1.DenseReluDense.wi_1.weight", "blocks.0.ffn.gate.0.weight", "enc.blk.0.ffn_gate.weight")
    if not any(name in shapes for name in names):
        return None
    inside = ", with its tokenizer inside" if "spiece_model" in shapes else ""
    return f"a umT5 text encoder{inside}"


def image_text(shapes: Shapes) -> str | None:
    clip = "vision_model.embeddings.class_embedding" in shapes or "visual.cls_embedding" in shapes
    return "a CLIP vision encoder" if clip else None


def audio_text(shapes: Shapes) -> str | tuple[str, str] | None:
    bias = next((shapes[name] for name in ("wav2vec2.encoder.layer_norm.bias", "encoder.layer_norm.bias") if name in shapes), None)
    if bias == (LARGE_WAV2VEC,):
        return "none", "a large wav2vec2 (1024 wide); the models hear with chinese-wav2vec2-base (768 wide)"
    return None if bias is None else f"a wav2vec2 audio encoder ({bias[0]} wide)"


def vae_text(shapes: Shapes) -> str | tuple[str, str] | None:
    if "decoder.middle.0.residual.0.gamma" in shapes:
        channels = shapes.get("conv2.weight", (16,))[0]
        return "the Wan 2.1 VAE" if channels == 16 else ("none", f"a VAE of {channels} channels, as of Wan 2.2; Wan 2.1's has 16")
    if "decoder.picture.rest.weight" in shapes:
        return "the VAE of a small model such as nano"
    return ("decoder", "a tiny decoder (taew2_1)") if "decoder.22.bias" in shapes else None


def check_kinds(files: ModelFiles) -> None:
    """ValueError, in one line, for a file that is known to be of another part than it was chosen for. Unknown files pass.

    The DiT's files are judged together, since one shard alone tells little.
    """
    names: dict[str, tuple[int, ...]] = {}
    for path in (path for path in files.dit if path.is_file()):
        if (kind := what_is(path)).part not in ("dit", "patch", "none"):
            raise misplaced(path, kind, "dit")
        names |= weights.strip_prefix(listed(path)[0])
    if names:
        part, text = judge(names)
        kind = FileKind(part=part, text=text, form="")
        if part != "dit" and not unknown(kind):
            raise misplaced(files.dit[0], kind, "dit")
    for part in ("vae", "text", "image", "audio"):
        path = vars(files)[part]
        if path is not None and path.is_file() and (kind := what_is(path)).part != part and not unknown(kind):
            raise misplaced(path, kind, part)


def unknown(kind: FileKind) -> bool:
    return kind.part == "none" and kind.text.startswith("no file")


def misplaced(path: Path, kind: FileKind, part: str) -> ValueError:
    return ValueError(f"{path.name} is {kind.text}; {PLACES[kind.part]}. Here {NEEDED[part]} is needed")
