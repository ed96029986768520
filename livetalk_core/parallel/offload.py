"""The DiT on a device that cannot hold it: its blocks' weights wait on the host and are brought just before they are used.

The model's class, its state dict and its results stay as they are; an OffloadedBlock runs a block. A block's weights lie one after
another in one flat tensor on the host, in the order of PARTS, so that a visit to the block brings in one copy what it uses and nothing
else. At 14B in bfloat16 a block has 928 MB: 598 for its forward, 105 more for audio that is not absorbed, 210 for the keys of prompt and
picture, needed once a stream, and 16 for those of the sound, needed once a chunk, which stay on the device. A step brings 24 GB, where
whole blocks are 37 GB.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from livetalk_core.models.audio_attention import AbsorbedAudio
from livetalk_core.models.dit import AudioDiT, Block
from livetalk_core.models.layers import ContextKeys, KeyValue
from livetalk_core.models.rope import Grid
from livetalk_core.models.runner import WHOLE, Attention, BlockRunner

NUM_SLOTS = 2
ALIGNMENT = 128
"""Elements: every weight begins at a multiple of 256 bytes or more, as if it had been made alone."""
STAYING = ("audio_cross_attn.kv_linear.",)
CONTEXT = tuple(f"cross_attn.{name}." for name in ("k", "v", "norm_k", "k_img", "v_img", "norm_k_img"))
HEARING = ("audio_cross_attn.q_linear.", "audio_cross_attn.proj.weight")
PARTS = ("context", "work", "hearing")
VISITS = {"context": ("context",), "absorbed": ("work",), "whole": ("work", "hearing"), "absorb": ("hearing",)}
"""The parts that each kind of visit brings, next to each other in PARTS: a block's forward is absorbed or whole."""


class Visit(NamedTuple):
    block: int
    kind: str


class Copies(Protocol):
    """How weights come to the device. A mark is a moment of the device's work, which a copy can be made to wait for."""

    def host_memory(self, length: int, dtype: torch.dtype) -> Tensor: ...

    def device_memory(self, length: int, dtype: torch.dtype) -> Tensor: ...

    def mark(self) -> object:
        """What the device has been given to do until now."""
        ...

    def begin(self, target: Tensor, source: Tensor, free: object) -> object:
        """Copy, once the work marked `free` is done; the copy's own mark."""
        ...

    def wait(self, filled: object) -> None:
        """What the device is given from now on comes after this copy."""
        ...


def offload_blocks(
    dit: AudioDiT, device: torch.device, dtype: torch.dtype, *, resident: int = 0, num_slots: int = NUM_SLOTS, copies: Copies | None = None
) -> list[BlockRunner]:
    """What runs the blocks of a DiT, whose weights are on the CPU or only mapped there, on `device` in `dtype`.

    `resident` blocks, spread evenly, stay on the device for good; the others pass through `num_slots` slots. Weights go to the host's
    memory block by block, so neither the device nor the host ever holds the DiT twice. They must not be changed or moved afterwards.
    Raises ValueError when the host's memory does not suffice.
    """
    assert num_slots >= 2, "one slot is used while the next is filled"
    copies = copies or (StreamCopies(device) if device.type == "cuda" else PlainCopies(device))
    for child in dit.children():
        if child is not dit.blocks:
            child.to(device, dtype)
    brought = spread_evenly(len(dit.blocks) - resident, len(dit.blocks))
    packed: dict[int, PackedBlock] = {}
    for i, block in enumerate(dit.blocks):
        if i in brought:
            packed[i] = PackedBlock.of(block, device, dtype, copies)
        else:
            block.to(device, dtype)
    conveyor = Conveyor(packed, dtype, num_slots, copies)
    return [OffloadedBlock(i, block, conveyor) if i in packed else block for i, block in enumerate(dit.blocks)]


class OffloadedBlock:
    """A BlockRunner: wherever the block's weights are used, they are brought first."""

    def __init__(self, index: int, block: Block, conveyor: Conveyor):
        self.index, self.block, self.conveyor = index, block, conveyor
        self.run = torch.compiler.disable(conveyor.run)  # a compiler would keep the weights it saw first

    def context_keys(self, text_BLD: Tensor, image_BLD: Tensor) -> ContextKeys:
        return self.run(Visit(self.index, "context"), self.block.context_keys, text_BLD, image_BLD)

    def audio_keys(self, tokens_BTAD: Tensor, people: int) -> KeyValue:
        """By weights that stay on the device."""
        return self.block.audio_keys(tokens_BTAD, people)

    def absorb(self, audio: KeyValue, batch: int) -> AbsorbedAudio:
        return self.run(Visit(self.index, "absorb"), self.block.absorb, audio, batch)

    def __call__(
        self, x_BLD, grid: Grid, time_B6D, context: ContextKeys, audio, masks_KL, skip: int = 0, attention: Attention = WHOLE
    ) -> Tensor:
        kind = "absorbed" if isinstance(audio, AbsorbedAudio) else "whole"
        return self.run(Visit(self.index, kind), self.block, x_BLD, grid, time_B6D, context, audio, masks_KL, skip, attention)


def spread_evenly(count: int, total: int) -> list[int]:
    """`count` of the numbers below `total`, as far from each other as they can be."""
    return [i for i in range(total) if (i + 1) * count // total > i * count // total]


@dataclass(frozen=True)
class Span:
    """A weight and its place among its block's."""

    weight: nn.Parameter
    start: int
    stop: int


@dataclass(frozen=True)
class PackedBlock:
    """One block's weights on the host, in the order of PARTS."""

    flat: Tensor
    spans: dict[str, list[Span]]
    bounds: dict[str, tuple[int, int]]

    @classmethod
    def of(cls, block: Block, device: torch.device, dtype: torch.dtype, copies: Copies) -> PackedBlock:
        """Move a block's weights to the host's memory, in `dtype`; the few that stay go to the device."""
        spans: dict[str, list[Span]] = {part: [] for part in PARTS}
        bounds, stop = {}, 0
        named = list(block.named_parameters())
        for part in PARTS:
            first = stop
            for weight in (weight for name, weight in named if part_of(name) == part):
                spans[part].append(Span(weight, stop, stop + weight.numel()))
                stop += -(-weight.numel() // ALIGNMENT) * ALIGNMENT
            bounds[part] = (first, stop)
        packed = cls(copies.host_memory(stop, dtype), spans, bounds)
        block.audio_cross_attn.kv_linear.to(device, dtype)
        for span in (span for part in PARTS for span in spans[part]):
            packed.flat[span.start : span.stop].view(span.weight.shape).copy_(span.weight.data)
        for kind in VISITS:
            packed.put_back(kind)
        return packed

    def place(self, kind: str) -> slice:
        """Where the parts of a visit lie."""
        parts = VISITS[kind]
        return slice(self.bounds[parts[0]][0], self.bounds[parts[-1]][1])

    def show(self, kind: str, there: Tensor) -> None:
        """Let the weights of a visit be those in a tensor that begins with its parts."""
        first = self.place(kind).start
        for part in VISITS[kind]:
            for span in self.spans[part]:
                span.weight.data = there[span.start - first : span.stop - first].view(span.weight.shape)

    def put_back(self, kind: str) -> None:
        self.show(kind, self.flat[self.place(kind)])


def part_of(name: str) -> str:
    """The part that a block's weight belongs to, or `staying`."""
    if name.startswith(STAYING):
        return "staying"
    return "context" if name.startswith(CONTEXT) else "hearing" if name.startswith(HEARING) else "work"


@dataclass(eq=False)
class Slot:
    """A place on the device for the weights of one visit."""

    memory: Tensor
    free: object
    """The end of the work with what it held."""
    holds: Visit | None = None
    filled: object = None


class Conveyor:
    """Brings each visit's weights into a slot, and begins with the next visit's before the block works.

    Blocks are visited in the same order in every step, so the last one's work hides the way of the first one of the next step.
    """

    def __init__(self, packed: dict[int, PackedBlock], dtype: torch.dtype, num_slots: int, copies: Copies):
        self.packed, self.order, self.copies = packed, list(packed), copies
        places = [block.place(kind) for block in packed.values() for kind in VISITS]
        length = max((place.stop - place.start for place in places), default=0)
        self.slots = [Slot(copies.device_memory(length, dtype), copies.mark()) for _ in range(num_slots if packed else 0)]
        """The one used or filled last is last."""

    def run(self, visit: Visit, function: Callable, *inputs: object):
        """Call a function of a block with its weights on the device."""
        block, slot = self.packed[visit.block], self.bring(visit)
        following = self.after(visit)
        if following is not None and not self.holder(following):
            self.fill(following)
        block.show(visit.kind, slot.memory)
        try:
            return function(*inputs)
        finally:
            block.put_back(visit.kind)
            slot.free = self.copies.mark()

    def bring(self, visit: Visit) -> Slot:
        """The slot with what a visit needs, as the last one."""
        slot = self.holder(visit) or self.fill(visit)
        self.slots.remove(slot)
        self.slots.append(slot)
        self.copies.wait(slot.filled)
        return slot

    def fill(self, visit: Visit) -> Slot:
        """Begin to copy into the slot that has not been used for longest."""
        slot, block = self.slots.pop(0), self.packed[visit.block]
        self.slots.append(slot)
        source = block.flat[block.place(visit.kind)]
        slot.holds = None
        slot.filled = self.copies.begin(slot.memory[: len(source)], source, slot.free)
        slot.holds = visit
        return slot

    def holder(self, visit: Visit) -> Slot | None:
        return next((slot for slot in self.slots if slot.holds == visit), None)

    def after(self, visit: Visit) -> Visit | None:
        """The visit that follows: after a step the next one's, after absorbed keys a step with them; after prompt and picture, unknown."""
        following = self.order.index(visit.block) + 1
        if following < len(self.order):
            return Visit(self.order[following], visit.kind)
        return {"context": None, "absorb": Visit(self.order[0], "absorbed")}.get(visit.kind, Visit(self.order[0], visit.kind))


class PlainCopies:
    """Copies made at once, as on the CPU."""

    def __init__(self, device: torch.device):
        self.device = device

    def host_memory(self, length: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(length, dtype=dtype)

    def device_memory(self, length: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(length, dtype=dtype, device=self.device)

    def mark(self) -> None:
        return None

    def begin(self, target: Tensor, source: Tensor, free: object) -> None:
        target.copy_(source)

    def wait(self, filled: object) -> None:
        return None


class StreamCopies:
    """Copies on a CUDA stream of their own, from pinned memory. Streams wait for each other by events; the host waits for neither.

    torch rounds pinned memory up to a power of two: 1 GiB for a block of 14B, 40 GiB in all.
    """

    def __init__(self, device: torch.device):
        self.device, self.stream = device, torch.cuda.Stream(device)

    def host_memory(self, length: int, dtype: torch.dtype) -> Tensor:
        try:
            return torch.empty(length, dtype=dtype, pin_memory=True)
        except RuntimeError as error:
            size = f"{length * dtype.itemsize / 2**30:.1f} GiB"
            raise ValueError(
                f"memory='offload' found no more host memory to pin for a block ({size}); close other programs, or share the model "
                "over several GPUs with memory='sharded'"
            ) from error

    def device_memory(self, length: int, dtype: torch.dtype) -> Tensor:
        memory = torch.empty(length, dtype=dtype, device=self.device)
        memory.record_stream(self.stream)  # freed with a copy under way, it must not be given to others before the copy's end
        return memory

    def mark(self) -> torch.cuda.Event:
        return torch.cuda.current_stream(self.device).record_event()

    def begin(self, target: Tensor, source: Tensor, free: torch.cuda.Event) -> torch.cuda.Event:
        self.stream.wait_event(free)
        with torch.cuda.stream(self.stream):
            target.copy_(source, non_blocking=True)
        return self.stream.record_event()

    def wait(self, filled: torch.cuda.Event) -> None:
        torch.cuda.current_stream(self.device).wait_event(filled)
