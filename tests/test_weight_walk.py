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
from made import pixels, speech_like, write_published_folder
from safetensors.torch import save_file
from test_parallel_dit import UNEVEN, difference, inputs, small_model, start_processes
from test_quantized_files import is_linear, write_gguf
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


def write_lora(path: Path, state: dict[str, Tensor]) -> Path:
    draw = torch.Generator().manual_seed(3)
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
    path, found = write_lora(folder / f"{rank}.safetensors", small_model().state_dict()), {}
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A published toy folder, with the DiT as a GGUF file and a LoRA beside it."""
    folder = tmp_path_factory.mktemp("pooled")
    state = write_published_folder(folder / "m")["dit"]
    write_gguf(folder / "dit.gguf", state)
    write_lora(folder / "lora.safetensors", state)
    return folder


@pytest.fixture(scope="module")
def plain(folder) -> Tensor:
    """The frames of the same model in 32 bits."""
    return talk(load_engine(folder / "m", "cpu", dtype="float32"))


@pytest.mark.slow
@pytest.mark.parametrize("form, memory, lora", [("int8", "sharded", False), ("fp8", "offload", True), ("gguf", "sharded", True)])
def test_a_started_pool_talks_as_one_process_with_the_same_weights(folder, plain, form, memory, lora):
    asked = {"model": folder / "m", "device": "cpu", "dtype": "float32", "lora": (str(folder / "lora.safetensors"),) if lora else ()}
    asked |= {"dit": (folder / "dit.gguf",)} if form == "gguf" else {"weights": form}
    pool = open_engine(EngineOptions(**asked, workers=2, memory=memory))
    try:
        ours = talk(pool)
    finally:
        pool.close()
    theirs = load_engine(**asked)
    packed = [layer for layer in theirs.models.dit.modules() if isinstance(layer, PackedLinear)]
    assert {layer.form for layer in packed} == {"Q8_0" if form == "gguf" else form}
    assert (ours.int() - talk(theirs).int()).abs().max() <= 1
    assert (ours.int() - plain.int()).abs().max() > 1, "control"


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_process(int(sys.argv[1]), Path(sys.argv[2]))
    leave(0)
