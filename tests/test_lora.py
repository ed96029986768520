"""LoRA files: every layout adds what it should, merged or beside packed weights, and a file that does not fit is refused."""

from __future__ import annotations

import logging
import re

import pytest
import torch
from safetensors.torch import save_file
from test_parallel_dit import UNEVEN, inputs
from test_quantized_files import quantized
from test_weight_forms import plan
from torch import Tensor

from livetalk_core.engine.assemble import keep_dit
from livetalk_core.engine.load import load_engine
from livetalk_core.engine.lora_files import parse_lora
from livetalk_core.engine.weight_plan import WeightPlan
from livetalk_core.models.dit import AudioDiT
from livetalk_core.models.packed import PackedLinear, dense_weight
from livetalk_core.models.scaled_files import join_scales
from livetalk_core.models.weights import load_dit
from livetalk_core.presets import tiny

CPU, FP32 = torch.device("cpu"), torch.float32
NAMES = ("blocks.0.self_attn.q", "blocks.1.cross_attn.k_img", "blocks.0.ffn.0", "blocks.1.ffn.2", "blocks.0.cross_attn.o")
THEIRS = {
    "blocks.0.self_attn.q": "blocks.0.attn1.to_q",
    "blocks.1.cross_attn.k_img": "blocks.1.attn2.add_k_proj",
    "blocks.0.ffn.0": "blocks.0.ffn.net.0.proj",
    "blocks.1.ffn.2": "blocks.1.ffn.net.2",
    "blocks.0.cross_attn.o": "blocks.0.attn2.to_out.0",
}
"""The same layers as diffusers names them."""
LAYOUTS = {
    "lightx2v": ("diffusion_model.{}.lora_down.weight", "diffusion_model.{}.lora_up.weight", None),
    "musubi": ("lora_unet_{_}.lora_down.weight", "lora_unet_{_}.lora_up.weight", "lora_unet_{_}.alpha"),
    "wan fun": ("lora_unet__{_}.lora_down.weight", "lora_unet__{_}.lora_up.weight", "lora_unet__{_}.alpha"),
    "peft": ("base_model.model.{}.lora_A.default.weight", "base_model.model.{}.lora_B.default.weight", None),
    "diffusers": ("transformer.{theirs}.lora_A.weight", "transformer.{theirs}.lora_B.weight", "transformer.{theirs}.alpha"),
    "lycoris": ("lycoris_{_}.lora_down.weight", "lycoris_{_}.lora_up.weight", "lycoris_{_}.alpha"),
    "bare": ("{}.lora_A.weight", "{}.lora_B.weight", "{}.alpha"),
}


def state_of(seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return AudioDiT(tiny().dit).state_dict()


def fresh(state: dict[str, Tensor]) -> AudioDiT:
    return load_dit(state, dtype=None, num_heads=tiny().dit.num_heads, text_len=tiny().dit.text_len)


def pairs(state: dict[str, Tensor], rank: int = 3) -> dict[str, tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    made = {}
    for name in NAMES:
        rows, width = state[f"{name}.weight"].shape
        made[name] = (0.1 * torch.randn(rank, width, generator=draw), 0.1 * torch.randn(rows, rank, generator=draw))
    return made


def write_lora(path, layout: str, made: dict[str, tuple[Tensor, Tensor]], alpha: float = 6.0):
    tensors = {}
    for name, (down, up) in made.items():
        words = {"_": name.replace(".", "_"), "theirs": THEIRS[name]}
        keys = [None if key is None else key.format(name, **words) for key in LAYOUTS[layout]]
        tensors |= {keys[0]: down.clone(), keys[1]: up.clone()} | ({} if keys[2] is None else {keys[2]: torch.tensor(alpha)})
    save_file(tensors, path)
    return path


def settled(dit: AudioDiT, *loras: str, form: str = "auto", dtype: torch.dtype = FP32) -> AudioDiT:
    keep_dit(dit, "resident", CPU, dtype, plan=WeightPlan(device=CPU, dtype=dtype, form=form, loras=loras))
    return dit


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_adds_strength_times_alpha_over_rank_times_up_down(tmp_path, layout):
    state = state_of()
    made = pairs(state)
    path = write_lora(tmp_path / "x.safetensors", layout, made)
    dit = settled(fresh(state), f"{path}:0.5")
    factor = 0.5 * (1 if LAYOUTS[layout][2] is None else 6.0 / 3)
    for name, weight in dit.state_dict().items():
        base = name.removesuffix(".weight")
        wanted = state[name] + factor * (made[base][1] @ made[base][0]) if base in made and name.endswith(".weight") else state[name]
        assert torch.allclose(weight, wanted, atol=1e-6), name


def test_whole_differences_of_weights_biases_and_modulations_are_added(tmp_path):
    state = state_of()
    added = {
        "diffusion_model.blocks.0.ffn.0.diff_b": torch.ones_like(state["blocks.0.ffn.0.bias"]),
        "diffusion_model.blocks.0.norm3.diff": torch.ones_like(state["blocks.0.norm3.weight"]),
        "diffusion_model.blocks.1.diff_m": torch.ones_like(state["blocks.1.modulation"]),
        "diffusion_model.head.head.diff": torch.ones_like(state["head.head.weight"]),
        "diffusion_model.patch_embedding.diff": torch.ones_like(state["patch_embedding.weight"]),
    }
    save_file(added, tmp_path / "x.safetensors")
    dit = settled(fresh(state), f"{tmp_path / 'x.safetensors'}:2")
    changed = {"blocks.0.ffn.0.bias", "blocks.0.norm3.weight", "blocks.1.modulation", "head.head.weight", "patch_embedding.weight"}
    for name, weight in dit.state_dict().items():
        assert torch.equal(weight, state[name] + 2 if name in changed else state[name]), name


@torch.no_grad()
def test_added_beside_packed_weights_is_the_same_as_merged(tmp_path):
    state = {name: tensor for name, tensor in state_of().items()}
    torch.nn.init.normal_(state["head.head.weight"])
    packed = join_scales(quantized(state, "comfy_fp8"))
    path = write_lora(tmp_path / "x.safetensors", "musubi", pairs(state))
    beside = settled(fresh(packed), f"{path}:0.7", str(path))
    merged = settled(fresh(packed), f"{path}:0.7", str(path), form="16bit")
    layers = {name: layer for name, layer in beside.named_modules() if isinstance(layer, PackedLinear) and layer.lora_down is not None}
    assert layers.keys() == set(NAMES) and all(len(layer.lora_down) == 6 for layer in layers.values()), "two files"
    for name, layer in layers.items():
        assert torch.allclose(dense_weight(layer, FP32), merged.get_submodule(name).weight, atol=1e-6)
    made = inputs(merged, UNEVEN, 1)
    assert (beside(*inputs(beside, UNEVEN, 1)) - merged(*made)).abs().max() <= 1e-5
    assert (settled(fresh(packed))(*made) - merged(*made)).abs().max() > 1e-3, "control"


@pytest.mark.parametrize("form", ["auto", "int8"])
def test_strength_0_gives_the_bytes_of_none(tmp_path, form):
    state = state_of()
    path = write_lora(tmp_path / "x.safetensors", "lightx2v", pairs(state))
    plain, zero, one = (settled(fresh(state), *loras, form=form).state_dict() for loras in ([], [f"{path}:0"], [str(path)]))
    assert all(torch.equal(plain[name], zero[name]) for name in plain) and plain.keys() == zero.keys()
    assert not all(torch.equal(plain[name], one[name]) for name in plain), "control"


def test_a_whole_difference_of_a_packed_weight_unpacks_that_weight_alone(tmp_path):
    state = state_of()
    packed = join_scales(quantized(state, "comfy_int8"))
    save_file({"blocks.0.ffn.0.diff": torch.ones_like(state["blocks.0.ffn.0.weight"])}, tmp_path / "x.safetensors")
    dit, plain = settled(fresh(packed), str(tmp_path / "x.safetensors")), settled(fresh(packed))
    assert type(dit.blocks[0].ffn[0]) is torch.nn.Linear and isinstance(dit.blocks[0].ffn[2], PackedLinear)
    assert torch.allclose(dit.blocks[0].ffn[0].weight, dense_weight(plain.blocks[0].ffn[0], FP32) + 1)


def rank_0(tensors):
    tensors |= {"blocks.0.ffn.0.lora_A.weight": torch.zeros(0, 64), "blocks.0.ffn.0.lora_B.weight": torch.zeros(96, 0)}


def of_flux(tensors):
    down, up = tensors.popitem()[1], tensors.popitem()[1]
    tensors.clear()
    tensors |= {"transformer.single_blocks.0.linear1.lora_A.weight": down, "transformer.single_blocks.0.linear1.lora_B.weight": up}


def of_another_width(tensors):
    tensors["blocks.0.ffn.0.lora_A.weight"] = torch.zeros(3, 7)


def not_finite(tensors):
    tensors["blocks.0.ffn.0.lora_A.weight"][0, 0] = float("nan")


def without_up(tensors):
    del tensors["blocks.0.ffn.0.lora_B.weight"]


def without_down(tensors):
    del tensors["blocks.0.ffn.0.lora_A.weight"]


def of_another_rank(tensors):
    tensors["blocks.0.ffn.0.lora_B.weight"] = tensors["blocks.0.ffn.0.lora_B.weight"][:, :1].contiguous()


def dora(tensors):
    tensors["blocks.0.ffn.0.dora_scale"] = torch.ones(3)


def lokr(tensors):
    tensors["lycoris_blocks_0_ffn_0.lokr_w1_a"] = torch.ones(3, 3)


DAMAGES = [
    (lokr, "lycoris_blocks_0_ffn_0.lokr_w1_a is of a kind of LoRA that cannot be read"),
    (rank_0, "blocks.0.ffn.0.lora_A.weight is of rank 0"),
    (of_flux, "nothing in it fits this model: transformer.single_blocks.0.linear1.lora_A.weight; it is of another model"),
    (of_another_width, r"blocks.0.ffn.0.lora_A.weight is for a weight of \[\d+, 7\], and this model's is"),
    (not_finite, "blocks.0.ffn.0.lora_A.weight has numbers that are not finite"),
    (without_up, "blocks.0.ffn.0.lora_A.weight has no lora_B.weight beside it"),
    (without_down, "blocks.0.ffn.0.lora_B.weight has no lora_A.weight beside it"),
    (of_another_rank, "blocks.0.ffn.0.lora_A.weight is of rank 3 and its other half is not"),
    (dora, "blocks.0.ffn.0.dora_scale is of a kind of LoRA that cannot be read"),
]


@pytest.mark.parametrize("damage, told", DAMAGES, ids=[damage.__name__ for damage, _ in DAMAGES])
def test_a_file_that_does_not_fit_is_refused_in_one_line_before_anything_moves(tmp_path, damage, told):
    state = state_of()
    tensors = {f"{name}.lora_{half}.weight": tensor for name, two in pairs(state).items() for half, tensor in zip("AB", two, strict=True)}
    damage(tensors)
    save_file(tensors, tmp_path / "x.safetensors")
    dit = fresh(state)
    with pytest.raises(ValueError, match=told) as error:
        settled(dit, str(tmp_path / "x.safetensors"), form="int8")
    assert str(error.value).startswith(f"lora {tmp_path / 'x.safetensors'}: ") and "\n" not in str(error.value)
    assert not any(isinstance(layer, PackedLinear) for layer in dit.modules()), "nothing was converted"


def test_a_file_that_is_no_lora_is_told_by_what_it_is(tmp_path):
    state = state_of()
    save_file(state, tmp_path / "dit.safetensors")
    (tmp_path / "page.safetensors").write_text("<!DOCTYPE html>")
    for name, told in (
        ("dit.safetensors", "it is a DiT that talks.*; choose it as the model"),
        ("page.safetensors", "is a web page and no checkpoint; download the file itself$"),
        ("", "is a folder; name the files in it$"),
    ):
        with pytest.raises(ValueError, match=f"^lora {tmp_path / name}: {told}"):
            settled(fresh(state), str(tmp_path / name))


def test_keys_that_fit_nothing_are_named(tmp_path, caplog):
    state = state_of()
    tensors = {f"{name}.lora_{half}.weight": tensor for name, two in pairs(state).items() for half, tensor in zip("AB", two, strict=True)}
    tensors |= {"blocks.77.ffn.0.lora_A.weight": torch.ones(3, 64), "blocks.77.ffn.0.lora_B.weight": torch.ones(96, 3)}
    save_file(tensors, tmp_path / "x.safetensors")
    with caplog.at_level(logging.WARNING):
        settled(fresh(state), str(tmp_path / "x.safetensors"))
    assert re.search(r"x\.safetensors: blocks\.77\.ffn\.0\.lora_A\.weight fit nothing in this model and are left out", caplog.text)


def test_a_file_may_have_a_strength_and_a_path_with_colons():
    assert parse_lora("a.safetensors") == (parse_lora("a.safetensors:1")[0], 1.0)
    assert [str(parse_lora(text)[0]) for text in ("C:\\x.safetensors", "C:\\x.safetensors:-0.5")] == ["C:\\x.safetensors"] * 2
    assert parse_lora("a:-0.5")[1] == -0.5
    with pytest.raises(ValueError, match="^lora 'a:nan' must be FILE or FILE:STRENGTH with a finite strength"):
        load_engine("tiny", "cpu", lora=("a:nan",))
    with pytest.raises(FileNotFoundError, match="^lora gone.safetensors is missing"):
        load_engine("tiny", "cpu", lora=("gone.safetensors",))


def test_the_node_chains(nodes, host):
    host.files = {"loras": ["a.safetensors", "b.safetensors"]}
    (host.folder / "loras").mkdir()
    for name in host.files["loras"]:
        write_lora(host.folder / "loras" / name, "lightx2v", pairs(state_of()))
    first = nodes.lora.AddLora.execute("a.safetensors", 1.0).args[0]
    both = nodes.lora.AddLora.execute("b.safetensors", 0.5, first).args[0]
    assert both.lora == (f"{host.folder / 'loras' / 'a.safetensors'}:1.0", f"{host.folder / 'loras' / 'b.safetensors'}:0.5")
    with pytest.raises(ValueError, match="'c.safetensors' is not in models/loras; choose another LoRA"):
        nodes.lora.AddLora.execute("c.safetensors", 1.0)


def test_plans_without_loras_leave_16_bit_weights_alone():
    dit = fresh(state_of())
    before = {name: weight.data_ptr() for name, weight in dit.named_parameters()}
    keep_dit(dit, "resident", CPU, FP32, plan=plan("auto"))
    assert {name: weight.data_ptr() for name, weight in dit.named_parameters()} == before
