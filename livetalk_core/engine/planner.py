"""What one GPU does with the 14B model: where its weights are kept, where umT5 runs, how much memory it takes. Computed, not measured."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch

from livetalk_core.engine.weight_plan import WeightPlan
from livetalk_core.engine.working import room_of
from livetalk_core.models.dit import Block
from livetalk_core.models.dit_config import DiTConfig
from livetalk_core.models.packed import packed_row_bytes
from livetalk_core.parallel.memory import (
    GIB,
    OVERHEAD_BYTES,
    blocks_beyond_host,
    blocks_on_device,
    host_share,
    settle_memory,
)
from livetalk_core.presets import Preset, infinitetalk, livetalk_14b

FORMS = ("16bit", "int8", "Q4_K")
"""Forms of the planner's table; fp8 takes what int8 takes."""
NUM_BLOCKS, REST, TEXT_BYTES = 40, 1_500_000_000, 11_400_000_000
"""Blocks of the 14B model, bytes of all other weights that stay on the GPU, and bytes of umT5 in 16 bits."""


@dataclass(frozen=True, kw_only=True)
class CardPlan:
    """What is done on one GPU with the weights in one form."""

    memory: str
    """resident or offload."""
    kept: int
    """Blocks that stay on the GPU."""
    text_on: str
    """GPU or CPU."""
    peak_bytes: int
    """On the GPU: weights, and working memory or umT5."""
    host_bytes: int
    """Of the host: pinned blocks, and umT5 if it runs there."""

    @property
    def told(self) -> str:
        where = self.memory if self.memory == "resident" else f"offload, {self.kept} on GPU"
        return f"{where}; umT5 on {self.text_on}; {self.peak_bytes / GIB:.0f} GiB"


@lru_cache
def block_bytes(form: str) -> int:
    """Bytes of a block of the 14B model: 16bit, int8, fp8, or with all its linear layers in a GGUF type."""
    with torch.device("meta"):
        block = Block(DiTConfig())
    plan = WeightPlan(device=torch.device("meta"), dtype=torch.bfloat16, form=form if form in ("int8", "fp8") else "16bit")
    total = plan.block_bytes(block)
    if form in ("16bit", "int8", "fp8"):
        return total
    linear = [layer for layer in block.modules() if isinstance(layer, torch.nn.Linear)]
    return total + sum(layer.out_features * (packed_row_bytes(form, layer.in_features) - 2 * layer.in_features) for layer in linear)


@dataclass(frozen=True, kw_only=True)
class Use:
    """A large model, and a bucket of picture sizes."""

    model: str
    pixels: str
    """A usual size of the bucket, in words."""
    preset: Preset
    bucket: str

    @property
    def told(self) -> str:
        return f"{self.model} at {self.pixels}"

    def room(self, processes: int = 1) -> int:
        """Bytes to leave free beside the weights on each of so many GPUs that share the work."""
        return room_of(self.preset, self.bucket, processes=processes)


USES = (
    Use(model="SoulX-FlashTalk", pixels="720 x 416", preset=livetalk_14b(), bucket="416"),
    Use(model="InfiniteTalk", pixels="640 x 640", preset=infinitetalk(), bucket="627"),
    Use(model="InfiniteTalk", pixels="960 x 960", preset=infinitetalk(), bucket="960"),
)


def plan_card(free: int, host: int | None, form: str, use: Use = USES[0]) -> CardPlan | None:
    """What `--memory auto` does with `free` bytes of a GPU and `host` bytes of the machine; None if it does not fit."""
    each, room = block_bytes(form), use.room()
    share = host_share(host, 1)
    memory, kept = settle_memory("auto", free, each, NUM_BLOCKS, REST, room, share)
    slots = 0 if memory == "resident" else blocks_on_device("offload", each, NUM_BLOCKS)
    weights = REST + kept * each + slots
    on_gpu = free - weights >= TEXT_BYTES + room
    peak = weights + max(room, TEXT_BYTES + OVERHEAD_BYTES if on_gpu else 0)
    pinned = (NUM_BLOCKS - kept) * (1 << (each - 1).bit_length())
    if peak > free or (memory == "offload" and kept < blocks_beyond_host(each, NUM_BLOCKS, share)):
        return None
    return CardPlan(
        memory=memory,
        kept=kept,
        text_on="GPU" if on_gpu else "CPU",
        peak_bytes=peak,
        host_bytes=pinned + (0 if on_gpu else TEXT_BYTES),
    )
