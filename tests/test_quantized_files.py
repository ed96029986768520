"""Checkpoints with quantized weights: every layout in use, read as it is, unpacked on request, and refused where it is damaged."""

from __future__ import annotations

import gc
import io
import json
import os
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from live_bytes import LiveBytes
from made import write_published_folder
from safetensors.torch import save_file
from sentencepiece import SentencePieceProcessor
from test_offload import talk
from torch import Tensor, nn

from livetalk_core.checks.errors import relative_error
from livetalk_core.checks.parity import Golden, velocity, weights_in
from livetalk_core.engine import weight_plan
from livetalk_core.engine.assemble import keep_dit
from livetalk_core.engine.encoders import load_text, tokenizer_of
from livetalk_core.engine.files import find_files
from livetalk_core.engine.load import load_files
from livetalk_core.engine.sniff import what_is
from livetalk_core.engine.weight_plan import WeightPlan
from livetalk_core.models import gguf_blocks
from livetalk_core.models.dit import AudioDiT
from livetalk_core.models.gguf_file import read_gguf
from livetalk_core.models.gguf_tokenizer import spiece_in_gguf
from livetalk_core.models.packed import PackedEmbedding, PackedLinear, dense_weight
from livetalk_core.models.scaled_files import join_scales
from livetalk_core.models.text import sentencepiece_tokenizer
from livetalk_core.models.weights import load_dit, read_tensors, read_weights
from livetalk_core.parallel.offload import NUM_SLOTS
from livetalk_core.presets import tiny

CPU, FP32, META = torch.device("cpu"), torch.float32, torch.device("meta")
E4M3 = torch.float8_e4m3fn


def is_linear(name: str, tensor: Tensor) -> bool:
    return name.startswith("blocks.") and tensor.ndim == 2 and name.endswith(".weight") and "pos_embedding" not in name


def rounded(weight: Tensor, kind: torch.dtype, by_row: bool) -> tuple[Tensor, Tensor]:
    """A weight in 8 bits and its scale: [] or [N, 1]."""
    most = weight.abs().amax(1, keepdim=True) if by_row else weight.abs().max()
    scale = most.float() / (127 if kind == torch.int8 else 448)
    values = weight.float() / scale
    return (values.round() if kind == torch.int8 else values).to(kind), scale


def comfy_fp8(base: str, weight: Tensor) -> dict[str, Tensor]:
    values, scale = rounded(weight, E4M3, by_row=False)
    return {f"{base}.weight": values, f"{base}.scale_weight": scale.reshape(1), f"{base}.scale_input": torch.ones(1)}


def comfy_quant(base: str, weight: Tensor) -> dict[str, Tensor]:
    values, scale = rounded(weight, E4M3, by_row=False)
    told = torch.tensor(list(json.dumps({"format": "float8_e4m3fn"}).encode()), dtype=torch.uint8)
    return {f"{base}.weight": values, f"{base}.weight_scale": scale, f"{base}.comfy_quant": told}


def comfy_int8(base: str, weight: Tensor) -> dict[str, Tensor]:
    values, scale = rounded(weight, torch.int8, by_row=True)
    told = torch.tensor(list(json.dumps({"format": "int8_tensorwise"}).encode()), dtype=torch.uint8)
    return {f"{base}.weight": values, f"{base}.weight_scale": scale, f"{base}.comfy_quant": told}


def lightx2v(base: str, weight: Tensor) -> dict[str, Tensor]:
    values, scale = rounded(weight, torch.int8, by_row=True)
    return {f"{base}.weight": values, f"{base}.weight_scale": scale}


def quanto(base: str, weight: Tensor) -> dict[str, Tensor]:
    values, scale = rounded(weight, torch.int8, by_row=True)
    more = {f"{base}.input_scale": torch.ones(()), f"{base}.output_scale": torch.ones(())}
    return {f"{base}.weight._data": values, f"{base}.weight._scale": scale} | more


def plain_cast(base: str, weight: Tensor) -> dict[str, Tensor]:
    return {f"{base}.weight": weight.to(E4M3)}


LAYOUTS = {each.__name__: each for each in (comfy_fp8, comfy_quant, comfy_int8, lightx2v, quanto, plain_cast)}


def quantized(state: dict[str, Tensor], layout: str) -> dict[str, Tensor]:
    """A state dict with the blocks' linear weights in a layout."""
    made = {"scaled_fp8": torch.zeros(2, dtype=E4M3)} if layout == "comfy_fp8" else {}
    for name, tensor in state.items():
        made |= LAYOUTS[layout](name.removesuffix(".weight"), tensor) if is_linear(name, tensor) else {name: tensor.contiguous()}
    return made


def expected(values: dict[str, Tensor], base: str) -> Tensor:
    """Weight times scale, from the file's own tensors."""
    data = values.get(f"{base}.weight", values.get(f"{base}.weight._data"))
    scales = [values[f"{base}.{key}"] for key in ("scale_weight", "weight_scale", "weight._scale") if f"{base}.{key}" in values]
    return data.float() * (scales[0] if scales else 1.0)


def write_gguf(path: Path, state: dict[str, Tensor], kind: str = "Q8_0") -> Path:
    """A GGUF file as converters make it: matrices of blocks quantized, small tensors in F32, all else in F16."""
    writer = gguf.GGUFWriter(path, "wan")
    known = gguf.GGMLQuantizationType[kind]
    for name, tensor in state.items():
        fits = (is_linear(name, tensor) or name == "token_embedding.weight") and tensor.shape[1] % gguf.GGML_QUANT_SIZES[known][0] == 0
        if fits:
            writer.add_tensor(name, gguf.quants.quantize(tensor.float().numpy(), known), raw_dtype=known)
        else:
            writer.add_tensor(name, tensor.float().numpy().astype(np.float32 if tensor.ndim == 1 else np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A published toy folder, and the tensors of its parts."""
    folder = tmp_path_factory.mktemp("published") / "m"
    return folder, write_published_folder(folder)


def files_with(parts, **given: Path):
    folder, _ = parts
    return find_files(folder).override(**{name: (path,) if name == "dit" else path for name, path in given.items()})


@pytest.mark.parametrize("layout", LAYOUTS)
def test_scaled_weights_are_weight_times_scale_packed_or_unpacked(parts, tmp_path, layout):
    state = quantized(parts[1]["dit"], layout)
    save_file({f"model.diffusion_model.{name}": tensor for name, tensor in state.items()}, tmp_path / "dit.safetensors")
    dit = load_dit(read_weights([tmp_path / "dit.safetensors"]), dtype=None)
    layers = {name: layer for name, layer in dit.named_modules() if isinstance(layer, PackedLinear)}
    assert layers.keys() == {
        name for name, layer in dit.named_modules() if name.startswith("blocks.") and isinstance(layer, nn.Linear | PackedLinear)
    }
    for name, layer in layers.items():
        assert torch.equal(dense_weight(layer, FP32), expected(state, name)), name
    WeightPlan(device=CPU, dtype=torch.bfloat16, form="16bit").settle("blocks.0.", dit.blocks[0])
    dense = dit.blocks[0].ffn[0]
    assert type(dense) is nn.Linear and torch.equal(dense.weight, expected(state, "blocks.0.ffn.0").bfloat16())


def test_a_quantized_file_multiplies_in_8_bits_only_if_that_is_asked_for(parts, monkeypatch):
    monkeypatch.setattr(weight_plan, "has_products", lambda form, shape, scale_NB, device: True)
    found = {}
    for form in ("auto", "fp8"):
        dit = load_dit(join_scales(quantized(parts[1]["dit"], "comfy_fp8")), dtype=None)
        WeightPlan(device=CPU, dtype=FP32, form=form).settle("blocks.0.", dit.blocks[0])
        found[form] = dit.blocks[0].ffn[0]
    assert (found["auto"].products, found["fp8"].products) == (False, True)
    assert torch.equal(found["auto"].weight, found["fp8"].weight), "the file's own numbers"


@pytest.mark.parametrize("layout", ["comfy_fp8", "comfy_quant"])
def test_a_scaled_text_encoder_with_its_tokenizer_inside_needs_no_folder(parts, tmp_path, layout):
    state = quantized(parts[1]["text"], layout) | {"spiece_model": torch.from_numpy(np.frombuffer(spiece_model(), np.uint8).copy())}
    save_file(state, tmp_path / "umt5.safetensors")
    folder, _ = parts
    files = files_with(parts, text=tmp_path / "umt5.safetensors")
    files = type(files)(**vars(files) | {"tokenizer": None})
    assert files.missing() == []
    ids, mask = tokenizer_of(files, 16)("a person talks")
    count = int(mask.sum())
    assert ids[0, count - 1] == 1 and ids[0, count:].eq(0).all() and count > 3, "ends with the end token"
    packed, dense = (load_text(files.text, FP32, CPU, packed) for packed in (True, False))
    assert sum(isinstance(layer, PackedLinear) for layer in packed.modules()) == 2 * 7
    assert not any(isinstance(layer, PackedLinear) for layer in dense.modules())
    rows = packed(ids, mask)
    assert torch.equal(rows, dense(ids, mask))
    exact = load_text(folder / "models_t5_umt5-xxl-enc-bf16.pth", FP32, CPU)(ids, mask)
    assert 1e-4 < relative_error(rows, exact) < 0.2


def spiece_model(**more) -> bytes:
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    lines = ["a person is talking", "people talk and sing", "one person talks to another"]
    lines += [
        f"{stem}{end}" for stem in ("talk", "sing", "walk", "paint", "person") for end in ("", "ing", "er", "able", "ation", "al", "like")
    ]
    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    how = {"vocab_size": 30, "hard_vocab_limit": False, "minloglevel": 2, "num_threads": 1} | more
    SentencePieceTrainer.train(sentence_iterator=iter(lines * 5), model_writer=model, **how, **ids)
    return model.getvalue()


def test_an_engine_of_quantized_files_talks(parts, tmp_path):
    save_file(quantized(parts[1]["dit"], "comfy_fp8"), tmp_path / "dit.safetensors")
    text = write_gguf(tmp_path / "umt5.gguf", parts[1]["text"])
    engine = load_files(files_with(parts, dit=tmp_path / "dit.safetensors", text=text), CPU, FP32)
    assert talk(engine).shape[0] > 0
    assert isinstance(engine.models.text().token_embedding, PackedEmbedding)


def test_a_gguf_file_stays_packed_and_is_the_packages_numbers(parts, tmp_path):
    state = parts[1]["dit"]
    path = write_gguf(tmp_path / "dit.gguf", state)
    dit = load_dit(read_weights([path]), dtype=None)
    layers = {name: layer for name, layer in dit.named_modules() if isinstance(layer, PackedLinear)}
    assert len(layers) == 2 * 14 and {layer.form for layer in layers.values()} == {"Q8_0"}
    tensors = {entry.name: entry for entry in gguf.GGUFReader(path).tensors}
    for name, layer in layers.items():
        entry = tensors[f"{name}.weight"]
        assert np.array_equal(dense_weight(layer, FP32).numpy(), gguf.quants.dequantize(entry.data, entry.tensor_type)), name
    stored = sum(weight.nbytes for weight in dit.parameters())
    assert stored <= path.stat().st_size, "what is loaded is what the file has"


@pytest.mark.parametrize("form, memory", [("auto", "resident"), ("auto", "offload"), ("16bit", "resident")])
def test_loading_a_gguf_file_takes_at_most_the_file_and_one_block(tmp_path, form, memory):
    """The meta device stands for the GPU. The file is mapped, which takes no memory that others could not have."""
    config = replace(tiny().dit, dim=128, ffn_dim=512, num_heads=1, num_layers=24)
    with META:
        shapes = {name: weight.shape for name, weight in AudioDiT(config).state_dict().items()}
    path = write_gguf(tmp_path / "dit.gguf", {name: torch.zeros(shape) for name, shape in shapes.items()})
    size = path.stat().st_size
    block = sum(int(entry.n_bytes) for entry in gguf.GGUFReader(path).tensors if entry.name.startswith("blocks.0."))
    with LiveBytes() as host:
        dit = load_dit(read_weights([path]), dtype=None, num_heads=1, text_len=config.text_len)
        with LiveBytes("meta") as gpu:
            keep_dit(dit, memory, META, torch.float16, plan=WeightPlan(device=META, dtype=torch.float16, form=form))
    print(f"GGUF as {form}, {memory}: host {host.most / size:.3f}, GPU {gpu.most / size:.3f} of the file; a block is {block / size:.3f}")
    if memory == "offload":
        assert 0.5 * size < host.most <= size + block and gpu.most <= (NUM_SLOTS + 1) * block + (size - 24 * block)
    elif form == "auto":
        assert host.most <= block and 0.9 * size < gpu.most <= size + block
    else:
        assert gpu.most > size + block, "control"


@torch.no_grad()
def test_one_pass_with_q8_0_is_within_one_percent_on_the_golden_inputs(golden, tmp_path):
    known = Golden(golden)
    config, tensors = known.read("dit")
    exact = velocity(known.dit, tensors, tensors["in.timestep.0"])
    path = write_gguf(tmp_path / "dit.gguf", weights_in(tensors))
    dit = load_dit(read_weights([path]), dtype=None, num_heads=config["num_heads"], text_len=config["text_len"])
    assert any(isinstance(layer, PackedLinear) for layer in dit.modules())
    error = relative_error(velocity(dit.float(), tensors, tensors["in.timestep.0"]), exact)
    print(f"Q8_0: error {100 * error:.2f} %")
    assert 1e-4 < error < 0.01


def test_bfloat16_and_half_tensors_of_gguf_files_are_read_as_they_are(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "wan")
    values = torch.randn(4, 6).bfloat16()
    bf16 = gguf.GGMLQuantizationType.BF16
    writer.add_tensor("b", gguf.quants.quantize(values.float().numpy(), bf16), raw_dtype=bf16)
    writer.add_tensor("h", values.half().numpy())
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        write()
    found = read_gguf(tmp_path / "x.gguf")
    assert torch.equal(found["b"], values) and torch.equal(found["h"], values.half())


def without_scale(state):
    del state["blocks.0.ffn.0.scale_weight"]


def without_row_scale(state):
    del state["blocks.0.ffn.0.weight_scale"]


def wrong_scale(state):
    state["blocks.0.ffn.0.scale_weight"] = torch.ones(7)


def nan_scale(state):
    state["blocks.0.ffn.0.scale_weight"] = torch.full((1,), float("nan"))


def unknown_format(state):
    state["blocks.0.ffn.0.comfy_quant"] = torch.tensor(list(b'{"format": "nvfp4"}'), dtype=torch.uint8)


def rotated(state):
    state["blocks.0.ffn.0.comfy_quant"] = torch.tensor(list(b'{"format": "int8_tensorwise", "convrot": true}'), dtype=torch.uint8)


@pytest.mark.parametrize(
    "layout, damage, told",
    [
        ("comfy_fp8", without_scale, "blocks.0.ffn.0.weight is in 8 bits and its scale is missing"),
        ("lightx2v", without_row_scale, "blocks.0.ffn.0.weight is in 8 bits and its scale is missing"),
        ("comfy_fp8", wrong_scale, r"scale of blocks.0.ffn.0.weight is \[7\]"),
        ("comfy_fp8", nan_scale, "scale of blocks.0.ffn.0.weight is not finite"),
        ("comfy_quant", unknown_format, "blocks.0.ffn.0.comfy_quant says nvfp4, which cannot be read"),
        ("comfy_int8", rotated, "blocks.0.ffn.0.comfy_quant says rotated int8, which cannot be read"),
    ],
)
def test_a_damaged_quantized_file_is_refused_in_one_line(parts, tmp_path, layout, damage, told):
    state = quantized(parts[1]["dit"], layout)
    damage(state)
    save_file(state, tmp_path / "dit.safetensors")
    with pytest.raises(ValueError, match=told) as error:
        read_weights([tmp_path / "dit.safetensors"])
    assert str(error.value).startswith(f"{tmp_path / 'dit.safetensors'}: ") and "\n" not in str(error.value)


def test_formats_in_the_header_are_seen_too(tmp_path):
    told = {"layers": {"x": {"format": "int8_tensorwise", "convrot": True}}}
    tensors = {"x.weight": torch.zeros(4, 4, dtype=torch.int8), "x.weight_scale": torch.ones(4, 1)}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"_quantization_metadata": json.dumps(told)})
    with pytest.raises(ValueError, match="x.comfy_quant says rotated int8"):
        read_weights([tmp_path / "x.safetensors"])
    assert join_scales(tensors).keys() == {"x.weight"}, "control"


@pytest.mark.parametrize("keep", [4, 40, 400, -100])
def test_a_cut_gguf_file_is_refused_in_one_line(parts, tmp_path, keep):
    path = write_gguf(tmp_path / "dit.gguf", parts[1]["dit"])
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="is not a whole GGUF file.*; download it again$") as error:
        read_weights([path])
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_scales_of_blocks_of_a_row_are_kept(tmp_path):
    weight, scale = torch.randn(4, 8).to(E4M3), torch.rand(4, 2, 1)
    (packed,) = join_scales({"scaled_fp8": torch.zeros(0), "x.weight": weight, "x.scale_weight": scale}).values()
    assert torch.equal(packed.dense(FP32), weight.float() * scale[..., 0].repeat_interleave(4, 1))


def test_reading_as_stored_still_gives_the_files_own_tensors(tmp_path):
    save_file({"x.weight": torch.ones(2, 2).to(E4M3)}, tmp_path / "x.safetensors")
    assert read_tensors([tmp_path / "x.safetensors"])["x.weight"].dtype == E4M3


def with_nan(state):
    state["blocks.1.ffn.2.bias"][3] = float("nan")


def with_infinity(state):
    state["head.head.weight"][0, 0] = float("inf")


def with_8_bit_nan(state):
    state["blocks.0.ffn.0.weight"].view(torch.uint8)[2, 5] = 0x7F


def with_gguf_nan(state):
    state["blocks.1.ffn.0.weight"][3, 7] = float("nan")


@pytest.mark.parametrize(
    "layout, damage, name",
    [
        (None, with_nan, "blocks.1.ffn.2.bias"),
        (None, with_infinity, "head.head.weight"),
        ("comfy_fp8", with_nan, "blocks.1.ffn.2.bias"),
        ("comfy_fp8", with_8_bit_nan, "blocks.0.ffn.0.weight"),
        ("gguf", with_gguf_nan, "blocks.1.ffn.0.weight"),
    ],
)
@pytest.mark.parametrize("memory", ["resident", "offload"])
def test_numbers_that_are_not_finite_are_refused(parts, tmp_path, layout, damage, name, memory):
    state = {key: tensor.clone() for key, tensor in parts[1]["dit"].items()}
    state = state if layout in (None, "gguf") else quantized(state, layout)
    damage(state)
    path = tmp_path / ("dit.gguf" if layout == "gguf" else "dit.safetensors")
    write_gguf(path, state) if layout == "gguf" else save_file(state, path)
    with pytest.raises(ValueError, match=f"^{path.name}: {name} has numbers that are not finite; download the file again"):
        load_files(files_with(parts, dit=path), CPU, FP32, memory)


@pytest.mark.parametrize("part", ["vae", "audio", "image", "text"])
def test_numbers_of_other_parts_that_are_not_finite_are_refused(parts, tmp_path, part):
    state = {key: tensor.clone() for key, tensor in parts[1][part].items()}
    key = next(key for key, tensor in state.items() if tensor.ndim > 1 and "pos" not in key)
    state[key].view(-1)[-1] = float("nan")
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="^x.safetensors: .* has numbers that are not finite; download the file again"):
        engine = load_files(files_with(parts, **{part: tmp_path / "x.safetensors"}), CPU, FP32)
        engine.models.text(), engine.models.image()


@pytest.mark.parametrize("kind", gguf_blocks.BLOCKS)
def test_a_scale_that_is_not_finite_is_seen_in_every_gguf_type(kind):
    size, num_bytes = gguf_blocks.BLOCKS[kind]
    rows = torch.zeros(2, 3 * num_bytes, dtype=torch.uint8)
    assert gguf_blocks.scales_finite(kind, rows.view(torch.int8))
    start, stop = gguf_blocks.SCALES[kind]
    for first in range(num_bytes + start, num_bytes + stop, 2):
        bad = rows.clone()
        bad[1, first : first + 2] = torch.tensor([0, 0x7C], dtype=torch.uint8)  # infinity
        assert not torch.isfinite(gguf_blocks.unpack_blocks(kind, bad.view(torch.int8))).all()
        assert not gguf_blocks.scales_finite(kind, bad.view(torch.int8))


CUT = """
import sys, os, pathlib, torch
from livetalk_core.engine import load, weight_plan
from livetalk_core.engine.files import find_files
folder, part, path, memory, form = sys.argv[1:]
settle, calls = weight_plan.WeightPlan.settle, []
def cut(self, prefix, module):
    calls.append(prefix)
    if prefix == "blocks.0.":
        os.truncate(path, 512)
    return settle(self, prefix, module)
weight_plan.WeightPlan.settle = cut
files = find_files(pathlib.Path(folder)).override(dit=(pathlib.Path(path),))
plan = weight_plan.WeightPlan(device=torch.device("cpu"), dtype=torch.float16, form=form)
try:
    load.load_files(files, torch.device("cpu"), torch.float16, memory, plan=plan)
except ValueError as error:
    print(error)
"""


@pytest.mark.parametrize(
    "kind, memory, form",
    [
        ("gguf", "offload", "auto"),
        pytest.param("safetensors", "resident", "int8", marks=pytest.mark.slow),
        pytest.param("safetensors", "offload", "16bit", marks=pytest.mark.slow),
    ],
)
def test_a_file_that_is_cut_while_it_is_read_is_an_error_and_ends_no_process(parts, tmp_path, kind, memory, form):
    path = tmp_path / f"dit.{kind}"
    save_file(parts[1]["dit"], path) if kind == "safetensors" else write_gguf(path, parts[1]["dit"])
    given = [sys.executable, "-c", CUT, str(parts[0]), "dit", str(path), memory, form]
    done = subprocess.run(given, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, (done.returncode, done.stderr[-500:])
    assert done.stdout.strip() == f"{path} changed while it was read; wait until it is written, and load it again"


def write_gguf_umt5(path: Path, state: dict[str, Tensor], spiece: bytes) -> Path:
    """umT5 in GGUF as llama.cpp's converter makes it: its own names, and the tokenizer piece by piece."""
    processor = SentencePieceProcessor(model_proto=spiece)
    pieces = range(processor.vocab_size())
    kinds = [2 if processor.IsUnknown(i) else 3 if processor.IsControl(i) else 6 if processor.IsByte(i) else 1 for i in pieces]
    writer = gguf.GGUFWriter(path, "t5")
    writer.add_tokenizer_model("t5")
    writer.add_token_list([processor.IdToPiece(i) for i in pieces])
    writer.add_token_scores([processor.GetScore(i) for i in pieces])
    writer.add_token_types(kinds)
    writer.add_add_space_prefix(True)
    writer.add_remove_extra_whitespaces(True)
    writer.add_precompiled_charsmap(charsmap_of(spiece))
    writer.add_eos_token_id(processor.eos_id())
    writer.add_unk_token_id(processor.unk_id())
    writer.add_pad_token_id(processor.pad_id())
    for name, tensor in state.items():
        writer.add_tensor(name, tensor.float().numpy())
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        write()
    return path


def charsmap_of(spiece: bytes) -> bytes:
    """The longest field of the model's last message, which is its normalization table."""
    return max(fields_of(fields_of(spiece, 3)[0], 2), key=len)


def fields_of(content: bytes, wanted: int) -> list[bytes]:
    """The fields of this number in a protobuf message that are messages or bytes."""
    found, at = [], 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = content[at]
            at += 1
            value, shift = value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value

    while at < len(content):
        tag = varint()
        if tag & 7 == 2:
            length = varint()
            found += [content[at : at + length]] if tag >> 3 == wanted else []
            at += length
        elif tag & 7 == 0:
            varint()
        else:
            at += {5: 4, 1: 8}[tag & 7]
    return found


TEXTS = (
    "a person talks",
    "Two  people\tsing &amp; dance",
    "x² ① ½ ㌔ are normalized",
    "naïve café — “quotes” 你好",
    "",
    "talking" * 9,
    "personation is singable",
)


def test_the_tokenizer_inside_a_gguf_umt5_gives_the_tokens_of_its_sentencepiece_model(parts, tmp_path):
    spiece = spiece_model(byte_fallback=True, vocab_size=330)
    path = write_gguf_umt5(tmp_path / "umt5.gguf", parts[1]["text"], spiece)
    files = files_with(parts, text=path)
    files = type(files)(**vars(files) | {"tokenizer": None})
    assert files.missing() == [] and what_is(path).preferred
    ours, theirs = tokenizer_of(files, 64), sentencepiece_tokenizer(spiece, 64)
    for text in TEXTS:
        for a, b in zip(ours(text), theirs(text), strict=True):
            assert torch.equal(a, b), text
    assert len({tuple(ours(text)[0][0].tolist()) for text in TEXTS}) == len(TEXTS), "control"
    made, known = (SentencePieceProcessor(model_proto=model) for model in (spiece_in_gguf(path), spiece))
    scores = [[each.GetScore(i) for i in range(each.vocab_size())] for each in (made, known)]
    assert scores[0] == scores[1] and len({*scores[0]}) > 9, "texts as short as these hardly need them"
    plain = write_gguf(tmp_path / "plain.gguf", parts[1]["text"])
    files = type(files)(**vars(files) | {"text": plain})
    assert files.missing() == ["tokenizer"] and not what_is(plain).preferred


@pytest.mark.parametrize("when", ["keep_dit", "check_finite"])
def test_a_file_that_changes_while_it_is_read_is_refused(parts, tmp_path, monkeypatch, when):
    """While the weights are moved, or after the last of them was read."""
    path = tmp_path / "dit.safetensors"
    save_file(parts[1]["dit"], path)
    loaded = []

    def change(dit, *given, **more):
        loaded.append(weakref.ref(dit))
        os.utime(path, ns=(1, 1))

    monkeypatch.setattr(f"livetalk_core.engine.load.{when}", change)
    with pytest.raises(ValueError, match="dit.safetensors changed while it was read; wait until it is written, and load it again$"):
        load_files(files_with(parts, dit=path), CPU, FP32)
    gc.collect()
    assert loaded[0]() is None, "nothing that is half loaded stays"
