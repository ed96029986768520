"""What a checkpoint file is, judged by its tensors' names and shapes, and where it belongs. Reads headers only, without torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from livetalk_core.engine.files import ModelFiles, has_tokenizer
from livetalk_core.engine.judge import Judged, judge
from livetalk_core.models.headers import Stored, read_formats, read_headers, strip_prefix
from livetalk_core.models.other_files import is_gguf

PLACES = {
    "dit": "choose it as the model (models/diffusion_models)",
    "base": "choose it as the model, with an audio patch (models/diffusion_models)",
    "patch": "choose it as the audio patch, after a Wan 2.1 I2V base (models/diffusion_models or models/model_patches)",
    "lora": "choose it as a LoRA (models/loras)",
    "vae": "choose it as the VAE (models/vae)",
    "decoder": "choose it as the tiny decoder (models/vae_approx)",
    "text": "choose it as the text encoder (models/text_encoders)",
    "image": "choose it as the CLIP vision encoder (models/clip_vision)",
    "audio": "choose it as the audio encoder (models/audio_encoders)",
    "form": "that form cannot be read; choose its bf16, fp8_scaled, int8 or GGUF (Q8_0, Q4_K, ...) file",
    "shards": "it is used with all its parts: --dit FILE FILE ..., or --model FOLDER (in ComfyUI, a folder in models/livetalk)",
    "none": "LiveTalk cannot use it",
    "unknown": "LiveTalk cannot use it",
}
"""What to do with a file of each part."""
NEEDED = {
    "dit": "a Wan 2.1 I2V 14B with its audio patch, or SoulX-FlashTalk-14B",
    "base": "a Wan 2.1 I2V 14B, or SoulX-FlashTalk-14B",
    "patch": "an InfiniteTalk or MultiTalk file",
    "lora": "a LoRA for Wan 2.1 14B",
    "vae": "the Wan 2.1 VAE",
    "text": "the umT5-xxl encoder",
    "image": "clip_vision_h",
    "audio": "chinese-wav2vec2-base",
    "decoder": "a tiny decoder such as taew2_1",
}
READABLE = ("float8_e4m3fn", "float8_e5m2", "int8_tensorwise")
"""Formats of ComfyUI that can be read; models/scaled_files.py reads them."""
FORMATS = {
    "nvfp4": "NVFP4 (4 bits)",
    "mxfp8": "MXFP8 (8 bits)",
    "rotated int8_tensorwise": "rotated int8 (convrot)",
    "convrot_w4a4": "rotated 4 bits (convrot)",
    "asym_w4a8_int8": "asymmetric 4 bits",
}
"""Other formats of ComfyUI, in words."""
GGUF_FORMS = ("F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "Q4_0", "Q3_K", "Q2_K")
SCALES = ("scale_weight", "weight_scale", "weight._scale")
SIZES = {"vae": "channels", "text": "wide", "image": "wide", "audio": "wide in all layers together"}
ENCODERS = ("vae", "text", "image", "audio")
SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.\w+)")
"""Names of a model's parts: stem, number, count and ending."""
WORDS = {"F32": "fp32", "F16": "fp16", "BF16": "bf16", "F8_E4M3": "fp8 (e4m3)", "F8_E5M2": "fp8 (e5m2)", "I8": "int8"}
"""Number formats as file names have them."""


@dataclass(frozen=True, kw_only=True)
class FileKind:
    """What a file is. `part`: a key of PLACES."""

    part: str
    text: str
    """Without capital and period."""
    form: str
    """How its numbers are stored."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """By part: the size that an encoder, VAE, LoRA or patch has, or that a DiT needs it to have."""
    preferred: bool = True
    """Among files of its part: a text encoder with its tokenizer inside, a wav2vec2 that was not trained to write a language."""

    @property
    def told(self) -> str:
        return self.text if self.part == "form" else f"{self.text}; weights in {self.form}"

    @property
    def usable(self) -> bool:
        """Whether it can be used somewhere."""
        return self.part not in ("none", "unknown", "form")

    def fits(self, dit: FileKind) -> bool:
        """Whether this file has the sizes that a DiT needs."""
        return all(self.sizes.get(part, size) == size for part, size in dit.sizes.items())


def what_is(path: Path) -> FileKind:
    """What a file is; one of several parts of a model is judged with the others, which lie beside it.

    FileNotFoundError for a missing file, ValueError for one that is damaged or no file of tensors.
    """
    parts = shards_of(path)
    if len(parts) == 1:
        return judge_files(path)
    whole, number = judge_files(*parts), parts.index(path) + 1
    part = "shards" if whole.part in ("dit", "base", "patch") else "form" if whole.part in ENCODERS else whole.part
    return replace(whole, part=part, text=f"part {number} of {len(parts)} of {whole.text}")


def shards_of(path: Path) -> list[Path]:
    """All parts of a model of which a file is one, as its name says; else the file alone. FileNotFoundError for a missing one."""
    if not path.is_file():
        return [path]
    parts = [path.with_name(name) for name in shard_names(path.name)]
    if lost := [part.name for part in parts if not part.is_file()]:
        raise FileNotFoundError(f"{path} is one of {len(parts)} parts of a model, and {lost[0]} is not beside it; download all of them")
    return parts


def shard_names(name: str) -> list[str]:
    """The names of all parts of a model of which one has this name; else the name alone."""
    match = SHARD.fullmatch(name)
    if match is None:
        return [name]
    stem, _, count, ending = match.groups()
    return [f"{stem}-{number:05d}-of-{count}{ending}" for number in range(1, int(count) + 1)]


def judge_files(*paths: Path) -> FileKind:
    """What files are together."""
    for path in paths:
        if path.is_dir():
            raise ValueError(f"{path} is a folder; name the files in it, or give a model's folder with --model")
        if not path.is_file():
            lost = "is a link to a file that is missing" if path.is_symlink() else "is missing"
            raise FileNotFoundError(f"{path} {lost}; check the path")
    stats = [path.stat() for path in paths]
    kind = sniffed(paths, tuple((stat.st_size, stat.st_mtime_ns) for stat in stats))
    if isinstance(kind, str):
        raise ValueError(kind)
    return kind


@lru_cache(maxsize=4096)
def sniffed(paths: tuple[Path, ...], stamps: tuple[tuple[int, int], ...]) -> FileKind | str:
    """What files are, or the error. Kept as long as they have these sizes and times, so that long lists of files stay quick."""
    path, headers = paths[0], {}
    try:
        for each in paths:
            headers |= read_headers(each)
        strange = next((found for each in paths if (found := unreadable(headers, each))), None)
    except ValueError as error:
        return str(error)
    kind = kind_of(judge(shapes_of(headers)), form_of(headers, path))
    if kind.part == "text":
        inside = has_tokenizer(path)
        tokens = ", with its tokenizer inside" if inside else "; the folder of its tokenizer is needed too"
        kind = replace(kind, preferred=inside, text=f"{kind.text}{tokens}")
    if strange is None or kind.part not in ("dit", "base", "patch", "text"):
        return kind
    return replace(kind, part="form", text=f"{kind.text}, in {strange}")


def unreadable(headers: Mapping[str, Stored], path: Path) -> str | None:
    """The quantized format of a file if it cannot be read."""
    if is_gguf(path):
        kinds = {stored.kind for stored in headers.values() if len(stored.shape) > 1} - set(GGUF_FORMS)
        return next(iter(sorted(kinds)), None)
    if any(name.endswith(".weight_scale_2") for name in headers):
        return FORMATS["nvfp4"]
    found = sorted(read_formats(path) - set(READABLE))
    return FORMATS.get(found[0], found[0]) if found else None


def kind_of(judged: Judged, form: str = "") -> FileKind:
    return FileKind(part=judged.part, text=judged.text, form=form, sizes=judged.sizes, preferred=judged.preferred)


def shapes_of(headers: Mapping[str, Stored]) -> dict[str, tuple[int, ...]]:
    """Shapes by name, without prefixes and what quanto adds to a weight's name."""
    return {name.removesuffix("._data"): stored.shape for name, stored in strip_prefix(headers).items()}


def form_of(headers: Mapping[str, Stored], path: Path) -> str:
    """How most of a file's matrices are stored."""
    weights = {name: stored for name, stored in headers.items() if not name.endswith(SCALES)}
    counts = Counter(stored.kind for stored in weights.values() if len(stored.shape) > 1) or Counter(each.kind for each in weights.values())
    kind = counts.most_common(1)[0][0] if counts else "no form"
    if is_gguf(path):
        return f"GGUF {kind}"
    return f"{'scaled ' if len(weights) < len(headers) else ''}{WORDS.get(kind, kind)}"


def check_kinds(files: ModelFiles) -> None:
    """ValueError, in one line, for a file that is known to be of another part than it was chosen for. Unknown files pass.

    The DiT's files are judged together, since one shard alone tells little.
    """
    check_whole(files.dit)
    names: dict[str, tuple[int, ...]] = {}
    for path in (path for path in files.dit if path.is_file()):
        if (kind := judge_files(path)).part not in ("dit", "base", "patch", "none", "unknown"):
            raise misplaced(path, kind, "dit")
        names |= shapes_of(read_headers(path))
    dit = kind_of(judge(names)) if names else None
    if dit is not None and dit.part not in ("dit", "base", "unknown"):
        raise misplaced(files.dit[0], dit, "dit")
    for part in ENCODERS:
        path = vars(files)[part]
        if path is not None and path.is_file():
            check_part(path, part)
            if dit is not None:
                check_size(path, part, dit)


def check_whole(paths: tuple[Path, ...]) -> None:
    """ValueError for a part of a model without the others."""
    names = {path.name for path in paths}
    for path in paths:
        if lost := [name for name in shard_names(path.name) if name not in names]:
            raise ValueError(
                f"{path.name} is one of {len(shard_names(path.name))} parts of a model, and {lost[0]} is not given; name them all"
            )


def check_part(path: Path, *parts: str) -> None:
    """ValueError, in one line, for a file that is known to be none of these parts."""
    if (kind := what_is(path)).part not in (*parts, "unknown"):
        raise misplaced(path, kind, parts[0])


def check_size(path: Path, part: str, dit: FileKind) -> None:
    """ValueError for an encoder or VAE of another size than the DiT needs."""
    kind = what_is(path)
    if not kind.fits(dit):
        found, needed = kind.sizes[part], dit.sizes[part]
        raise ValueError(f"{path.name} is {kind.text}, {found} {SIZES[part]}; this DiT needs {needed}. Choose {NEEDED[part]}")


def misplaced(path: Path, kind: FileKind, part: str) -> ValueError:
    return ValueError(f"{path.name} is {kind.text}; {PLACES[kind.part]}. Here {NEEDED[part]} is needed")
