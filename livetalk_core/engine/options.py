"""All options of an engine: one field each, with its default, allowed values and help text.

The command line's arguments and the ComfyUI node's inputs are made from these fields. Importing this file does not import torch.
"""

from __future__ import annotations

from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from livetalk_core.engine.files import SHIPPED, ModelFiles, find_files
from livetalk_core.engine.lora_files import parse_lora
from livetalk_core.plan import check_frame_count

if TYPE_CHECKING:
    import torch

MEMORY = ("auto", "resident", "offload", "sharded")
KERNELS = ("auto", "sdpa", "cudnn", "flash", "efficient", "flash2", "flash3", "sage", "xfuser")
WEIGHTS = ("auto", "16bit", "int8", "fp8")
DTYPES = ("auto", "bfloat16", "float32")
KINDS = ("auto", "livetalk_14b", "infinitetalk", "infinitetalk_4step", "multitalk", "multitalk_4step")


@dataclass(frozen=True, kw_only=True)
class Option:
    """Allowed values and help text of a field of EngineOptions."""

    help: str
    """One sentence without capital and period."""
    kind: type
    """bool, int, str or Path."""
    many: bool = False
    """Whether the value is a tuple of that kind."""
    choices: tuple[str, ...] = ()
    least: int = 1
    """Smallest allowed int."""
    words: tuple[str, ...] = ()
    """Words allowed instead of an int."""
    metavar: str | None = None
    aliases: tuple[str, ...] = ()
    """More names on the command line."""
    title: str = "{name}={value!r}"
    """How an error begins."""

    def check(self, name: str, value: object) -> None:
        """ValueError for a value that is not among the choices or out of range."""
        if self.choices and value not in self.choices:
            raise ValueError(f"{self.title.format(name=name, value=value)} must be one of {', '.join(self.choices)}")
        if self.kind is int and value not in self.words and not (type(value) is int and value >= self.least):
            raise ValueError(f"{name}={value} must be {', or '.join([f'{self.least} or more', *self.words])}")


def option(default: Any, *, help: str, kind: type | None = None, **told: Any) -> Any:
    """A field with this default. `kind` is the default's type unless given; `told`: other fields of Option."""
    return field(default=default, metadata={"option": Option(help=help, kind=kind or type(default), **told)})


def option_of(of: Field) -> Option:
    return of.metadata["option"]


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How an engine is made. Raises ValueError, in one line, for values that are not allowed.

    Add new fields at the end: saved ComfyUI graphs store an input's value by position.
    """

    model: str | Path | ModelFiles = option("nano", help="nano (in the package), tiny (random weights), or a model's folder")
    device: str = option("auto", help="cpu, cuda, cuda:1, or auto: cuda where there is one")
    dtype: str = option(
        "auto",
        choices=DTYPES,
        help="number format of the weights: bfloat16, float32, or auto: bfloat16 on a GPU and float32 on a CPU",
    )
    memory: str = option(
        "auto",
        choices=MEMORY,
        help="where the DiT's weights are kept: resident (on the device), offload (in host memory, copied block by block), sharded "
        "(a part on each of several GPUs), or auto: the first that fits of resident, sharded (several GPUs only), offload",
    )
    gpus: int | Literal["auto"] = option(
        1,
        words=("auto",),
        metavar="N",
        help="number of GPUs that make one video together, 1 or more, or auto; above 1, each has its own process",
    )
    workers: int | None = option(
        None, kind=int, metavar="N", aliases=("pool",), help="number of processes on the CPU instead of GPUs, 1 or more"
    )
    attention: str = option(
        "auto",
        choices=KERNELS,
        title="attention kernel {value!r}",
        help="attention kernel: auto (by GPU and shape); sdpa, cudnn, flash, efficient (torch's own); flash2, flash3, sage, xfuser (each "
        "needs its package; xfuser needs several GPUs); sage is lossy: it works in 8 bits; on the first chunk its error is "
        "measured and printed, which takes the time of two more chunks",
    )
    compile: bool = option(
        False, help="compile with torch.compile: faster chunks after a slow first one for each size; needs a C++ compiler"
    )
    weights: str = option(
        "auto",
        choices=WEIGHTS,
        help="how the DiT's weights are kept: auto (as in the file), 16bit (as dtype says), int8 or fp8 (lossy: half the memory, made "
        "while loading; the GPU multiplies in 8 bits if it can)",
    )
    decoder: Path | None = option(
        None,
        kind=Path,
        metavar="FILE",
        help="for drafts: file of a tiny decoder (taew2_1, .pth or .safetensors) instead of the Wan 2.1 VAE's; lossy, its error is "
        "measured on the first chunk; each chunk also starts from its frames; works in one process only",
    )
    dit: tuple[Path, ...] = option(
        (), kind=Path, many=True, metavar="FILE", help="DiT files; a Wan 2.1 I2V base may be followed by its audio patch"
    )
    vae: Path | None = option(None, kind=Path, metavar="FILE", help="VAE file in place of the model's own")
    text: Path | None = option(None, kind=Path, metavar="FILE", help="umT5 encoder file in place of the model's own")
    image: Path | None = option(None, kind=Path, metavar="FILE", help="CLIP vision encoder file in place of the model's own")
    audio_encoder: Path | None = option(None, kind=Path, metavar="FILE", help="wav2vec2 encoder file in place of the model's own")
    tokenizer: Path | None = option(
        None, kind=Path, metavar="DIR", help="folder of umT5's tokenizer.json in place of the model's own tokenizer"
    )
    chunk_frames: int | None = option(
        None,
        kind=int,
        metavar="N",
        least=13,
        help="frames of a chunk, 4k + 1, with its motion frames (default: the model's own, 33 for LiveTalk); fewer answer sooner and cost "
        "more work for a second of video: of 33 frames 28 are new and need 1.12 s of sound, of 17 frames 12 and 0.48 s",
    )
    size: str = option("auto", help="picture size that a pool is planned for: WIDTHxHEIGHT, a bucket, or auto: the model's own bucket")

    kind: str = option(
        "auto",
        choices=KINDS,
        help="what the DiT was trained for, which sets chunks, steps and guidance: livetalk_14b (SoulX-FlashTalk), infinitetalk, "
        "multitalk; infinitetalk_4step and multitalk_4step with a distillation LoRA; or auto: by the DiT's files",
    )
    lora: tuple[str, ...] = option(
        (),
        kind=str,
        many=True,
        metavar="FILE[:STRENGTH]",
        help="LoRA files for the DiT, each with a strength (1 if none is given); can be repeated",
    )

    def __post_init__(self) -> None:
        for each in self.lora:
            parse_lora(each)
        for each in fields(self):
            if (value := vars(self)[each.name]) != each.default:
                option_of(each).check(each.name, value)
        if self.chunk_frames is not None:
            check_frame_count("chunk_frames", self.chunk_frames)
        if self.attention == "xfuser" and self.gpus == 1:
            raise ValueError("attention='xfuser' needs several GPUs; leave it out, or set --gpus to 2 or more, or auto")
        if self.memory == "sharded" and not self.can_shard:
            raise ValueError("memory='sharded' works without compile only; leave it out, or choose another --memory")

    @property
    def can_shard(self) -> bool:
        """Whether the DiT's weights can be sharded with the other options."""
        return not self.compile

    @property
    def in_pool(self) -> bool:
        """Whether the engine runs in its own processes."""
        return self.workers is not None or self.gpus != 1

    @property
    def torch_dtype(self) -> torch.dtype | None:
        """None: the default of the device."""
        import torch

        return None if self.dtype == "auto" else {"bfloat16": torch.bfloat16, "float32": torch.float32}[self.dtype]

    @property
    def source(self) -> str | Path | ModelFiles:
        """The preset or folder as given; if single files are given, the model's files with those replaced."""
        parts = {"vae": self.vae, "text": self.text, "image": self.image, "audio": self.audio_encoder, "tokenizer": self.tokenizer}
        given: dict[str, Any] = {part: Path(path) for part, path in parts.items() if path is not None}
        kind = {} if self.kind == "auto" else {"kind": self.kind}
        return override_files(self.model, given | kind | ({"dit": tuple(map(Path, self.dit))} if self.dit else {}))


def override_files(model: str | Path | ModelFiles, given: dict[str, Any]) -> str | Path | ModelFiles:
    """`given`: a path for each part, a tuple of paths for the DiT. A preset's own files are used unless an encoder is given."""
    if not given:
        return model
    if isinstance(model, ModelFiles):
        return model.override(**given)
    from livetalk_core.presets import BY_NAME  # here, since it imports torch

    if model not in BY_NAME:
        return find_files(Path(model)).override(**given)
    folder = SHIPPED / model
    lends = folder.is_dir() and not given.keys() - {"dit", "vae", "kind"}
    return (find_files(folder) if lends else ModelFiles()).override(**given)
