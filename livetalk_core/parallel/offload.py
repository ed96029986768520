"""Offloading: the DiT on a device that cannot hold it. Block weights stay in host memory and are copied just before they are used.

The model's class, state dict and results do not change; an OffloadedBlock runs a block. A block's weights lie in one flat host tensor in
the order of PARTS, so every use of the block needs one copy of exactly the parts it uses. At 14B in bfloat16 a block has 928 MB: 598 for
its forward, 105 more if audio is not absorbed, 210 for the keys of prompt and picture (once per stream), and 16 for audio keys (once per
chunk), which stay on the device. A step copies 24 GB; copying whole blocks would be 37 GB. Packed weights travel as they are stored, so
8-bit ones are half of this.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from livetalk_core.models.audio_attention import AbsorbedAudio, is_absorbed
from livetalk_core.models.dit import AudioDiT, Block
from livetalk_core.models.layers import ContextKeys, KeyValue
from livetalk_core.models.rope import Grid
from livetalk_core.models.runner import WHOLE, Attention, BlockRunner
from livetalk_core.parallel.copier import BlockingCopier, Copier, StreamCopier

NUM_SLOTS = 2
ALIGNMENT = 256
"""Every weight starts at a multiple of so many bytes, as a separate allocation would."""
RESIDENT = ("audio_cross_attn.kv_linear.",)
CONTEXT = tuple(f"cross_attn.{name}." for name in ("k", "v", "norm_k", "k_img", "v_img", "norm_k_img"))
AUDIO = ("audio_cross_attn.q_linear.", "audio_cross_attn.proj.weight", "audio_cross_attn.proj.lora_")
PARTS = ("context", "work", "audio")
USES = {"context": ("context",), "absorbed": ("work",), "whole": ("work", "audio"), "absorb": ("audio",)}
"""The parts that each use of a block needs, adjacent in PARTS. A block's forward is `absorbed` or `whole`."""


class Request(NamedTuple):
    """A use of a block: its index, and a kind from USES."""

    block: int
    kind: str


def offload_blocks(
    dit: AudioDiT,
    device: torch.device,
    dtype: torch.dtype,
    *,
    resident: int = 0,
    num_slots: int = NUM_SLOTS,
    copier: Copier | None = None,
    settle: Callable[[str, nn.Module], None] = lambda prefix, module: None,
) -> list[BlockRunner]:
    """Runners for the blocks of a DiT on `device` in `dtype`. Its weights are on the CPU or memory-mapped.

    `resident` blocks, spread evenly, stay on the device; the others use `num_slots` slots in turn. Weights are packed block by block, so
    neither host nor device ever holds the DiT twice. The weights must not be changed or moved afterwards. `settle` converts a part of the
    DiT before it is moved, given its names' prefix.
    Raises ValueError if host memory is too small.
    """
    assert num_slots >= 2, "one slot is in use while the next is filled"
    copier = copier or (StreamCopier(device) if device.type == "cuda" else BlockingCopier(device))
    for name, child in dit.named_children():
        if child is not dit.blocks:
            settle(f"{name}.", child)
            child.to(device, dtype)
    offloaded = spread_evenly(len(dit.blocks) - resident, len(dit.blocks))
    packed: dict[int, PackedBlock] = {}
    for i, block in enumerate(dit.blocks):
        settle(f"blocks.{i}.", block)
        if i in offloaded:
            packed[i] = PackedBlock.pack(block, device, dtype, copier)
        else:
            block.to(device, dtype)
    prefetcher = WeightPrefetcher(packed, num_slots, copier)
    return [OffloadedBlock(i, block, prefetcher) if i in packed else block for i, block in enumerate(dit.blocks)]


class OffloadedBlock:
    """A BlockRunner that copier the block's weights to the device before every use."""

    def __init__(self, index: int, block: Block, prefetcher: WeightPrefetcher):
        self.index, self.block, self.prefetcher = index, block, prefetcher
        self.run = torch.compiler.disable(prefetcher.run)  # a compiler would bake in the weights of the first call

    def context_keys(self, text_BLD: Tensor, image_BLD: Tensor) -> ContextKeys:
        return self.run(Request(self.index, "context"), self.block.context_keys, text_BLD, image_BLD)

    def audio_keys(self, tokens_BTAD: Tensor, people: int) -> KeyValue:
        """Uses only weights that stay on the device."""
        return self.block.audio_keys(tokens_BTAD, people)

    def absorb(self, audio: KeyValue, batch: int) -> AbsorbedAudio:
        return self.run(Request(self.index, "absorb"), self.block.absorb, audio, batch)

    def __call__(
        self, x_BLD, grid: Grid, time_B6D, context: ContextKeys, audio, masks_KL, skip: int = 0, attention: Attention = WHOLE
    ) -> Tensor:
        kind = "absorbed" if is_absorbed(audio) else "whole"
        return self.run(Request(self.index, kind), self.block, x_BLD, grid, time_B6D, context, audio, masks_KL, skip, attention)


def spread_evenly(count: int, total: int) -> list[int]:
    """`count` of the numbers below `total`, evenly spaced."""
    return [i for i in range(total) if (i + 1) * count // total > i * count // total]


@dataclass(frozen=True)
class WeightSpan:
    """A weight, and the range of bytes that has it in the block's flat tensor."""

    weight: nn.Parameter
    dtype: torch.dtype
    start: int
    stop: int

    def view(self, memory: Tensor, first: int = 0) -> Tensor:
        """This weight in a tensor of bytes that begins with byte `first` of the flat one."""
        return memory[self.start - first : self.stop - first].view(self.dtype).view(self.weight.shape)


@dataclass(frozen=True)
class PackedBlock:
    """One block's weights in host memory, in the order of PARTS."""

    flat: Tensor
    """Bytes, uint8."""
    spans: dict[str, list[WeightSpan]]
    bounds: dict[str, tuple[int, int]]

    @classmethod
    def pack(cls, block: Block, device: torch.device, dtype: torch.dtype, copier: Copier) -> PackedBlock:
        """Pack a block's weights into host memory, floats in `dtype`; move those that stay to the device."""
        spans: dict[str, list[WeightSpan]] = {part: [] for part in PARTS}
        bounds, stop = {}, 0
        named = list(block.named_parameters())
        for part in PARTS:
            first = stop
            for weight in (weight for name, weight in named if part_of(name) == part):
                kind = dtype if weight.is_floating_point() else weight.dtype
                num_bytes = weight.numel() * kind.itemsize
                spans[part].append(WeightSpan(weight, kind, stop, stop + num_bytes))
                stop += -(-num_bytes // ALIGNMENT) * ALIGNMENT
            bounds[part] = (first, stop)
        packed = cls(copier.host_memory(stop), spans, bounds)
        block.audio_cross_attn.kv_linear.to(device, dtype)
        for span in (span for part in PARTS for span in spans[part]):
            span.view(packed.flat).copy_(span.weight.data)
        for kind in USES:
            packed.point_at_host(kind)
        return packed

    def range_of(self, kind: str) -> slice:
        """The range of the flat tensor that a use needs."""
        parts = USES[kind]
        return slice(self.bounds[parts[0]][0], self.bounds[parts[-1]][1])

    def point_at(self, kind: str, memory: Tensor) -> None:
        """Point the weights of a use at `memory`, which holds a copy of their range."""
        first = self.range_of(kind).start
        for part in USES[kind]:
            for span in self.spans[part]:
                span.weight.data = span.view(memory, first)

    def point_at_host(self, kind: str) -> None:
        self.point_at(kind, self.flat[self.range_of(kind)])


def part_of(name: str) -> str:
    """The part that a block's weight belongs to, or `resident` if it stays on the device."""
    if name.startswith(RESIDENT):
        return "resident"
    return "context" if name.startswith(CONTEXT) else "audio" if name.startswith(AUDIO) else "work"


@dataclass(eq=False)
class Slot:
    """Device memory for the weights of one request."""

    memory: Tensor
    free: object
    """Event after the last work that used this memory."""
    holds: Request | None = None
    filled: object = None


class WeightPrefetcher:
    """Copies the weights of each request to a slot and prefetches those of the next request before the block runs.

    Blocks run in the same order in every step, so the last block of a step prefetches the first one of the next step.
    """

    def __init__(self, packed: dict[int, PackedBlock], num_slots: int, copier: Copier):
        self.packed, self.order, self.copier = packed, list(packed), copier
        ranges = [block.range_of(kind) for block in packed.values() for kind in USES]
        length = max((each.stop - each.start for each in ranges), default=0)
        self.slots = [Slot(copier.device_memory(length), copier.record()) for _ in range(num_slots if packed else 0)]
        """Ordered by last use; the most recent is last."""

    def run(self, request: Request, function: Callable, *inputs: object):
        """Call a block's function with its weights on the device."""
        block, slot = self.packed[request.block], self.acquire(request)
        following = self.next_request(request)
        if following is not None and not self.slot_with(following):
            self.prefetch(following)
        block.point_at(request.kind, slot.memory)
        try:
            return function(*inputs)
        finally:
            block.point_at_host(request.kind)
            slot.free = self.copier.record()

    def acquire(self, request: Request) -> Slot:
        """A slot with the weights for this request, marked as most recently used."""
        slot = self.slot_with(request) or self.prefetch(request)
        self.slots.remove(slot)
        self.slots.append(slot)
        self.copier.wait(slot.filled)
        return slot

    def prefetch(self, request: Request) -> Slot:
        """Start copying into the least recently used slot."""
        slot, block = self.slots.pop(0), self.packed[request.block]
        self.slots.append(slot)
        source = block.flat[block.range_of(request.kind)]
        slot.holds = None
        slot.filled = self.copier.start(slot.memory[: len(source)], source, slot.free)
        slot.holds = request
        return slot

    def slot_with(self, request: Request) -> Slot | None:
        return next((slot for slot in self.slots if slot.holds == request), None)

    def next_request(self, request: Request) -> Request | None:
        """The next request: that of the next block, or of the next step. None after context keys, because it is not known what follows."""
        following = self.order.index(request.block) + 1
        if following < len(self.order):
            return Request(self.order[following], request.kind)
        return {"context": None, "absorb": Request(self.order[0], "absorbed")}.get(request.kind, Request(self.order[0], request.kind))
