"""What a DiT was trained for. SoulX-FlashTalk, InfiniteTalk and MultiTalk have the same tensors but other chunks, steps and guidance."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from livetalk_core.engine.files import ModelFiles
from livetalk_core.models import weights
from livetalk_core.models.weightless import MelConfig
from livetalk_core.presets import BY_NAME, LARGE, Preset

log = logging.getLogger(__name__)

OF_PATCH = re.compile(r"(^|\.)(audio_proj\.|blocks\.\d+\.(audio_cross_attn|norm_x)\.|scaled_fp8$)")
"""Tensors of an audio patch, with the mark of its 8-bit form. A patch has no others."""


def preset_of(files: ModelFiles) -> Preset:
    """The preset of a model's files. ValueError for a kind that does not fit them."""
    if files.preset:
        if files.kind != "auto":
            raise ValueError(f"kind={files.kind!r} is for the large models, and these files are {files.preset}'s; leave it out")
        return named_preset(files.preset)
    kind = files.kind if files.kind != "auto" else kind_of(files.dit)
    log.info("kind of the DiT: %s", kind)
    return LARGE[kind]()


def named_preset(name: str) -> Preset:
    """The preset that config.json names; ValueError for an unknown one, or one whose encoders have weights."""
    if name not in BY_NAME or not isinstance(BY_NAME[name]().audio, MelConfig):
        raise ValueError(f"config.json names the preset {name!r}, which must be nano; leave it out for a model with encoder files")
    return BY_NAME[name]()


def kind_of(paths: tuple[Path, ...]) -> str:
    """By the files: a base and an audio patch are InfiniteTalk, or MultiTalk if the patch's name says so; all others SoulX-FlashTalk."""
    if len(paths) < 2 or not is_patch(paths[-1]):
        return "livetalk_14b"
    return "multitalk" if "multitalk" in paths[-1].name.lower() else "infinitetalk"


def is_patch(path: Path) -> bool:
    """Whether a file has the tensors of an audio patch alone."""
    return all(OF_PATCH.search(name) for name in weights.read_weights([path]))
