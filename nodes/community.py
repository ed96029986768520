"""The set of files that most people have who animate faces, found by itself: what the model `auto` stands for.

A Wan 2.1 I2V base, an InfiniteTalk or MultiTalk patch, and the other parts of Wan 2.1. A LoRA for 4 steps is added if one is there.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from livetalk_core.engine.options import EngineOptions

from . import checkpoints, folders, host
from .checkpoints import DIT_FOLDER, PARTS

DISTILLED = re.compile(r"lightx2v|step.?distill|4.?steps?", re.IGNORECASE)
"""Names of LoRAs that distill Wan 2.1 to 4 steps. Their tensors are those of any LoRA."""
OF_WAN_2_2 = re.compile(r"wan.?2[._]?2|(high|low).?noise", re.IGNORECASE)
WANTED = {
    "base": "a Wan 2.1 I2V 14B base such as wan2.1_i2v_480p_14B_fp8_scaled.safetensors or its GGUF: put it into models/diffusion_models",
    "patch": "an audio patch such as wan2.1_infiniteTalk_single_fp16.safetensors: put it into models/model_patches",
    "vae": "wan_2.1_vae.safetensors: put it into models/vae",
    "text": "umt5_xxl_fp8_e4m3fn_scaled.safetensors: put it into models/text_encoders",
    "image": "clip_vision_h.safetensors: put it into models/clip_vision",
    "audio": "wav2vec2-chinese-base_fp16.safetensors: put it into models/audio_encoders",
    "tokenizer": "umT5's tokenizer: choose a umT5 file with its tokenizer inside, such as umt5_xxl_fp8_e4m3fn_scaled.safetensors",
}
"""What to put where for each part of the set."""


def find_set(options: EngineOptions, audio_patch: str = folders.NO_PATCH) -> tuple[str, str, EngineOptions]:
    """The base and the patch, as names in the lists, and the options with a LoRA for 4 steps and its kind.

    A kind, LoRAs or files that the options name are kept. FileNotFoundError, in one line, with all that is missing, and with files that
    lie in another folder.
    """
    patches = [audio_patch] if audio_patch != folders.NO_PATCH else sorted(folders.patch_names()[1:], key=patch_order)
    pairs = [(base, patch) for base in checkpoints.names_of(DIT_FOLDER, "base") for patch in patches if fit(base, patch)]
    if missing := missing_from(pairs[0], options) if pairs else missing_parts(options):
        lost = "".join(f"; {line}" for line in checkpoints.misplaced_files())
        raise FileNotFoundError(f"model auto: no whole set of files was found, missing {'; '.join(WANTED[part] for part in missing)}{lost}")
    base, patch = pairs[0]
    if options.lora or options.kind != "auto":
        return base, patch, options
    kind, lora = "multitalk" if "multitalk" in patch.lower() else "infinitetalk", find_lora(base)
    if lora is None:
        host.tell("no LoRA for 4 steps is in models/loras, so each chunk takes 40 steps")
        return base, patch, replace(options, kind=kind)
    return base, patch, replace(options, kind=f"{kind}_4step", lora=(str(lora),))


def missing_from(pair: tuple[str, str], options: EngineOptions) -> list[str]:
    """The parts that a base with a patch lacks."""
    return replace(options, model=folders.find_model(*pair)).source.missing()


def missing_parts(options: EngineOptions) -> list[str]:
    """Where base or patch are missing, or do not fit each other: what there is none of at all."""
    named = {"audio": options.audio_encoder, "vae": options.vae, "text": options.text, "image": options.image}
    missing = [part for part in PARTS if named[part] is None and checkpoints.best_file(part, {}) is None]
    base = [] if checkpoints.names_of(DIT_FOLDER, "base") else ["base"]
    patch = [] if len(folders.patch_names()) > 1 and base else ["patch"]  # a patch that fits no base counts as missing
    return [*base, *patch, *missing]


def patch_order(name: str) -> tuple[bool, bool, str]:
    """InfiniteTalk before MultiTalk, the patch for one speaker first."""
    return "multitalk" in name.lower(), "multi" in name.lower(), name


def fit(base: str, patch: str) -> bool:
    first, second = (checkpoints.kind_of(*name.split("/", 1)) for name in (base, patch))
    return first is not None and second is not None and second.sizes.get("lora") == first.sizes.get("lora")


def find_lora(base: str) -> Path | None:
    """The LoRA that distills a base to 4 steps: for I2V before others."""
    width, found = checkpoints.kind_of(*base.split("/", 1)).sizes.get("lora"), []
    for name in host.model_files("loras"):
        if DISTILLED.search(name) and not OF_WAN_2_2.search(name):
            kind = checkpoints.kind_of("loras", name)
            if kind is not None and kind.part == "lora" and kind.sizes.get("lora") == width:
                found.append(("i2v" not in name.lower(), name))
    return host.model_path("loras", min(found)[1]) if found else None
