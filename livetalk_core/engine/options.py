"""Everything that can be asked of an engine: one field each, with its default, what it may be, and what a user is told of it.

The command line's arguments and the ComfyUI node's inputs are made from these fields. Nothing here imports torch.
"""

from __future__ import annotations

from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from livetalk_core.engine.files import SHIPPED, ModelFiles, find_files

if TYPE_CHECKING:
    import torch

MEMORY = ("auto", "resident", "offload", "sharded")
KERNELS = ("auto", "sdpa", "cudnn", "flash", "efficient", "flash2", "flash3", "sage")
FAST = ("none", "fp8")
DTYPES = ("auto", "bfloat16", "float32")


@dataclass(frozen=True, kw_only=True)
class Option:
    """What a field of EngineOptions may be, and what a user is told of it."""

    help: str
    """One sentence without its capital and its full stop."""
    kind: type
    """bool, int, str or Path."""
    many: bool = False
    """Whether it is a tuple of them."""
    choices: tuple[str, ...] = ()
    least: int = 1
    """Of an int."""
    words: tuple[str, ...] = ()
    """What may stand in place of an int."""
    metavar: str | None = None
    aliases: tuple[str, ...] = ()
    """Further names on the command line."""
    title: str = "{name}={value!r}"
    """How an error begins."""

    def check(self, name: str, value: object) -> None:
        """ValueError for a value that is none of the choices, or out of range."""
        if self.choices and value not in self.choices:
            raise ValueError(f"{self.title.format(name=name, value=value)} must be one of {', '.join(self.choices)}")
        if self.kind is int and value not in self.words and not (type(value) is int and value >= self.least):
            raise ValueError(f"{name}={value} must be {', or '.join([f'{self.least} or more', *self.words])}")


def option(default: Any, *, help: str, kind: type | None = None, **told: Any) -> Any:
    """A field with this default. `kind` is the default's type unless given; `told`: further fields of Option."""
    return field(default=default, metadata={"option": Option(help=help, kind=kind or type(default), **told)})


def option_of(of: Field) -> Option:
    return of.metadata["option"]


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """What is asked of an engine. ValueError, in one line, for what it cannot be.

    New fields come last: saved ComfyUI graphs know an input's value by its place.
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
        help="where the DiT's weights are kept: resident (on the device), offload (in host memory, brought block by block), sharded "
        "(a part on each of several GPUs), or auto: resident where they fit, else offload",
    )
    gpus: int | Literal["auto"] = option(
        1,
        words=("auto",),
        metavar="N",
        help="GPUs that make one video together, 1 or more, or auto; above 1, each has its own process",
    )
    workers: int | None = option(None, kind=int, metavar="N", aliases=("pool",), help="processes on the CPU in place of GPUs, 1 or more")
    attention: str = option(
        "auto",
        choices=KERNELS,
        title="attention kernel {value!r}",
        help="attention kernel: auto, the fastest on this GPU; sdpa, cudnn, flash, efficient (torch's own); flash2, flash3, sage (each "
        "needs its package); sage is lossy: it works in 8 bits, and its error is measured as for fast",
    )
    compile: bool = option(
        False, help="compile with torch.compile: faster chunks after a slow first one of every size; needs a C++ compiler"
    )
    fast: str = option(
        "none",
        choices=FAST,
        help="lossy savings: none, or fp8: the DiT's large products in 8 bits. On the first chunk each lossy option is compared with the "
        "exact result and its error printed, which takes the time of one more chunk, and of one for each option",
    )
    decoder: Path | None = option(
        None,
        kind=Path,
        metavar="FILE",
        help="for drafts: file of a tiny decoder (taew2_1, .pth or .safetensors) in place of the Wan 2.1 VAE's; lossy, its error is "
        "measured as for fast; the next chunk starts from its frames too; works in one process only",
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
    size: str = option("auto", help="picture size that a pool is made for: WIDTHxHEIGHT, a bucket, or auto: the model's own")

    def __post_init__(self) -> None:
        for each in fields(self):
            if (value := vars(self)[each.name]) != each.default:
                option_of(each).check(each.name, value)
        if self.memory == "sharded" and (self.compile or self.fast != "none"):
            raise ValueError("memory='sharded' works without compile and fast only; leave them out, or choose another --memory")

    @property
    def in_pool(self) -> bool:
        """Whether the engine is in processes of its own."""
        return self.workers is not None or self.gpus != 1

    @property
    def torch_dtype(self) -> torch.dtype | None:
        """None: the device's own."""
        import torch

        return None if self.dtype == "auto" else {"bfloat16": torch.bfloat16, "float32": torch.float32}[self.dtype]

    @property
    def source(self) -> str | Path | ModelFiles:
        """A preset's name or a folder as given; with single files, a model's files with those in their place."""
        parts = {"vae": self.vae, "text": self.text, "image": self.image, "audio": self.audio_encoder, "tokenizer": self.tokenizer}
        given: dict[str, Any] = {part: Path(path) for part, path in parts.items() if path is not None}
        return override_files(self.model, given | ({"dit": tuple(map(Path, self.dit))} if self.dit else {}))


def override_files(model: str | Path | ModelFiles, given: dict[str, Any]) -> str | Path | ModelFiles:
    """`given`: a path for a part, a tuple of them for the DiT. A preset lends its files where no encoder is given."""
    if not given:
        return model
    if isinstance(model, ModelFiles):
        return model.override(**given)
    from livetalk_core.presets import BY_NAME  # here, since it imports torch

    if model not in BY_NAME:
        return find_files(Path(model)).override(**given)
    folder = SHIPPED / model
    lends = folder.is_dir() and not given.keys() - {"dit", "vae"}
    return (find_files(folder) if lends else ModelFiles()).override(**given)
