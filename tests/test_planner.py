"""What one GPU does with the 14B model, for each form of its weights, against the memory that it takes."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from test_quantized_files import write_gguf

from livetalk_core.checks.doctor import plans_for
from livetalk_core.engine.planner import FORMS, NUM_BLOCKS, REST, TEXT_BYTES, USES, block_bytes, plan_card
from livetalk_core.open import EngineOptions, place_on_gpus
from livetalk_core.parallel.memory import GIB, PROCESS_BYTES
from livetalk_core.pool import place as placement
from livetalk_core.pool.memory_page import HOSTS, ONE_CARD
from livetalk_core.pool.place import Box, Demand, Gpu, blocks_in


def test_a_block_of_the_14b_model_is_half_in_8_bits_and_less_as_q4_k():
    assert block_bytes("16bit") == pytest.approx(928e6, rel=0.01)
    assert 0.5 < block_bytes("int8") / block_bytes("16bit") < 0.502 and block_bytes("fp8") == block_bytes("int8")
    assert block_bytes("Q4_K") / block_bytes("16bit") == pytest.approx(144 / 256 / 2, rel=0.01)


@pytest.mark.parametrize("use", USES, ids=lambda use: use.told)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("card", ONE_CARD)
def test_every_plan_fits_its_card_and_its_host(card, form, use):
    for host in HOSTS:
        plan = plan_card(card * GIB, host * GIB, form, use)
        if plan is None:
            continue
        blocks = plan.kept + (2 if plan.memory == "offload" else 0)
        least = REST + blocks * block_bytes(form) + use.room()
        assert least <= plan.peak_bytes <= card * GIB
        assert plan.text_on == "CPU" or REST + blocks * block_bytes(form) + TEXT_BYTES + use.room() <= card * GIB
        assert (NUM_BLOCKS - plan.kept) * block_bytes(form) + PROCESS_BYTES <= host * GIB


def test_smaller_weights_fit_smaller_cards():
    def kinds(card, host=64):
        return [plan and plan.memory for plan in (plan_card(card * GIB, host * GIB, form) for form in FORMS)]

    assert kinds(80) == ["resident"] * 3 and kinds(48)[0] == "resident"
    assert kinds(32)[0] == "offload" and kinds(32)[2] == "resident"
    assert kinds(12) == ["offload"] * 3, "umT5 runs on the CPU"
    assert kinds(12, host=32)[0] is None and kinds(12, host=32)[1] == "offload", "16 bits do not fit the host"
    assert kinds(6) == [None] * 3


def test_larger_chunks_and_pictures_need_larger_cards():
    def kinds(card, form="int8"):
        return [plan and plan.memory for plan in (plan_card(card * GIB, 64 * GIB, form, use) for use in USES)]

    assert kinds(48) == ["resident"] * 3 and kinds(32) == ["resident", "resident", "offload"]
    assert kinds(16) == ["offload", "offload", None] and kinds(12) == ["offload", None, None]


def test_doctor_lists_each_form():
    found = list(plans_for(24 * GIB, 32 * GIB))
    assert [finding.what for finding in found] == [f"{use.told}, weights in {form}" for use in USES for form in FORMS]
    assert not any(finding.needed for finding in found) and "umT5 on" in found[1].found


def test_bytes_of_blocks_follow_the_form_and_the_file(tmp_path):
    state = {f"blocks.{i}.ffn.0.weight": torch.zeros(64, 32, dtype=torch.bfloat16) for i in range(2)}
    state |= {f"blocks.{i}.ffn.0.bias": torch.zeros(64, dtype=torch.bfloat16) for i in range(2)}
    save_file(state, tmp_path / "x.safetensors")
    sizes = {form: blocks_in([tmp_path / "x.safetensors"], form) for form in ("auto", "16bit", "int8", "fp8")}
    assert sizes == {"auto": (4224, 2), "16bit": (4224, 2), "int8": (2432, 2), "fp8": (2432, 2)}
    path = write_gguf(tmp_path / "x.gguf", {name: tensor.float() for name, tensor in state.items()})
    assert blocks_in([path]) == (64 * 34 + 64 * 4, 2) and blocks_in([path], "16bit") == (4224, 2)


def test_what_does_not_fit_is_told_of_8_bits_only_if_they_would_fit(monkeypatch):
    def demand(model, size="auto", weights="auto"):
        block = 464_000_000 if weights == "int8" else 928_000_000
        return Demand(heads=40, num_bytes=40 * block + 14 * GIB, tokens=10530, block_bytes=block, num_blocks=40)

    monkeypatch.setattr(placement, "demand_of", demand)
    box = {gib: Box(gpus=(Gpu(index=0, uuid="0", free_bytes=gib * GIB, name=""),)) for gib in (36, 20)}
    options = EngineOptions(gpus="auto", memory="resident")
    with pytest.raises(ValueError, match="; or keep the weights in 8 bits with --weights int8, which is lossy$"):
        place_on_gpus(options, demand(None), box[36])
    with pytest.raises(ValueError) as error:
        place_on_gpus(options, demand(None), box[20])
    assert "int8" not in str(error.value)
