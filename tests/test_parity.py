"""The published system's numbers, and that the check can fail."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from livetalk_core.checks.errors import max_error, relative_error
from livetalk_core.checks.parity import LIMITS, SAMPLERS, run_parity
from livetalk_core.cli.main import main


def test_every_golden_tensor_is_met_within_its_limit(golden):
    results = list(run_parity(golden))
    assert {result.file for result in results} == set(LIMITS) - set(SAMPLERS)
    assert [f"{r.file} {r.what}: {r.error:.1e} > {r.limit:.0e}" for r in results if not r.passed] == []
    assert sum(r.file == "stream" and "last frame" in r.what for r in results) == 3


def rewritten(source, target, change):
    with safe_open(source, "pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    change(tensors)
    save_file(tensors, target, metadata)


@pytest.mark.parametrize(
    "name, tensor, amount",
    [
        ("dit", "weights.blocks.1.self_attn.v.weight", 1e-3),
        ("vae", "weights.decoder.conv1.weight", 1e-2),
        ("color", "out.strength_0.4", 1e-3),
        ("umt5", "weights.blocks.0.ffn.fc1.weight", 1e-3),
        ("clip", "weights.visual.transformer.1.attn.to_qkv.weight", 1e-3),
        ("wav2vec", "weights.encoder.layers.1.attention.v_proj.bias", 1e-3),
    ],
)
def test_a_changed_number_fails_the_check_and_the_command(golden, tmp_path, capsys, name, tensor, amount):
    def shift(tensors):
        tensors[tensor] = tensors[tensor] + amount

    rewritten(golden / f"{name}.safetensors", tmp_path / f"{name}.safetensors", shift)
    assert main(["parity", "--golden", str(tmp_path), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert not report["passed"] and any(not row["passed"] for row in report["results"])


def test_a_stream_that_noises_another_way_fails(golden, tmp_path, capsys):
    for name in ("dit", "vae", "wav2vec"):
        shutil.copy(golden / f"{name}.safetensors", tmp_path)

    def swap(tensors):
        tensors["in.noise.1.0"], tensors["in.noise.1.1"] = tensors["in.noise.1.1"].clone(), tensors["in.noise.1.0"].clone()

    rewritten(golden / "stream.safetensors", tmp_path / "stream.safetensors", swap)
    assert main(["parity", "--golden", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any("chunk 0 last frame" in line and "pass" in line for line in lines)
    assert any("chunk 1 last frame" in line and "FAIL" in line for line in lines)


def test_the_command_prints_a_row_a_tensor_and_succeeds(golden, capsys):
    assert main(["parity", "--golden", str(golden)]) == 0
    out = capsys.readouterr().out
    assert "stream             chunk 2 last frame" in out and out.splitlines()[-1].endswith(" 0 failed")


@pytest.mark.parametrize("files, message", [((), "has no .safetensors"), (("other",), "has no check"), (("stream",), "is missing")])
def test_a_folder_that_is_no_golden_folder_is_refused(golden, tmp_path, capsys, files, message):
    for name in files:
        shutil.copy(golden / "stream.safetensors", tmp_path / f"{name}.safetensors")
    assert main(["parity", "--golden", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_errors_count_shapes_and_nan_as_infinite():
    assert max_error(torch.zeros(2), torch.zeros(3)) == float("inf")
    assert max_error(torch.tensor([float("nan")]), torch.zeros(1)) == float("inf")
    assert max_error(torch.tensor([1.0, 2.5]), torch.tensor([1.0, 2.0])) == 0.5


def test_weights_in_bfloat16_stay_near_and_another_order_of_noise_does_not(golden, tmp_path):
    results = list(run_parity(golden, dtype=torch.bfloat16))
    assert [f"{r.file} {r.what}: {r.error:.1e} > {r.limit:.0e}" for r in results if not r.passed] == []
    assert max(r.error for r in results if r.file == "dit") > 1e-3, "control: bfloat16 does round"
    for name in ("dit", "vae", "wav2vec"):
        shutil.copy(golden / f"{name}.safetensors", tmp_path)

    def swap(tensors):
        tensors["in.noise.1.0"], tensors["in.noise.1.1"] = tensors["in.noise.1.1"].clone(), tensors["in.noise.1.0"].clone()

    rewritten(golden / "stream.safetensors", tmp_path / "stream.safetensors", swap)
    failed = {r.what for r in run_parity(tmp_path, dtype=torch.bfloat16) if not r.passed}
    assert "chunk 1 frames" in failed
    assert relative_error(torch.ones(2), torch.tensor([1.0, float("nan")])) == relative_error(torch.ones(2), torch.ones(3)) == float("inf")
