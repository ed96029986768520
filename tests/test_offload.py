"""Offloaded block weights against the plain DiT: the same bits, in few slots, each copied once per step."""

from __future__ import annotations

import weakref
from dataclasses import replace

import pytest
import torch
from made import pixels, speech_like, write_published_folder
from test_parallel_dit import UNEVEN, inputs
from torch.utils._python_dispatch import TorchDispatchMode

from livetalk_core.engine.load import load_engine
from livetalk_core.models.dit import AudioDiT
from livetalk_core.parallel.copier import BlockingCopier
from livetalk_core.parallel.offload import USES, OffloadedBlock, WeightPrefetcher, offload_blocks, spread_evenly
from livetalk_core.presets import tiny
from livetalk_core.types import StreamSettings

CPU, FP32 = torch.device("cpu"), torch.float32
CONFIG = replace(tiny().dit, num_layers=5)


class LateCopier(BlockingCopier):
    """Copies as late as allowed: until `wait`, the target is NaN. Logs every call."""

    def __init__(self):
        super().__init__(CPU)
        self.log: list[tuple] = []
        self.waiting: dict[int, tuple] = {}
        self.made: list[torch.Tensor] = []
        self.records = self.started = 0

    def device_memory(self, num_bytes):
        self.made.append(super().device_memory(num_bytes))
        return self.made[-1]

    def record(self):
        self.records += 1
        self.log.append(("record", self.records))
        return self.records

    def start(self, target, source, free):
        target.fill_(255)  # NaN in every float
        self.started += 1
        self.waiting[self.started] = (target, source)
        self.log.append(("copy", slot_of(self, target), len(source), free))
        return self.started

    def wait(self, filled):
        if filled in self.waiting:
            target, source = self.waiting.pop(filled)
            target.copy_(source)
        self.log.append(("wait", filled))


def slot_of(copier, tensor) -> int | None:
    """Index of the slot that holds a tensor, or None."""
    starts = [memory.untyped_storage().data_ptr() for memory in copier.made]
    start = tensor.untyped_storage().data_ptr()
    return starts.index(start) if start in starts else None


def model(seed: int = 0) -> AudioDiT:
    torch.manual_seed(seed)
    dit = AudioDiT(CONFIG).eval().requires_grad_(False)
    torch.nn.init.normal_(dit.head.head.weight)
    return dit


def prefetcher_of(dit: AudioDiT) -> WeightPrefetcher | None:
    return next((runner.prefetcher for runner in dit.runners if isinstance(runner, OffloadedBlock)), None)


def offloaded(resident: int = 0, num_slots: int = 2) -> tuple[AudioDiT, WeightPrefetcher | None, LateCopier]:
    """The same model, offloaded. The log also has an entry per running block, with the blocks in slots at that time."""
    dit, copier = model(), LateCopier()
    dit.runners = offload_blocks(dit, CPU, FP32, resident=resident, num_slots=num_slots, copier=copier)
    copier.log.clear()
    for i, block in enumerate(dit.blocks):
        block.self_attn.register_forward_pre_hook(lambda *_, i=i: copier.log.append(("work", i, held_blocks(dit, copier))))
    return dit, prefetcher_of(dit), copier


def held_blocks(dit, copier) -> set[tuple[int, int | None]]:
    """The blocks whose weights point to a slot, with that slot."""
    found = {(i, slot_of(copier, weight)) for i, block in enumerate(dit.blocks) for weight in block.parameters()}
    return {(i, slot) for i, slot in found if slot is not None}


@pytest.fixture(scope="module")
def case():
    dit = model()
    made = {people: inputs(dit, UNEVEN, people) for people in (1, 2)}
    with torch.no_grad():
        made["absorbed"] = (*made[1][:4], dit.absorb_audio(made[1][4]), None)
        return made, {name: dit(*arguments) for name, arguments in made.items()}


def equal(a, b) -> bool:
    return all(torch.equal(x, y) for left, right in zip(a, b, strict=True) for x, y in zip(left, right, strict=True))


@pytest.mark.parametrize("resident, num_slots", [(0, 2), (0, 3), (2, 2), (4, 2), (5, 2)])
@torch.no_grad()
def test_results_and_keys_are_the_plain_models_to_the_bit(case, resident, num_slots):
    made, expected = case
    dit, _, _ = offloaded(resident, num_slots)
    for name in (1, 2, "absorbed", 1):
        assert torch.equal(dit(*made[name]), expected[name]), name
    again = inputs(dit, UNEVEN, 1)
    assert equal([pair for keys in again[3] for pair in keys[:2]], [pair for keys in made[1][3] for pair in keys[:2]])
    assert equal(again[4], made[1][4]) and equal(dit.absorb_audio(again[4]), made["absorbed"][4])
    assert torch.equal(dit(*made["absorbed"], 1), model()(*made["absorbed"], 1)), "motion tokens left out"


@torch.no_grad()
def test_the_comparison_notices_weights_used_before_their_copy_ends(case, monkeypatch):
    """The control: `wait` does nothing."""
    made, expected = case
    dit, _, copier = offloaded()
    monkeypatch.setattr(copier, "wait", lambda filled: None)
    assert not torch.equal(dit(*made[1]), expected[1])


@torch.no_grad()
def test_each_block_is_copied_once_per_step_while_the_previous_block_runs(case):
    made, _ = case
    dit, prefetcher, copier = offloaded()
    for step in range(3):
        copier.log.clear()
        dit(*made["absorbed"])
        sizes = [length(prefetcher, i, "absorbed") for i in range(5)]
        found = [entry[2] for entry in copier.log if entry[0] == "copy"]
        assert found == ([*sizes, sizes[0]] if step == 0 else [*sizes[1:], sizes[0]])
        events = [entry[0] for entry in copier.log if entry[0] in ("copy", "work")]
        assert events == (["copy"] if step == 0 else []) + ["copy", "work"] * 5, "the next copy starts before the block runs"


def length(prefetcher, i, kind) -> int:
    span = prefetcher.packed[i].range_of(kind)
    return span.stop - span.start


@torch.no_grad()
def test_only_the_blocks_in_slots_are_on_the_device(case):
    made, _ = case
    dit, prefetcher, copier = offloaded(num_slots=2)
    dit(*made[1])
    dit.absorb_audio(dit.embed_audio(torch.randn(1, 1, 9, 5, 48)))
    dit(*made["absorbed"])
    assert len(copier.made) == 2 and max(len(memory) for memory in copier.made) == max(length(prefetcher, 0, kind) for kind in USES)
    for entry in (entry for entry in copier.log if entry[0] == "work"):
        ((block, _),) = entry[2]
        assert block == entry[1], "no other block's weights point to a slot"
    assert held_blocks(dit, copier) == set(), "between calls all weights are on the host"


@pytest.mark.parametrize("num_slots", [2, 3])
@torch.no_grad()
def test_a_slot_is_overwritten_only_after_the_work_that_used_it(case, num_slots):
    """Every copy waits for the event recorded when its slot was last used."""
    made, _ = case
    dit, _, copier = offloaded(num_slots=num_slots)
    used, slot = {slot: slot + 1 for slot in range(num_slots)}, None
    for name in (1, "absorbed", 1):
        dit(*made[name])
    for entry in copier.log:
        if entry[0] == "copy":
            assert entry[3] == used[entry[1]]
        elif entry[0] == "work":
            ((_, slot),) = entry[2]
        elif entry[0] == "record":
            used[slot] = entry[1]
    assert copier.started == 3 * 5 + 2 + 1, "each block each time, and one useless prefetch at both changes of kind"


@torch.no_grad()
def test_an_error_in_the_middle_leaves_the_model_usable(case):
    made, expected = case
    dit, _, copier = offloaded()
    handle = dit.blocks[2].ffn.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        dit(*made[1])
    assert held_blocks(dit, copier) == set()
    handle.remove()
    assert torch.equal(dit(*made[1]), expected[1]) and torch.equal(dit(*made["absorbed"]), expected["absorbed"])


@torch.no_grad()
def test_the_state_dict_keeps_names_and_values_in_the_requested_type(case):
    made, _ = case
    dit, plain = model(), model()
    dit.runners = offload_blocks(dit, CPU, torch.bfloat16)
    for _ in range(2):
        ours, theirs = dit.state_dict(), plain.state_dict()
        assert list(ours) == list(theirs)
        assert all(torch.equal(ours[name], theirs[name].bfloat16()) for name in ours)
        dit(*made[1][:3], *inputs(dit, UNEVEN, 1)[3:5])
    assert all(type(module) is type(other) for module, other in zip(dit.modules(), plain.modules(), strict=True))


@torch.no_grad()
def test_a_compiler_does_not_trace_the_copies(case):
    made, expected = case
    dit, _, _ = offloaded()
    dit.compile(backend="eager")
    for _ in range(2):
        assert torch.allclose(dit(*made[1]), expected[1], atol=1e-6)


class Allocations(TorchDispatchMode):
    """Counts the bytes of all tensors allocated on the meta device, which stands in for a GPU."""

    num_bytes = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        out = function(*arguments, **(options or {}))
        if function in (torch.ops.aten.empty.memory_format, torch.ops.aten._to_copy.default) and out.is_meta:
            self.num_bytes += out.nbytes
        return out


def test_loading_moves_only_resident_blocks_to_the_device():
    device, made = torch.device("meta"), {}
    for resident in (0, 2):
        dit = model()
        with Allocations() as log:
            dit.runners = offload_blocks(dit, device, torch.bfloat16, resident=resident, copier=BlockingCopier(device))
        made[resident] = log.num_bytes
        assert sum(weight.is_meta for weight in dit.blocks[-1].parameters()) == 2, "kv_linear"
    block = sum(2 * weight.numel() for weight in dit.blocks[0].parameters())
    staying = 2 * sum(weight.numel() for weight in dit.blocks[0].audio_cross_attn.kv_linear.parameters())
    rest = 2 * sum(weight.numel() for name, weight in dit.named_parameters() if not name.startswith("blocks."))
    slots = 2 * length(prefetcher_of(dit), 4, "whole")
    assert made == {0: rest + slots + 5 * staying, 2: rest + slots + 3 * staying + 2 * block}


def test_host_and_device_memory_are_freed_with_the_model():
    dit = model()
    dit.runners = offload_blocks(dit, CPU, FP32)
    gone = weakref.ref(prefetcher_of(dit))
    assert gone() is not None, "the runners keep it"
    del dit
    assert gone() is None, "no cycle that waits for the garbage collector"


def test_resident_blocks_are_spread_evenly_among_offloaded_ones():
    assert spread_evenly(5, 5) == [0, 1, 2, 3, 4] and spread_evenly(0, 5) == []
    assert spread_evenly(2, 5) == [2, 4] and spread_evenly(12, 40) == [3, 6, 9, 13, 16, 19, 23, 26, 29, 33, 36, 39]


def test_the_sizes_of_the_parts_at_14b_are_those_documented():
    """Elements of one block, from the shapes alone."""
    from livetalk_core.models.dit import Block
    from livetalk_core.models.dit_config import DiTConfig
    from livetalk_core.parallel.offload import part_of

    with torch.device("meta"):
        block = Block(DiTConfig())
    megabytes = {part: 0.0 for part in ("context", "work", "audio", "resident")}
    for name, weight in block.named_parameters():
        megabytes[part_of(name)] += 2 * weight.numel() / 1e6
    assert {part: round(size) for part, size in megabytes.items()} == {"context": 210, "work": 598, "audio": 105, "resident": 16}


def talk(engine):
    stream = engine.open(engine.reference(pixels()), StreamSettings(seed=3, steps=2))
    return torch.cat([chunk.frames_THWC for chunk in [*stream.push(torch.from_numpy(speech_like(1.5))), *stream.finish()]])


def num_offloaded(engine) -> int:
    """Blocks of an engine whose weights are offloaded."""
    return sum(isinstance(runner, OffloadedBlock) for runner in engine.models.dit.runners)


def test_an_offloaded_engine_talks_the_same_from_random_weights_and_from_files(engine, tmp_path):
    offloaded = load_engine("tiny", "cpu", memory="offload")
    assert num_offloaded(offloaded) == 2 and num_offloaded(load_engine("tiny", "cpu")) == 0
    assert torch.equal(talk(offloaded), talk(engine))
    write_published_folder(tmp_path / "m")
    plain, offloaded = (load_engine(tmp_path / "m", "cpu", memory=memory) for memory in ("resident", "offload"))
    assert num_offloaded(offloaded) == 2 and torch.equal(talk(offloaded), talk(plain))
