"""Finds a model's files: in the published folder, or as single files, as ComfyUI users keep them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from livetalk_core.models.headers import gguf_keys
from livetalk_core.models.other_files import is_safetensors

SHARD = re.compile(r"diffusion_pytorch_model-(\d{5})-of-(\d{5})\.safetensors")
INDEX = "diffusion_pytorch_model.safetensors.index.json"
PIPELINE = "model_index.json"
"""In a folder as diffusers writes it."""
FILES = {
    "vae": ("Wan2.1_VAE.pth", "vae.safetensors"),
    "enlarger": ("enlarger.safetensors",),
    "text": ("models_t5_umt5-xxl-enc-bf16.pth",),
    "image": ("models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth",),
}
AUDIO_FILES = ("model.safetensors", "pytorch_model.bin")
AUDIO_FOLDER = "chinese-wav2vec2-base"
TOKENIZER_FOLDER = "google/umt5-xxl"
DOWNLOADS = {
    "dit": "Soul-AILab/SoulX-FlashTalk-14B",
    "vae": "Soul-AILab/SoulX-FlashTalk-14B",
    "text": "Soul-AILab/SoulX-FlashTalk-14B",
    "image": "Soul-AILab/SoulX-FlashTalk-14B",
    "tokenizer": "Soul-AILab/SoulX-FlashTalk-14B",
    "audio": "TencentGameMate/chinese-wav2vec2-base",
}
"""Where each part is published, as named on Hugging Face."""
SPIECE = "spiece_model"
"""Key of the tokenizer inside umT5 files for ComfyUI."""
GGUF_TOKENS = "tokenizer.ggml.tokens"
"""Key of the tokenizer inside umT5 files in GGUF."""
SHIPPED = Path(__file__).parents[1] / "assets"
"""Folders of the models in this package, by their preset's name."""


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """The files of each part of a model. `dit` may be shards, one file, or a Wan 2.1 I2V base and an audio patch."""

    dit: tuple[Path, ...] = ()
    vae: Path | None = None
    enlarger: Path | None = None
    """Of a small model; without it the model makes small pictures only."""
    text: Path | None = None
    image: Path | None = None
    audio: Path | None = None
    tokenizer: Path | None = None
    config: dict = field(default_factory=dict)
    """Contents of config.json; optional, since sizes come from the tensors. `preset` names one whose encoders need no files."""
    kind: str = "auto"
    """What the DiT was trained for, one of EngineOptions' kinds."""

    @property
    def preset(self) -> str | None:
        return self.config.get("preset")

    @property
    def kept(self) -> tuple[Path, ...]:
        """Files of the parts that stay loaded; text and picture encoders are needed only for a moment."""
        return tuple(path for path in (*self.dit, self.vae, self.enlarger, self.audio) if path is not None)

    def missing(self) -> list[str]:
        """The parts that no file was found for."""
        parts = {"dit": self.dit, "vae": self.vae, "text": self.text, "image": self.image, "audio": self.audio, "tokenizer": self.tokenizer}
        if self.text is not None and self.tokenizer is None and has_tokenizer(self.text):
            parts.pop("tokenizer")
        needed = ("dit", "vae") if self.preset else parts
        return [name for name in needed if not parts[name]]

    def require(self) -> ModelFiles:
        """Itself if complete; otherwise FileNotFoundError with the missing parts and where they are published."""
        missing = self.missing()
        if missing and self.preset:
            raise FileNotFoundError(
                f"the {self.preset} model is not complete, missing {', '.join(missing)}; copy its whole folder, or leave --model out"
            )
        if missing:
            parts = "; ".join(f"{name}: download {DOWNLOADS[name]}" for name in missing)
            raise FileNotFoundError(f"the model is not complete, missing {parts}, or name the files with --dit, --vae, ...")
        return self

    def override(self, **given: Path | tuple[Path, ...] | str | None) -> ModelFiles:
        """With the given files in place of those found; None leaves a part as it is."""
        return replace(self, **{name: value for name, value in given.items() if value})


def find_files(folder: Path) -> ModelFiles:
    """The parts in a published folder; wav2vec2 may be in it or beside it.

    FileNotFoundError for a missing folder or shard, ValueError for a file or another kind of folder.
    """
    if folder.is_file():
        raise ValueError(f"{folder} is a file, and a model is a folder; name a single file with --dit")
    if (folder / PIPELINE).is_file():
        raise ValueError(
            f"{folder} is a pipeline of diffusers, which has other names in its files; download {DOWNLOADS['dit']}, "
            "or name single files with --dit, --vae, ..."
        )
    if not folder.is_dir():
        raise FileNotFoundError(f"model folder {folder} does not exist; download {DOWNLOADS['dit']} into it, or leave --model out")
    found = {part: next((folder / name for name in names if (folder / name).is_file()), None) for part, names in FILES.items()}
    tokenizer = folder / TOKENIZER_FOLDER
    return ModelFiles(
        dit=find_shards(folder),
        audio=find_audio(folder),
        tokenizer=tokenizer if (tokenizer / "tokenizer.json").is_file() else None,
        config=read_config(folder / "config.json"),
        **found,
    )


def find_shards(folder: Path) -> tuple[Path, ...]:
    """The DiT's files: those of the index, else those present. FileNotFoundError for a missing shard."""
    index = folder / INDEX
    if index.is_file():
        names = sorted(set(read_json(index).get("weight_map", {}).values()))
    else:
        present = [match for path in folder.iterdir() if (match := SHARD.fullmatch(path.name))]
        total = max((int(match[2]) for match in present), default=0)
        names = [f"diffusion_pytorch_model-{i:05d}-of-{total:05d}.safetensors" for i in range(1, total + 1)]
        if not names and (folder / "diffusion_pytorch_model.safetensors").is_file():
            names = ["diffusion_pytorch_model.safetensors"]
    for name in names:
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder / name} is missing, one of {len(names)} shards of the DiT; download it from {DOWNLOADS['dit']}"
            )
    return tuple(folder / name for name in names)


def find_audio(folder: Path) -> Path | None:
    places = (folder / AUDIO_FOLDER, folder.resolve().parent / AUDIO_FOLDER)
    return next((place / name for place in places for name in AUDIO_FILES if (place / name).is_file()), None)


def has_tokenizer(text: Path) -> bool:
    """Whether a umT5 file has its tokenizer inside."""
    return SPIECE in read_header(text) or GGUF_TOKENS in gguf_keys(text)


def read_header(path: Path) -> dict[str, dict]:
    """The header of a safetensors file; empty for other kinds of file. ValueError for a damaged one."""
    if not is_safetensors(path) or not path.is_file():
        return {}
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            return json.loads(file.read(min(length, path.stat().st_size)))
        except ValueError:
            raise ValueError(f"{path} is not a whole safetensors file; download it again") from None


def read_config(path: Path) -> dict:
    return read_json(path) if path.is_file() else {}


def read_json(path: Path) -> dict:
    try:
        value = json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}); download it again") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object; download it again")
    return value
