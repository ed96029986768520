"""Checks the machine: what is there, what is missing, and how to get it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from livetalk_core.engine.files import DOWNLOADS, SHIPPED, ModelFiles, find_files
from livetalk_core.engine.planner import FORMS, USES, plan_card
from livetalk_core.engine.sniff import PLACES, what_is
from livetalk_core.parallel.memory import host_bytes
from livetalk_core.presets import BY_NAME

PACKAGES = ("numpy", "safetensors", "transformers", "einops", "av", "pillow", "pyloudnorm", "ftfy", "tqdm")
OPTIONAL = {
    "c2pa": "signs videos with Content Credentials: pip install c2pa-python; without it videos are made unsigned",
    "cryptography": "keeps the certificate that signs them: pip install cryptography",
    "flash_attn": "FlashAttention 2: pip install flash-attn (needs CUDA); without it torch's own attention is used",
    "flash_attn_interface": "FlashAttention 3, for Hopper GPUs; without it torch's own attention is used",
    "gguf": "reads GGUF files: pip install gguf",
    "sentencepiece": "reads the tokenizer inside umT5 files for ComfyUI: pip install sentencepiece",
    "xfuser": "optional, used only by name (--attention xfuser) on several GPUs: pip install xfuser",
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check. `needed`: nothing runs without it. `way_out`: how to get what is missing."""

    what: str
    good: bool
    found: str
    needed: bool = True
    way_out: str = ""


def examine(model: str = "nano") -> list[Finding]:
    """Check Python, torch, GPU, packages, attention kernels and the files of a model."""
    findings = [examine_python(), *examine_torch(), *map(examine_package, PACKAGES)]
    findings += [examine_optional(name, text) for name, text in OPTIONAL.items()]
    return [*findings, *examine_model(model)]


def examine_checkpoints(paths: list[Path]) -> Iterator[Finding]:
    """What each checkpoint file is, and where it belongs: one line each."""
    for path in paths:
        try:
            kind = what_is(path)
        except (OSError, ValueError) as error:
            yield Finding(what=path.name, good=False, found=str(error).removeprefix(f"{path} is "))
            continue
        yield Finding(what=path.name, good=kind.usable, found=f"{kind.told}; {PLACES[kind.part]}")


def examine_python() -> Finding:
    good = sys.version_info >= (3, 10)
    return Finding(
        what="python", good=good, found=f"{platform.python_version()} on {platform.platform()}", way_out="use Python 3.10 or newer"
    )


def examine_torch() -> Iterator[Finding]:
    if importlib.util.find_spec("torch") is None:
        yield Finding(what="torch", good=False, found="not installed", way_out="pip install torch==2.13.0, or the build that fits your GPU")
        return
    import torch

    yield Finding(what="torch", good=True, found=torch.__version__)
    if not torch.cuda.is_available():
        way_out = "the 14B model needs one: install a CUDA build of torch and a driver; small models run on the CPU"
        yield Finding(what="gpu", good=False, found="no CUDA device", needed=False, way_out=way_out)
        return
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        capability = f"compute capability {gpu.major}.{gpu.minor}"
        yield Finding(what=f"gpu {index}", good=True, found=f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, {capability}")
        yield from plans_for(torch.cuda.mem_get_info(index)[0], host_bytes())


def plans_for(free: int, host: int | None) -> Iterator[Finding]:
    """What a GPU with this much free memory does with the large models, for each form of their weights."""
    for use in USES:
        for form in FORMS:
            plan = plan_card(free, host, form, use)
            what = f"{use.told}, weights in {form}"
            yield Finding(what=what, good=plan is not None, found=plan.told if plan else "does not fit", needed=False)


def examine_package(name: str) -> Finding:
    try:
        return Finding(what=name, good=True, found=importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(what=name, good=False, found="not installed", way_out=f"pip install {name}")


def examine_optional(name: str, text: str) -> Finding:
    good = importlib.util.find_spec(name) is not None
    return Finding(what=name, good=good, found="installed" if good else "not installed", needed=False, way_out=text)


def examine_model(model: str) -> Iterator[Finding]:
    """Check every part of a model folder or, for a preset's name, whether its weights are in the package."""
    if model in BY_NAME:
        preset = BY_NAME[model]()
        if (SHIPPED / preset.name).is_dir():
            yield Finding(what=model, good=True, found=f"in this package: {SHIPPED / preset.name}")
        elif preset.trained:
            way_out = f"download {DOWNLOADS['dit']} and {DOWNLOADS['audio']}, and give the folder with --model"
            yield Finding(what=model, good=False, found="no weights in this package", way_out=way_out)
        else:
            yield Finding(what=model, good=True, found="random weights, only for tests")
        return
    try:
        files = find_files(Path(model))
    except (FileNotFoundError, ValueError) as error:
        yield Finding(what="model folder", good=False, found=str(error), way_out=f"download {DOWNLOADS['dit']}")
        return
    yield from examine_files(files)
    free_gb = shutil.disk_usage(model).free / 1e9
    yield Finding(
        what="disk", good=free_gb > 5, found=f"{free_gb:.0f} GB free beside the model", needed=False, way_out="videos need space too"
    )


def examine_files(files: ModelFiles) -> Iterator[Finding]:
    missing = files.missing()
    for part in DOWNLOADS:
        value = getattr(files, part)
        found = "missing" if part in missing else ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        yield Finding(what=part, good=part not in missing, found=found, way_out=f"download {DOWNLOADS[part]}")
