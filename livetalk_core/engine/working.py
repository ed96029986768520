"""How much memory the work of a chunk takes beside the weights.

It is counted from the sizes of tensors; the tests trace the real peak with tensors that have shapes only. Two parts of the work have the
largest peaks: a block's self-attention, which grows with the chunk's tokens, and the VAE's decoder, which grows with the picture.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from livetalk_core.engine.guidance import Guidance
from livetalk_core.models.convolution import MAX_VIEW_RATIO
from livetalk_core.models.dit_config import DiTConfig
from livetalk_core.models.vae import VAEConfig
from livetalk_core.parallel.bands import cut_bands
from livetalk_core.parallel.memory import OVERHEAD_BYTES
from livetalk_core.plan import StreamPlan
from livetalk_core.presets import Preset
from livetalk_core.sizes import BUCKETS, parse_size
from livetalk_core.types import StreamSettings

if TYPE_CHECKING:
    import torch

IMAGE_ROWS = 257
TOKEN_TENSORS = 18
"""Tensors of a token's width that are alive at once: 13 while keys are rotated (the token, its modulated form, queries, keys and values,
and the rotation's float32 halves), 18 where a layer with 8-bit products rounds its input. In a group, the whole chunk's tokens from
before the first block are one more for each process."""
RING_TENSORS = 5
"""More of them where keys are passed around a ring."""
PIXEL_TENSORS = 117
"""Tensors of a pixel, as wide as the decoder's last layers, that are alive at once: about seven for each of 12 frames, which come from
three latent frames, and the earlier frames that its layers keep."""
HALO_TENSORS = 12
"""More of them for a band of the picture, which is copied with its neighbors' borders: one for each frame."""
HALO = 2
"""Pixels of such borders, on both sides of a band."""
PIXEL_TENSORS_KEPT, PIXEL_TENSORS_VIEWED = 31, 57
"""Those of the earlier frames alone. A stream that has decoded its motion latents keeps them while it denoises. The second number is for
so few motion frames that the layers keep all of them (models/convolution.py, keep_last)."""
VIEWED_FRAMES = 2 * MAX_VIEW_RATIO
ITEM_BYTES = 2
"""Of a number in 16 bits, as the large models run on a GPU."""
SMALL_WIDTH = 1024
"""Models less wide are assumed to need no room."""


def working_bytes(preset: Preset, plan: StreamPlan, passes: int = 1, processes: int = 1, item_bytes: int = ITEM_BYTES) -> int:
    """The most that a chunk of this plan takes beside the weights on each of `processes` that share it. Passes of guidance are made one
    after the other; each has its own keys."""
    if is_small(preset):
        return 0
    audio = passes * audio_key_numbers(preset.dit, plan)
    denoise = denoise_numbers(preset, plan, processes) + audio + kept_numbers(preset, plan, processes)
    largest = max(denoise, decode_numbers(preset, plan, processes))
    return item_bytes * (passes * context_key_numbers(preset.dit) + largest)


def denoise_numbers(preset: Preset, plan: StreamPlan, processes: int = 1) -> int:
    """Numbers alive in a step of one pass."""
    in_group = 0 if processes == 1 else processes + (RING_TENSORS if preset.dit.num_heads % processes else 0)
    return -(-plan.tokens // processes) * (TOKEN_TENSORS + in_group) * preset.dit.dim


def decode_numbers(preset: Preset, plan: StreamPlan, processes: int = 1) -> int:
    """Numbers alive in the decode of three latent frames."""
    tensors = PIXEL_TENSORS + (0 if processes == 1 else HALO_TENSORS)
    return tensors * preset.vae.dim * pixels_on_each(plan, processes)


def kept_numbers(preset: Preset, plan: StreamPlan, processes: int = 1) -> int:
    """Numbers that the decoder keeps of the motion frames."""
    tensors = PIXEL_TENSORS_VIEWED if plan.motion_frames <= VIEWED_FRAMES else PIXEL_TENSORS_KEPT
    return tensors * preset.vae.dim * pixels_on_each(plan, processes)


def pixels_on_each(plan: StreamPlan, processes: int) -> int:
    """Pixels of the largest band of the picture, with its neighbors' borders; one process has the whole picture."""
    if processes == 1:
        return plan.width * plan.height
    bands = cut_bands(plan.latent_height, plan.latent_width, processes)
    longest = max(bands.lengths) * plan.spatial_stride
    return (longest + HALO) * min(plan.width, plan.height)


def room_of(preset: Preset, size: str = "auto", chunk_frames: int | None = None, processes: int = 1, item_bytes: int = ITEM_BYTES) -> int:
    """Bytes to leave free beside the weights, for the largest picture of this size setting and the model's own guidance."""
    if is_small(preset):
        return 0
    preset = preset if chunk_frames is None else replace(preset, chunk_frames=chunk_frames)
    return OVERHEAD_BYTES + max(working_bytes(preset, plan, passes_of(preset), processes, item_bytes) for plan in plans_of(preset, size))


def is_small(preset: Preset) -> bool:
    return preset.dit.dim < SMALL_WIDTH or not isinstance(preset.vae, VAEConfig)


def plans_of(preset: Preset, size: str = "auto") -> list[StreamPlan]:
    """The plans that a size setting allows: WIDTHxHEIGHT, a bucket, or auto, the model's own bucket."""
    bucket = preset.bucket if size == "auto" else size
    return [preset.plan(*each) for each in (BUCKETS[bucket] if bucket in BUCKETS else [parse_size(size)])]


def passes_of(preset: Preset) -> int:
    """The passes of a step with the model's own guidance."""
    return len(Guidance.of(preset.settled(StreamSettings())).passes)


def stream_bytes(config: DiTConfig, dtype: torch.dtype) -> int:
    """Bytes that a stream keeps for its length, for each pass of guidance: keys and values of its prompt, of the longest kind, and of its
    picture."""
    return context_key_numbers(config) * dtype.itemsize


def context_key_numbers(config: DiTConfig) -> int:
    return 2 * config.num_layers * (config.text_len + IMAGE_ROWS) * config.dim


def audio_key_numbers(config: DiTConfig, plan: StreamPlan) -> int:
    """A chunk's audio keys and values that are not absorbed."""
    return 2 * config.num_layers * plan.latent_frames * config.audio_tokens * config.dim
