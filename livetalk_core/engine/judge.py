"""What tensors of certain names and shapes are: a DiT, an audio patch, a LoRA, an encoder, a VAE."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from livetalk_core.models.headers import ODD_LORAS

Shapes = Mapping[str, tuple[int, ...]]

LARGE_WAV2VEC = 1024
"""Width of the large wav2vec2; the models hear with the base one, 768 wide."""
LORA_DOWN = (".lora_down.", ".lora_A.", ".lora.down.")
LORA_WHOLE = (".diff", ".diff_b", ".diff_m")
"""How the names of whole differences end."""
OF_WAN = re.compile(
    r"^(?:(?:base_model\.model|diffusion_model|transformer|model|lora_unet|lycoris|unet)[._]+)*"
    r"(?:blocks[._]\d+[._](?:self_attn|cross_attn|ffn|attn1|attn2|norm|audio|modulation)"
    r"|patch_embedding|text_embedding|time_|img_emb|audio_proj|condition_embedder|head|proj_out)"
)
"""Names of a LoRA for one of Wan's DiTs."""
OTHER_CLIPS = {1664: "clip_vision_g", 1024: "CLIP ViT-L", 768: "CLIP ViT-B"}
"""Vision encoders of other models, by their width."""
UMT5_NAMES = (
    "encoder.block.{}.layer.0.SelfAttention.relative_attention_bias",
    "blocks.{}.pos_embedding.embedding",
    "enc.blk.{}.attn_rel_b",
)
T5_NAMES = (
    "encoder.block.0.layer.1.DenseReluDense.wi_0.weight",
    "encoder.block.0.layer.1.DenseReluDense.wi.weight",
    "blocks.0.ffn.gate.0.weight",
    "enc.blk.0.ffn_gate.weight",
)
T5_NORMS = ("encoder.final_layer_norm.weight", "norm.weight", "enc.output_norm.weight")


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Part, description, and sizes by part, as in FileKind."""

    part: str
    text: str
    sizes: Mapping[str, int] = field(default_factory=dict)
    preferred: bool = True


def judge(shapes: Shapes) -> Judged:
    """What tensors of these names and shapes are."""
    for judged in (judge_lora, judge_dit, judge_text, judge_image, judge_audio, judge_vae):
        if found := judged(shapes):
            return found
    return Judged(part="unknown", text=f"no file of a kind that is known here ({', '.join(sorted(shapes)[:2]) or 'it has no tensors'})")


def judge_lora(shapes: Shapes) -> Judged | None:
    odd = next((kind for mark, kind in ODD_LORAS.items() if any(mark in name for name in shapes)), None)
    if odd is not None:
        return Judged(part="none", text=f"a LoRA of the kind {odd}, which cannot be read; choose one with lora_down and lora_up")
    names = [name for name in shapes if any(mark in name for mark in LORA_DOWN) or name.endswith(LORA_WHOLE)]
    if not names:
        return None
    if not any(OF_WAN.match(name) for name in names):
        return Judged(part="none", text=f"a LoRA for another model than Wan ({names[0].split('.lora')[0]})")
    return Judged(part="lora", text=lora_text(shapes), sizes=lora_sizes(shapes))


def lora_downs(shapes: Shapes) -> list[tuple[int, ...]]:
    return [shape for name, shape in shapes.items() if len(shape) > 1 and any(mark in name for mark in LORA_DOWN)]


def lora_text(shapes: Shapes) -> str:
    downs = lora_downs(shapes)
    if not downs:
        return f"a LoRA of whole differences for {sum(name.endswith(LORA_WHOLE) for name in shapes)} weights"
    rank, width = (Counter(shape[axis] for shape in downs).most_common(1)[0][0] for axis in (0, 1))
    return f"a LoRA of rank {rank} for {len(downs)} {'layer' if len(downs) == 1 else 'layers'}, most of them {width} wide"


def lora_sizes(shapes: Shapes) -> dict[str, int]:
    """The width that most of its layers have, as `lora`."""
    downs = lora_downs(shapes)
    return {"lora": Counter(shape[1] for shape in downs).most_common(1)[0][0]} if downs else {}


def judge_dit(shapes: Shapes) -> Judged | None:
    hears = "audio_proj.proj1.weight" in shapes
    if "condition_embedder.time_proj.weight" in shapes:
        return Judged(part="none", text="a Wan DiT under the names of diffusers; choose a file with Wan's own, such as Comfy-Org's")
    if "head.modulation" not in shapes:
        text = "an audio patch (InfiniteTalk or MultiTalk) for a Wan 2.1 I2V base"
        return Judged(part="patch", text=text, sizes=needs(shapes)) if hears else None
    width = shapes["head.modulation"][-1]
    if "img_emb.proj.0.weight" not in shapes and "img_emb.proj.0.bias" not in shapes:
        return Judged(part="none", text=f"a Wan DiT without a picture input ({width} wide): Wan 2.1 text-to-video or Wan 2.2")
    if hears:
        return Judged(part="dit", text=f"a DiT that talks: Wan 2.1 I2V with audio ({width} wide)", sizes=needs(shapes))
    channels, wanted = (shapes.get("patch_embedding.weight") or (0, 0))[1], 2 * needs(shapes).get("vae", 0) + 4
    if any(name.startswith("vace_") for name in shapes) or channels != wanted:
        return Judged(part="none", text=f"a Wan 2.1 DiT for other inputs ({channels} channels), such as VACE or Fun Control")
    text = f"a Wan 2.1 I2V base ({width} wide), which needs an audio patch to talk"
    return Judged(part="base", text=text, sizes=needs(shapes))


def needs(shapes: Shapes) -> dict[str, int]:
    """The sizes that a DiT needs its VAE and encoders to have, and its LoRAs, as far as these tensors tell."""
    found = {}
    if "head.head.weight" in shapes and "patch_embedding.weight" in shapes:
        shifts = shapes["shifts.weight"][0] // shapes["shifts.weight"][1] if "shifts.weight" in shapes else 0  # of a small model
        found["vae"] = shapes["head.head.weight"][0] // shapes["patch_embedding.weight"][-1] ** 2 - shifts
        found["lora"] = shapes["head.head.weight"][1]
    for part, name, axis in (("text", "text_embedding.0.weight", 1), ("image", "img_emb.proj.0.weight", 0)):
        if name in shapes:
            found[part] = shapes[name][axis]
    if "blocks.0.norm_x.weight" in shapes:
        found["lora"] = shapes["blocks.0.norm_x.weight"][0]
    if "audio_proj.proj1_vf.weight" in shapes:  # three slots longer than the first frame's (see dit_config_from)
        found["audio"] = (shapes["audio_proj.proj1_vf.weight"][1] - shapes["audio_proj.proj1.weight"][1]) // 3
    return found


def judge_text(shapes: Shapes) -> Judged | None:
    if not any(name in shapes for name in T5_NAMES):
        return None
    width = next((shapes[name][0] for name in T5_NORMS if name in shapes), 0)
    if not any(f"{name.format(1)}.weight" in shapes for name in UMT5_NAMES):
        return Judged(part="none", text=f"a T5 text encoder ({width} wide) as of Flux or SD3; Wan reads prompts with umT5-xxl")
    return Judged(part="text", text=f"a umT5 text encoder ({width} wide)", sizes={"text": width})


def judge_image(shapes: Shapes) -> Judged | None:
    names = ("vision_model.embeddings.class_embedding", "visual.cls_embedding")
    width = next((shapes[name][-1] for name in names if name in shapes), None)
    if width is None:
        return None
    if width in OTHER_CLIPS:
        text = f"a CLIP vision encoder ({width} wide, as {OTHER_CLIPS[width]}); Wan 2.1 sees with clip_vision_h (1280 wide)"
        return Judged(part="none", text=text, sizes={"image": width})
    return Judged(part="image", text=f"a CLIP vision encoder ({width} wide)", sizes={"image": width})


def judge_audio(shapes: Shapes) -> Judged | None:
    names = {name.removeprefix("wav2vec2."): shape for name, shape in shapes.items()}
    if "encoder.layer_norm.bias" not in names or not any(name.startswith("feature_extractor.conv_layers.") for name in names):
        return None
    width = names["encoder.layer_norm.bias"][0]
    if width == LARGE_WAV2VEC:
        text = "a large wav2vec2 (1024 wide); the models hear with chinese-wav2vec2-base (768 wide)"
        return Judged(part="none", text=text)
    layers = sum(name.startswith("encoder.layers.") and name.endswith(".final_layer_norm.bias") for name in names)
    writes = "; it writes a language, and the models were trained with chinese-wav2vec2-base" if "lm_head.weight" in names else ""
    text = f"a wav2vec2 audio encoder ({width} wide){writes}"
    return Judged(part="audio", text=text, sizes={"audio": layers * width}, preferred=not writes)


def judge_vae(shapes: Shapes) -> Judged | None:
    if "decoder.middle.0.residual.0.gamma" in shapes:
        channels = shapes.get("conv2.weight", (16,))[0]
        if channels != 16:
            return Judged(part="none", text=f"a VAE of {channels} channels, as of Wan 2.2; Wan 2.1's has 16")
        return Judged(part="vae", text="the Wan 2.1 VAE", sizes={"vae": 16})
    if "decoder.mid_block.resnets.0.norm1.gamma" in shapes:
        return Judged(part="none", text="a Wan VAE under the names of diffusers; choose wan_2.1_vae.safetensors")
    if "decoder.picture.rest.weight" in shapes:
        channels = shapes.get("decoder.embed.weight", (0, 0))[1]
        return Judged(part="vae", text="the VAE of a small model such as nano", sizes={"vae": channels} if channels else {})
    return Judged(part="decoder", text="a tiny decoder (taew2_1)") if "decoder.22.bias" in shapes else None
