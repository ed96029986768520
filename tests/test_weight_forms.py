"""8-bit weights made while loading: error, memory, products, and the bytes that travel."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from live_bytes import LiveBytes
from safetensors.torch import save_file
from test_offload import talk
from test_parallel_dit import UNEVEN, inputs
from torch import Tensor, nn

from livetalk_core.checks.errors import relative_error
from livetalk_core.checks.parity import (
    Golden,
    Recorder,
    recorded_noise,
    stream_plan,
    stream_windows,
    velocity,
)
from livetalk_core.engine import weight_plan
from livetalk_core.engine.assemble import keep_dit
from livetalk_core.engine.denoiser import DiTDenoiser
from livetalk_core.engine.load import load_engine
from livetalk_core.engine.weight_plan import WeightPlan, pack, settle_whole
from livetalk_core.models.dit import AudioDiT, Block
from livetalk_core.models.dit_config import DiTConfig
from livetalk_core.models.eight_bits import LARGEST, multiply, round_rows
from livetalk_core.models.packed import PackedLinear
from livetalk_core.models.weights import load_dit, read_tensors
from livetalk_core.parallel.copier import BlockingCopier
from livetalk_core.parallel.offload import PackedBlock
from livetalk_core.presets import tiny
from livetalk_core.stream.condition import encode_condition, first_latent
from livetalk_core.stream.flow import flow_times
from livetalk_core.types import Reference, StreamSettings

CPU, FP32, META = torch.device("cpu"), torch.float32, torch.device("meta")
FORMS = ("int8", "fp8")


def plan(form: str, dtype: torch.dtype = FP32, device: torch.device = CPU) -> WeightPlan:
    return WeightPlan(device=device, dtype=dtype, form=form)


def small_dit(seed: int = 0) -> AudioDiT:
    torch.manual_seed(seed)
    return AudioDiT(tiny().dit).eval().requires_grad_(False)


def packed_layers(module: nn.Module) -> dict[str, PackedLinear]:
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, PackedLinear)}


@torch.no_grad()
def velocities(golden: Golden) -> Tensor:
    """The DiT's velocities on the golden inputs, at all their noise levels."""
    _, tensors = golden.read("dit")
    return torch.stack([velocity(golden.dit, tensors, tensors[name]) for name in sorted(tensors) if name.startswith("in.timestep")])


@pytest.mark.parametrize("form, products, limit", [("int8", False, 0.01), ("fp8", False, 0.03), ("int8", True, 0.01), ("fp8", True, 0.03)])
def test_one_pass_on_the_golden_inputs_is_near_the_exact_one(golden, form, products, limit, monkeypatch):
    """`products`: tokens are rounded to 8 bits as well, as on a GPU."""
    known = Golden(golden)
    exact = velocities(known)
    if products:
        monkeypatch.setattr(weight_plan, "has_products", lambda form, shape, scale_NB, device: all(side % 16 == 0 for side in shape))
    settle_whole(known.dit, plan(form))
    assert any(layer.products for layer in packed_layers(known.dit).values()) == products
    error = relative_error(velocities(known), exact)
    print(f"{form}, products in 8 bits: {products}, error {100 * error:.2f} %")
    assert 1e-3 < error < limit


@torch.no_grad()
def first_chunk(known: Golden) -> tuple[Tensor, Tensor]:
    """Latents and frames [3, T, H, W] of the recorded stream's first chunk, with its sound and noise."""
    config, tensors = known.read("stream")
    plan, times = stream_plan(known, config, tensors), flow_times(config["steps"], config["shift"])
    pixels_CHW = tensors["in.reference"][0, :, 0]
    condition = encode_condition(known.vae, pixels_CHW, plan)
    parts = {"text_LD": tensors["in.text"], "image_LD": tensors["in.clip"][0], "cond_CTHW": condition, "pixels_CHW": pixels_CHW}
    reference = Reference(**parts, first_CTHW=first_latent(condition, plan))
    settings = StreamSettings(steps=config["steps"], shift=config["shift"], last_noise=1.0, color_strength=0.0)
    noise = recorded_noise(tensors, config["steps"])
    recorder = Recorder(plan, DiTDenoiser(known.dit, times[:-1]), known.served_vae, reference, settings, noise)
    list(recorder.step(next(stream_windows(known, plan, tensors))))
    return recorder.latents_CTHW, torch.cat(recorder.pieces, dim=1)


@pytest.mark.parametrize("form, limit", [("int8", 0.02), ("fp8", 0.08)])
def test_the_first_chunk_on_the_golden_inputs_is_near_the_exact_one(golden, form, limit):
    known = Golden(golden)
    exact = first_chunk(known)
    settle_whole(known.dit, plan(form))
    found = first_chunk(known)
    error = relative_error(found[0], exact[0])
    psnr = -10 * ((found[1] - exact[1]) / 2).square().mean().log10()
    print(f"{form}: first chunk, latents {100 * error:.2f} %, frames {psnr:.1f} dB")
    assert 1e-3 < error < limit and psnr > 30


@pytest.mark.parametrize("form, limit", [("int8", 0.012), ("fp8", 0.06)])
def test_a_product_is_that_of_the_rounded_rows_and_weights(form, limit):
    torch.manual_seed(0)
    weight, x = torch.randn(48, 32), torch.randn(2, 20, 32)
    packed, (rows, scale) = pack(form, weight), round_rows(form, x.flatten(0, 1))
    plain = (rows.float() * scale) @ packed.dense(FP32).t()
    found = multiply(form, x, packed.rows, packed.scale_NB)
    assert torch.allclose(found.flatten(0, 1), plain, atol=1e-4)
    assert 0.001 < relative_error(found, x @ weight.t()) < limit
    few = multiply(form, x[:, :2], packed.rows, packed.scale_NB)
    assert few.shape == (2, 2, 48) and relative_error(few, x[:, :2] @ weight.t()) < limit


@pytest.mark.parametrize("form", FORMS)
def test_every_row_has_its_own_scale_so_an_outlier_spoils_only_its_row(form):
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    x[0, 0] = 1e7
    rows, scale = round_rows(form, x)
    assert rows.float().abs().amax(1).tolist() == [LARGEST[form]] * 4
    error = (rows.float() * scale - x).abs().amax(1) / x[:, 1:].abs().amax(1)
    assert error[1:].max() < 1 / 16 and error[0] > 0.5
    assert round_rows(form, torch.zeros(1, 16))[0].float().eq(0).all(), "a row of zeros stays one"


def test_all_linear_layers_of_blocks_are_packed_and_nothing_else_and_16bit_undoes_it():
    dit, plain = small_dit(), small_dit()
    settle_whole(dit, plan("int8"))
    linear = {name for name, layer in plain.named_modules() if isinstance(layer, nn.Linear)}
    assert packed_layers(dit).keys() == {name for name in linear if name.startswith("blocks.")}
    assert {name for name in dit.state_dict() if not name.endswith("weight_scale")} == plain.state_dict().keys()
    assert all(layer.weight.dtype == torch.int8 for layer in packed_layers(dit.bfloat16()).values()), "a cast leaves them as they are"
    settle_whole(dit, plan("16bit"))
    assert not packed_layers(dit) and dit.state_dict().keys() == plain.state_dict().keys()
    error = relative_error(dit.blocks[0].ffn[0].weight, plain.blocks[0].ffn[0].weight)
    assert 0 < error < 0.01


@pytest.mark.parametrize("form, memory", [("int8", "resident"), ("fp8", "offload")])
def test_loading_takes_little_more_than_a_byte_a_weight(tmp_path, form, memory, monkeypatch):
    """At most 1.15 bytes a weight, one weight in 16 bits, and for a moment what rounding a few rows takes."""
    monkeypatch.setattr(weight_plan, "PIECE", 1 << 12)
    config = replace(tiny().dit, dim=128, ffn_dim=512, num_heads=2, num_layers=32)  # on a CPU the two slots count as well
    with torch.device("meta"):
        shapes = {name: weight.shape for name, weight in AudioDiT(config).state_dict().items()}
    save_file({name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}, tmp_path / "dit.safetensors")
    mapped = read_tensors([tmp_path / "dit.safetensors"])
    count = sum(tensor.numel() for tensor in mapped.values())
    largest = max(shape.numel() for name, shape in shapes.items() if name.startswith("blocks."))
    peaks = {}
    for kind in (form, "16bit"):
        dit = load_dit(mapped, dtype=None, num_heads=config.num_heads, text_len=config.text_len)
        with LiveBytes() as live:
            keep_dit(dit, memory, CPU, torch.float16, plan=plan(kind, torch.float16))  # not the file's own, so every weight is cast
        peaks[kind] = live.most
    allowed = 1.15 * count + 2 * largest + 16 * weight_plan.PIECE
    print(f"{form}, {memory}: {peaks[form] / count:.3f} bytes a weight at most, {peaks['16bit'] / count:.3f} in 16 bits")
    assert count < peaks[form] < allowed, (peaks[form] / count, allowed / count)
    assert peaks["16bit"] > allowed, "control"


@torch.no_grad()
def test_offloaded_8_bit_blocks_give_the_resident_ones_results():
    resident, offloaded = small_dit(), small_dit()
    for dit, memory in ((resident, "resident"), (offloaded, "offload")):
        keep_dit(dit, memory, CPU, FP32, plan=plan("fp8"))
    made = [inputs(dit, UNEVEN, 1) for dit in (resident, offloaded)]
    assert torch.equal(resident(*made[0]), offloaded(*made[1]))
    absorbed = [dit.absorb_audio(each[4]) for dit, each in zip((resident, offloaded), made, strict=True)]
    assert torch.equal(resident(*made[0][:4], absorbed[0], None), offloaded(*made[1][:4], absorbed[1], None))


class ShapesOnly(BlockingCopier):
    """Host memory on the meta device too."""

    host_memory = BlockingCopier.device_memory


@pytest.mark.parametrize("form", FORMS)
def test_8_bit_blocks_of_the_14b_model_travel_as_half_the_bytes_of_16_bit_ones(form):
    """Bytes of one block's copy in every step, counted with shapes alone."""
    counted = {}
    for kind in ("16bit", form):
        with META:
            block = Block(DiTConfig())
        plan(kind, torch.bfloat16, META).settle("blocks.0.", block)
        packed = PackedBlock.pack(block, META, torch.bfloat16, ShapesOnly(META))
        span = packed.range_of("absorbed")
        counted[kind] = span.stop - span.start
    assert counted["16bit"] == pytest.approx(598e6, rel=0.01)
    assert 0.5 < counted[form] / counted["16bit"] < 0.502


@torch.no_grad()
def test_a_compiled_block_with_packed_weights_gives_the_eager_results():
    dit = small_dit()
    settle_whole(dit, plan("int8"))
    made = inputs(dit, UNEVEN, 1)
    eager = dit(*made)
    torch._dynamo.reset()
    for block in dit.blocks:
        block.compile(dynamic=False, fullgraph=True, backend="eager")
    assert torch.allclose(dit(*made), eager, atol=1e-6)
    torch._dynamo.reset()


def test_an_engine_with_8_bit_weights_talks_nearly_the_same(engine):
    eight = load_engine("tiny", "cpu", weights="int8")
    assert len(packed_layers(eight.models.dit)) > 0 and eight.models.dit.head.head.weight.dtype == FP32
    apart = (talk(eight).float() - talk(engine).float()).abs().mean()
    assert 0 < apart < 3, "of 255"
