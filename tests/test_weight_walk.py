"""Every form of weights in every place, with and without a LoRA, against the same weights resident in one process.

As a script, this file is one of two processes.
"""

from __future__ import annotations

import json
import sys
from itertools import product
from pathlib import Path

import gguf
import pytest
import torch
from made import pixels, speech_like
from safetensors.torch import save_file
from test_parallel_dit import UNEVEN, difference, inputs, small_model, start_processes
from test_quantized_files import is_linear
from torch import Tensor

from livetalk_core.cli.end import leave
from livetalk_core.engine.assemble import keep_dit
from livetalk_core.engine.load import load_engine
from livetalk_core.engine.options import EngineOptions
from livetalk_core.engine.weight_plan import WeightPlan
from livetalk_core.models.dit import AudioDiT
from livetalk_core.models.packed import PackedLinear, PackedWeight
from livetalk_core.models.weights import load_dit
from livetalk_core.open import open_engine
from livetalk_core.parallel.context import SequenceParallel
from livetalk_core.parallel.group import SequenceGroup, close_group, init_group
from livetalk_core.types import StreamSettings

SIZE, CPU, FP32 = 2, torch.device("cpu"), torch.float32
LIMIT = 1e-5
FORMS = ("16bit", "int8", "fp8", "gguf")
PLACES = ("resident", "offload", "sharded", "pool of 2", "pool of 2, offloaded")
LORAS = ("none", "with LoRA")
WALK = list(product(FORMS, PLACES, LORAS))


def fresh(form: str) -> AudioDiT:
    """The small model, its weights packed for gguf as in a file."""
    state: dict[str, Tensor | PackedWeight] = dict(small_model().state_dict())
    for name, tensor in state.items():
        if form == "gguf" and is_linear(name, tensor) and tensor.shape[1] % 32 == 0:
            rows = torch.from_numpy(gguf.quants.quantize(tensor.numpy(), gguf.GGMLQuantizationType.Q8_0)).view(torch.int8)
            state[name] = PackedWeight(form="Q8_0", shape=tuple(tensor.shape), rows=rows)
    return load_dit(state, dtype=None, num_heads=8, text_len=16)


def placed(form: str, place: str, loras: tuple[str, ...], group: SequenceGroup) -> AudioDiT:
    dit = fresh(form)
    plan = WeightPlan(device=CPU, dtype=FP32, form="auto" if form == "gguf" else form, loras=loras)
    memory = {"pool of 2": "resident", "pool of 2, offloaded": "offload"}.get(place, place)
    keep_dit(dit, memory, CPU, FP32, group if memory == "sharded" else None, plan=plan)
    if place not in ("resident", "offload"):
        dit.sequence = SequenceParallel(group, dit.config.num_heads)
    return dit


def write_lora(path: Path) -> Path:
    draw, state = torch.Generator().manual_seed(3), small_model().state_dict()
    layers = [name.removesuffix(".weight") for name, tensor in state.items() if is_linear(name, tensor)]
    made = {}
    for layer in layers:
        rows, width = state[f"{layer}.weight"].shape
        made[f"{layer}.lora_A.weight"] = 0.1 * torch.randn(4, width, generator=draw)
        made[f"{layer}.lora_B.weight"] = 0.1 * torch.randn(rows, 4, generator=draw)
    save_file(made, path)
    return path


@torch.no_grad()
def run_process(rank: int, folder: Path) -> None:
    meeting = {"rank": rank, "size": SIZE, "init_method": f"file://{folder}/meet", "device": CPU}
    group = init_group(**meeting, ulysses_degree=SIZE, ring_degree=1)
    path, found = write_lora(folder / f"{rank}.safetensors"), {}
    exact = {}
    for form, place, lora in WALK:
        dit = placed(form, place, (str(path),) if lora != "none" else (), group)
        y = dit(*inputs(dit, UNEVEN, 1))
        if place == "resident":
            exact[form, lora] = y
        found[f"{form}, {place}, {lora}"] = difference(y, exact[form, lora])
    found["lora changes"] = difference(exact["int8", "with LoRA"], exact["int8", "none"])
    found["forms differ"] = difference(exact["int8", "none"], exact["fp8", "none"])
    if rank == 0:
        (folder / "found.json").write_text(json.dumps(found))
    close_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, float]:
    folder = tmp_path_factory.mktemp("walk")
    start_processes(__file__, SIZE, folder)
    return json.loads((folder / "found.json").read_text())


@pytest.mark.parametrize("form, place, lora", WALK)
def test_every_form_runs_in_every_place_with_the_same_result(found, form, place, lora):
    assert found[f"{form}, {place}, {lora}"] <= LIMIT
    assert found["lora changes"] > 1e-3 and found["forms differ"] > 1e-3, "control"


@torch.no_grad()
def talk(engine) -> Tensor:
    stream = engine.open(engine.reference(pixels()), StreamSettings(seed=3, steps=2))
    return torch.cat([chunk.frames_THWC for chunk in [*stream.push(torch.from_numpy(speech_like(1.2))), *stream.finish()]])


@pytest.mark.slow
def test_a_started_pool_has_the_form_that_is_asked_for():
    pool = open_engine(EngineOptions(model="tiny", device="cpu", workers=2, weights="int8"))
    try:
        ours = talk(pool)
    finally:
        pool.close()
    theirs = load_engine("tiny", "cpu", weights="int8")
    assert any(isinstance(layer, PackedLinear) for layer in theirs.models.dit.modules())
    assert (ours.int() - talk(theirs).int()).abs().max() <= 1


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_process(int(sys.argv[1]), Path(sys.argv[2]))
    leave(0)
