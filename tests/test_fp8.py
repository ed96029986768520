"""8-bit linear layers against a plain reference, and what is refused."""

from dataclasses import replace

import pytest
import torch

from livetalk_core.models.dit import AudioDiT
from livetalk_core.models.fp8 import LARGEST, Fp8Linear, require_fp8, scale_rows, use_fp8
from livetalk_core.presets import tiny

CPU = torch.device("cpu")


def make_dit(**sizes) -> AudioDiT:
    torch.manual_seed(0)
    return AudioDiT(replace(tiny().dit, **sizes)).eval().requires_grad_(False)


def test_a_product_is_that_of_the_rounded_rows_and_weights():
    torch.manual_seed(0)
    linear, x = torch.nn.Linear(32, 48), torch.randn(2, 5, 32)
    layer = Fp8Linear(linear)
    (rows, row_scale), (weight, weight_scale) = scale_rows(x.flatten(0, 1)), scale_rows(linear.weight.detach())
    plain = (rows.float() * row_scale) @ (weight.float() * weight_scale).t() + linear.bias
    assert torch.allclose(layer(x).flatten(0, 1), plain, atol=1e-5)
    error = ((layer(x) - linear(x)).norm() / linear(x).norm()).item()
    assert 0.005 < error < 0.06, "3 bits of mantissa: near, and not exact"


def test_every_row_has_its_own_scale_so_an_outlier_spoils_only_its_row():
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    x[0, 0] = 1e7
    rows, scale = scale_rows(x)
    assert rows.float().abs().amax(1).tolist() == [LARGEST] * 4
    error = (rows.float() * scale - x).abs().amax(1) / x[:, 1:].abs().amax(1)
    assert error[1:].max() < 1 / 16 and error[0] > 0.5
    assert scale_rows(torch.zeros(1, 16))[0].float().eq(0).all(), "a row of zeros stays one"


def test_only_the_large_layers_of_every_step_are_in_8_bits():
    dit = make_dit()
    use_fp8(dit)
    formats = {name: value.dtype for name, value in dit.blocks[0].state_dict().items() if name.endswith("weight") and value.ndim == 2}
    small = {name.removesuffix(".weight") for name, dtype in formats.items() if dtype == torch.float8_e4m3fn}
    assert small == {*(f"self_attn.{n}" for n in "qkvo"), "cross_attn.q", "cross_attn.o", "ffn.0", "ffn.2"}
    assert dit.head.head.weight.dtype == torch.float32


def test_unsupported_widths_and_weights_on_another_device_are_refused():
    with pytest.raises(ValueError, match=r"multiples of 16, but a weight is \(100, 64\)"):
        require_fp8(make_dit(ffn_dim=100), CPU)
    with torch.device("meta"):
        away = AudioDiT(tiny().dit)
    with pytest.raises(ValueError, match="block 0 is in host memory"):
        require_fp8(away, CPU)
