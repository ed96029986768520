"""Block weights brought to the device just before they are used, against the plain DiT: the same bits, in few slots, each copied once."""

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
from livetalk_core.parallel.offload import VISITS, Conveyor, OffloadedBlock, PlainCopies, offload_blocks, spread_evenly
from livetalk_core.presets import tiny
from livetalk_core.types import StreamSettings

CPU, FP32 = torch.device("cpu"), torch.float32
CONFIG = replace(tiny().dit, num_layers=5)


class Late(PlainCopies):
    """A device whose copies come as late as they may: until then, what is to be filled holds no numbers. Keeps an account of everything."""

    def __init__(self):
        super().__init__(CPU)
        self.account: list[tuple] = []
        self.waiting: dict[int, tuple] = {}
        self.made: list[torch.Tensor] = []
        self.marks = self.begun = 0

    def device_memory(self, length, dtype):
        self.made.append(super().device_memory(length, dtype))
        return self.made[-1]

    def mark(self):
        self.marks += 1
        self.account.append(("mark", self.marks))
        return self.marks

    def begin(self, target, source, free):
        target.fill_(float("nan"))
        self.begun += 1
        self.waiting[self.begun] = (target, source)
        self.account.append(("copy", slot_of(self, target), len(source), free))
        return self.begun

    def wait(self, filled):
        if filled in self.waiting:
            target, source = self.waiting.pop(filled)
            target.copy_(source)
        self.account.append(("wait", filled))


def slot_of(copies, tensor) -> int | None:
    """The slot that a tensor lies in."""
    starts = [memory.untyped_storage().data_ptr() for memory in copies.made]
    start = tensor.untyped_storage().data_ptr()
    return starts.index(start) if start in starts else None


def model(seed: int = 0) -> AudioDiT:
    torch.manual_seed(seed)
    dit = AudioDiT(CONFIG).eval().requires_grad_(False)
    torch.nn.init.normal_(dit.head.head.weight)
    return dit


def conveyor_of(dit: AudioDiT) -> Conveyor | None:
    return next((runner.conveyor for runner in dit.runners if isinstance(runner, OffloadedBlock)), None)


def brought(resident: int = 0, num_slots: int = 2) -> tuple[AudioDiT, Conveyor | None, Late]:
    """The same model, offloaded; its account also says when each block works, and what is shown then."""
    dit, copies = model(), Late()
    dit.runners = offload_blocks(dit, CPU, FP32, resident=resident, num_slots=num_slots, copies=copies)
    copies.account.clear()
    for i, block in enumerate(dit.blocks):
        block.self_attn.register_forward_pre_hook(lambda *_, i=i: copies.account.append(("work", i, held_blocks(dit, copies))))
    return dit, conveyor_of(dit), copies


def held_blocks(dit, copies) -> set[tuple[int, int | None]]:
    """The blocks whose weights are in a slot now, with the slot."""
    found = {(i, slot_of(copies, weight)) for i, block in enumerate(dit.blocks) for weight in block.parameters()}
    return {(i, slot) for i, slot in found if slot is not None}


@pytest.fixture(scope="module")
def case():
    dit = model()
    made = {people: inputs_of(dit, people) for people in (1, 2)}
    with torch.no_grad():
        made["absorbed"] = (*made[1][:4], dit.absorb_audio(made[1][4]), None)
        return made, {name: dit(*arguments) for name, arguments in made.items()}


@torch.no_grad()
def inputs_of(dit, people):
    return inputs(dit, UNEVEN, people)


def equal(a, b) -> bool:
    return all(torch.equal(x, y) for left, right in zip(a, b, strict=True) for x, y in zip(left, right, strict=True))


@pytest.mark.parametrize("resident, num_slots", [(0, 2), (0, 3), (2, 2), (4, 2), (5, 2)])
@torch.no_grad()
def test_results_and_keys_are_the_plain_models_to_the_bit(case, resident, num_slots):
    made, expected = case
    dit, _, _ = brought(resident, num_slots)
    for name in (1, 2, "absorbed", 1):
        assert torch.equal(dit(*made[name]), expected[name]), name
    again = inputs_of(dit, 1)
    assert equal([pair for keys in again[3] for pair in keys[:2]], [pair for keys in made[1][3] for pair in keys[:2]])
    assert equal(again[4], made[1][4]) and equal(dit.absorb_audio(again[4]), made["absorbed"][4])
    assert torch.equal(dit(*made["absorbed"], 1), model()(*made["absorbed"], 1)), "motion tokens left out"


@torch.no_grad()
def test_weights_used_before_their_copy_is_done_are_seen(case, monkeypatch):
    """The control: nobody waits."""
    made, expected = case
    dit, _, copies = brought()
    monkeypatch.setattr(copies, "wait", lambda filled: None)
    assert not torch.equal(dit(*made[1]), expected[1])


@torch.no_grad()
def test_each_block_is_copied_once_a_step_and_before_the_block_before_it_works(case):
    made, _ = case
    dit, conveyor, copies = brought()
    for step in range(3):
        copies.account.clear()
        dit(*made["absorbed"])
        sizes = [length(conveyor, i, "absorbed") for i in range(5)]
        found = [entry[2] for entry in copies.account if entry[0] == "copy"]
        assert found == ([*sizes, sizes[0]] if step == 0 else [*sizes[1:], sizes[0]])
        events = [entry[0] for entry in copies.account if entry[0] in ("copy", "work")]
        assert events == (["copy"] if step == 0 else []) + ["copy", "work"] * 5, "the next copy is begun, then the block works"


def length(conveyor, i, kind) -> int:
    place = conveyor.packed[i].place(kind)
    return place.stop - place.start


@torch.no_grad()
def test_only_the_slots_blocks_are_on_the_device_and_each_in_its_own(case):
    made, _ = case
    dit, conveyor, copies = brought(num_slots=2)
    dit(*made[1])
    dit.absorb_audio(dit.embed_audio(torch.randn(1, 1, 9, 5, 48)))
    dit(*made["absorbed"])
    assert len(copies.made) == 2 and max(len(memory) for memory in copies.made) == max(length(conveyor, 0, kind) for kind in VISITS)
    for entry in (entry for entry in copies.account if entry[0] == "work"):
        ((block, _),) = entry[2]
        assert block == entry[1], "no other block's weights are shown"
    assert held_blocks(dit, copies) == set(), "between the calls all weights are the host's"


@pytest.mark.parametrize("num_slots", [2, 3])
@torch.no_grad()
def test_a_slot_is_filled_only_after_the_work_with_what_it_held(case, num_slots):
    """Every copy is told to wait for the mark made when its slot was last used."""
    made, _ = case
    dit, _, copies = brought(num_slots=num_slots)
    used, slot = {slot: slot + 1 for slot in range(num_slots)}, None
    for name in (1, "absorbed", 1):
        dit(*made[name])
    for entry in copies.account:
        if entry[0] == "copy":
            assert entry[3] == used[entry[1]]
        elif entry[0] == "work":
            ((_, slot),) = entry[2]
        elif entry[0] == "mark":
            used[slot] = entry[1]
    assert copies.begun == 3 * 5 + 2 + 1, "each block each time, and at both changes of kind a first one in vain"


@torch.no_grad()
def test_an_error_in_the_middle_leaves_the_model_usable(case):
    made, expected = case
    dit, _, copies = brought()
    handle = dit.blocks[2].ffn.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        dit(*made[1])
    assert held_blocks(dit, copies) == set()
    handle.remove()
    assert torch.equal(dit(*made[1]), expected[1]) and torch.equal(dit(*made["absorbed"]), expected["absorbed"])


@torch.no_grad()
def test_the_state_dict_keeps_names_and_values_and_takes_the_type_asked_for(case):
    made, _ = case
    dit, plain = model(), model()
    dit.runners = offload_blocks(dit, CPU, torch.bfloat16)
    for _ in range(2):
        ours, theirs = dit.state_dict(), plain.state_dict()
        assert list(ours) == list(theirs)
        assert all(torch.equal(ours[name], theirs[name].bfloat16()) for name in ours)
        dit(*made[1][:3], *inputs_of(dit, 1)[3:5])
    assert all(type(module) is type(other) for module, other in zip(dit.modules(), plain.modules(), strict=True))


@torch.no_grad()
def test_a_compiler_leaves_the_bringing_alone(case):
    made, expected = case
    dit, _, _ = brought()
    dit.compile(backend="eager")
    for _ in range(2):
        assert torch.allclose(dit(*made[1]), expected[1], atol=1e-6)


class Made(TorchDispatchMode):
    """Bytes of all tensors made on the meta device, which stands for one that is watched."""

    num_bytes = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        out = function(*arguments, **(options or {}))
        if function in (torch.ops.aten.empty.memory_format, torch.ops.aten._to_copy.default) and out.is_meta:
            self.num_bytes += out.nbytes
        return out


def test_no_block_but_those_that_stay_goes_to_the_device_while_loading():
    device, made = torch.device("meta"), {}
    for resident in (0, 2):
        dit = model()
        with Made() as account:
            dit.runners = offload_blocks(dit, device, torch.bfloat16, resident=resident, copies=PlainCopies(device))
        made[resident] = account.num_bytes
        assert sum(weight.is_meta for weight in dit.blocks[-1].parameters()) == 2, "kv_linear"
    block = sum(2 * weight.numel() for weight in dit.blocks[0].parameters())
    staying = 2 * sum(weight.numel() for weight in dit.blocks[0].audio_cross_attn.kv_linear.parameters())
    rest = 2 * sum(weight.numel() for name, weight in dit.named_parameters() if not name.startswith("blocks."))
    slots = 2 * 2 * length(conveyor_of(dit), 4, "whole")
    assert made == {0: rest + slots + 5 * staying, 2: rest + slots + 3 * staying + 2 * block}


def test_host_and_device_memory_go_with_the_model():
    dit = model()
    dit.runners = offload_blocks(dit, CPU, FP32)
    gone = weakref.ref(conveyor_of(dit))
    assert gone() is not None, "the runners keep it"
    del dit
    assert gone() is None, "no cycle that waits for the garbage collector"


def test_blocks_that_stay_lie_between_those_that_are_brought():
    assert spread_evenly(5, 5) == [0, 1, 2, 3, 4] and spread_evenly(0, 5) == []
    assert spread_evenly(2, 5) == [2, 4] and spread_evenly(12, 40) == [3, 6, 9, 13, 16, 19, 23, 26, 29, 33, 36, 39]


def test_what_a_visit_brings_at_14b_is_what_the_file_says():
    """Elements of one block, from the shapes alone."""
    from livetalk_core.models.dit import Block
    from livetalk_core.models.dit_config import DiTConfig
    from livetalk_core.parallel.offload import part_of

    with torch.device("meta"):
        block = Block(DiTConfig())
    megabytes = {part: 0.0 for part in ("context", "work", "hearing", "staying")}
    for name, weight in block.named_parameters():
        megabytes[part_of(name)] += 2 * weight.numel() / 1e6
    assert {part: round(size) for part, size in megabytes.items()} == {"context": 210, "work": 598, "hearing": 105, "staying": 16}


def talk(engine):
    stream = engine.open(engine.reference(pixels()), StreamSettings(seed=3, steps=2))
    return torch.cat([chunk.frames_THWC for chunk in [*stream.push(torch.from_numpy(speech_like(1.5))), *stream.finish()]])


def conveyor_slots(engine) -> int:
    """Blocks of an engine whose weights are brought."""
    return sum(isinstance(runner, OffloadedBlock) for runner in engine.models.dit.runners)


def test_an_offloaded_engine_talks_the_same_from_random_weights_and_from_files(engine, tmp_path):
    offloaded = load_engine("tiny", "cpu", memory="offload")
    assert conveyor_slots(offloaded) == 2 and conveyor_slots(load_engine("tiny", "cpu")) == 0
    assert torch.equal(talk(offloaded), talk(engine))
    write_published_folder(tmp_path / "m")
    plain, offloaded = (load_engine(tmp_path / "m", "cpu", memory=memory) for memory in ("resident", "offload"))
    assert conveyor_slots(offloaded) == 2 and torch.equal(talk(offloaded), talk(plain))
