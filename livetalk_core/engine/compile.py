"""torch.compile for the DiT's blocks and the VAE. Compiled code is cached on disk between runs."""

from __future__ import annotations

import importlib.util
import logging
import os
import tempfile
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from livetalk_core.models.dit import AudioDiT
from livetalk_core.models.patch_vae import PatchVAE
from livetalk_core.models.runner import WholeSequence
from livetalk_core.models.tiny_decoder import DraftVAE
from livetalk_core.models.vae import DECODER_FORM, ActivatedNorm, CausalVAE
from livetalk_core.parallel.vae import ParallelVAE

log = logging.getLogger(__name__)

KEPT_IN = "TORCHINDUCTOR_CACHE_DIR"
GRAPHS = 64
"""Torch's limit of compiled variants of one function: picture sizes times pieces of a decode."""


def compile_models(dit: AudioDiT, vae: CausalVAE | PatchVAE | DraftVAE | ParallelVAE | None, device: torch.device) -> None:
    """Compile the DiT's blocks and the VAE on the first use of each shape; results differ by rounding.

    All blocks share one graph, except the last, which has its own. A group's communication stays outside the graphs. ValueError without a
    compiler, or if weights are offloaded.
    """
    require_compiler(device)
    away = sum(any(weight.device.type != device.type for weight in block.parameters()) for block in dit.blocks)
    if away:
        raise ValueError(
            f"compile needs the DiT's weights on {device}, and {away} of {len(dit.blocks)} blocks are in host memory; leave it out"
        )
    keep_compiled_forms()
    torch._dynamo.config.recompile_limit = max(GRAPHS, torch._dynamo.config.recompile_limit)
    whole = isinstance(dit.sequence, WholeSequence)
    assert whole or dit.sequence.compiled, "the group's communication would be traced"
    for block in dit.blocks:
        block.compile(dynamic=False, fullgraph=whole)
    compile_vae(vae)
    log.info("compiled code for %s is cached in %s", device, os.environ[KEPT_IN])


def compile_vae(vae: CausalVAE | PatchVAE | DraftVAE | ParallelVAE | None) -> None:
    """Compile the decoder, and the published VAE's encoder. Of a VAE that a group shares, only the norms: see `compile_norms`."""
    if isinstance(vae, ParallelVAE):
        compile_norms(vae.vae)
    elif isinstance(vae, CausalVAE):
        for half in (vae.decoder, vae.encoder):
            half.compile(dynamic=False, fullgraph=True, options=DECODER_FORM)
    elif vae is not None:
        vae.decoder.compile(dynamic=False, fullgraph=True)


def compile_norms(vae: nn.Module) -> None:
    """Compile each norm with its activation. They have most of the published VAE's elementwise work, and PatchVAE has none.

    Whole halves are not compiled in a group. A graph would end at each exchange of pixels, and every layer would be compiled again for
    each piece of a decode, since the cached frames are looked up by layer. All norms share a few graphs that fit every size.
    """
    for layer in vae.modules():
        if isinstance(layer, ActivatedNorm):
            layer.compile(dynamic=True, fullgraph=True)


def keep_compiled_forms() -> None:
    """Cache compiled code in the user's cache folder unless TORCHINDUCTOR_CACHE_DIR is set to another than torch's own folder."""
    if os.environ.get(KEPT_IN) in (None, temporary_folder()):
        os.environ[KEPT_IN] = str(cache_folder())


def temporary_folder() -> str | None:
    """Torch's default cache folder; None for a user without a name, for whom torch has none."""
    with suppress(KeyError, OSError):
        from torch._inductor.runtime.cache_dir_utils import default_cache_dir

        return default_cache_dir()
    return None


def cache_folder() -> Path:
    """Folder for compiled code: in the user's cache, or in the folder for temporary files if the cache cannot be written."""
    with suppress(OSError, RuntimeError):  # RuntimeError: a user without a home
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "livetalk" / "compiled"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    return Path(tempfile.gettempdir()) / f"livetalk-{os.getuid() if hasattr(os, 'getuid') else 'user'}" / "compiled"


def require_compiler(device: torch.device) -> None:
    """ValueError if torch has no compiler."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise ValueError(
            "compile needs a C++ compiler and found none; install g++ or clang++, or name one in CXX, or leave it out"
        ) from None
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise ValueError("compile on CUDA needs the package 'triton', which is not installed; pip install triton, or leave it out")
