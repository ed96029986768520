"""What a checkpoint file is, by what it holds; a wrong file in a wrong place gets one line that says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from made import write_published_folder, write_small_folder
from safetensors.torch import save_file
from test_quantized_files import quantized, write_gguf

from livetalk_core.cli.main import main
from livetalk_core.engine.files import find_files
from livetalk_core.engine.load import load_engine, load_files
from livetalk_core.engine.sniff import what_is

CPU, FP32 = torch.device("cpu"), torch.float32


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> dict[str, Path]:
    """One file of each kind, all named x, so that only what they hold can tell them apart."""
    folder = tmp_path_factory.mktemp("zoo")
    parts = write_published_folder(folder / "m")
    dit, audio = parts["dit"], {name for name in parts["dit"] if "audio" in name or "norm_x" in name}
    made = {
        "dit": dit,
        "base": {name: tensor for name, tensor in dit.items() if name not in audio},
        "patch": {name: tensor for name, tensor in dit.items() if name in audio},
        "t2v": {name: tensor for name, tensor in dit.items() if name not in audio and "img" not in name},
        "scaled": {f"model.diffusion_model.{name}": tensor for name, tensor in quantized(dit, "comfy_fp8").items()},
        "lora": {f"diffusion_model.blocks.0.ffn.0.lora_{half}.weight": torch.ones(4, 128) for half in ("down", "up")},
        "vae": parts["vae"],
        "text": parts["text"],
        "image": parts["image"],
        "audio": parts["audio"],
        "large audio": {"wav2vec2.encoder.layer_norm.bias": torch.ones(1024)},
        "vae of 48": {"decoder.middle.0.residual.0.gamma": torch.ones(3), "conv2.weight": torch.ones(48, 48, 1, 1, 1)},
        "other": {"some.weight": torch.ones(3, 3)},
    }
    paths = {}
    for name, state in made.items():
        (folder / name).mkdir()
        paths[name] = folder / name / "x.safetensors"
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, paths[name])
    paths["gguf"] = write_gguf(folder / "x.gguf", dit)
    paths["pickled vae"] = folder / "m" / "Wan2.1_VAE.pth"
    paths["small vae"] = write_small_folder(folder / "small") / "vae.safetensors"
    return paths


@pytest.mark.parametrize(
    "name, part, told",
    [
        ("dit", "dit", "a DiT that talks: Wan 2.1 I2V with audio (128 wide) (F32)"),
        ("base", "dit", "a Wan 2.1 I2V base (128 wide), which needs an audio patch to talk (F32)"),
        ("patch", "patch", "an audio patch (InfiniteTalk or MultiTalk) for a Wan 2.1 I2V base (F32)"),
        ("t2v", "none", "a Wan DiT without a picture input (128 wide): Wan 2.1 text-to-video or Wan 2.2 (F32)"),
        ("scaled", "dit", "a DiT that talks: Wan 2.1 I2V with audio (128 wide) (scaled F8_E4M3)"),
        ("gguf", "dit", "a DiT that talks: Wan 2.1 I2V with audio (128 wide) (GGUF Q8_0)"),
        ("lora", "lora", "a LoRA of rank 4 for 1 layers, most of them 128 wide (F32)"),
        ("vae", "vae", "the Wan 2.1 VAE (F32)"),
        ("pickled vae", "vae", "the Wan 2.1 VAE (float32)"),
        ("small vae", "vae", "the VAE of a small model such as nano (F32)"),
        ("vae of 48", "none", "a VAE of 48 channels, as of Wan 2.2; Wan 2.1's has 16 (F32)"),
        ("text", "text", "a umT5 text encoder (F32)"),
        ("image", "image", "a CLIP vision encoder (F32)"),
        ("audio", "audio", "a wav2vec2 audio encoder (64 wide) (F32)"),
        ("large audio", "none", "a large wav2vec2 (1024 wide); the models hear with chinese-wav2vec2-base (768 wide) (F32)"),
        ("other", "none", "no file of a kind that is known here (some.weight) (F32)"),
    ],
)
def test_each_kind_is_known_by_its_tensors(zoo, name, part, told):
    kind = what_is(zoo[name])
    assert (kind.part, kind.told) == (part, told)


def test_doctor_says_what_files_are_and_which_cannot_be_used(zoo, tmp_path, capsys):
    assert main(["doctor", str(zoo["patch"]), str(zoo["lora"])]) == 0
    shown = capsys.readouterr().out
    assert "ok   x.safetensors" in shown and "choose it as a LoRA (models/loras)" in shown and "after a Wan 2.1 I2V base" in shown
    (tmp_path / "cut.safetensors").write_bytes(zoo["dit"].read_bytes()[:100])
    assert main(["doctor", str(tmp_path / "cut.safetensors"), str(tmp_path / "gone"), str(zoo["large audio"])]) == 1
    shown = capsys.readouterr().out
    assert "cut.safetensors is not a whole safetensors file" in shown and "gone is missing" in shown and "LiveTalk cannot use it" in shown


@pytest.mark.parametrize(
    "part, name, told",
    [
        ("dit", "patch", "x.safetensors is an audio patch .*; choose it as the audio patch, after a Wan 2.1 I2V base"),
        ("dit", "lora", r"x.safetensors is a LoRA of rank 4 .*; choose it as a LoRA \(models/loras\)"),
        ("dit", "vae", r"x.safetensors is the Wan 2.1 VAE; choose it as the VAE \(models/vae\)"),
        ("dit", "t2v", "x.safetensors is a Wan DiT without a picture input .*; LiveTalk cannot use it"),
        ("audio", "large audio", "is a large wav2vec2 .*; LiveTalk cannot use it. Here chinese-wav2vec2-base is needed"),
        ("vae", "vae of 48", "is a VAE of 48 channels.* Here the Wan 2.1 VAE is needed"),
        ("text", "image", "is a CLIP vision encoder; choose it as the CLIP vision encoder .* Here the umT5-xxl encoder is needed"),
        ("image", "dit", "is a DiT that talks.*; choose it as the model"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line_that_says_what_it_is(zoo, part, name, told, published):
    files = find_files(published).override(**{part: (zoo[name],) if part == "dit" else zoo[name]})
    with pytest.raises(ValueError, match=told) as error:
        load_files(files, CPU, FP32)
    assert "\n" not in str(error.value)


def test_right_files_pass_alone_in_shards_and_as_base_and_patch(zoo, published):
    for files in ((zoo["dit"],), (zoo["base"], zoo["patch"]), (zoo["gguf"],)):
        assert load_files(find_files(published).override(dit=files), CPU, FP32).models.dit.config.dim == 128
    assert len(find_files(published).dit) > 1 and load_engine(published, "cpu").models.dit.config.dim == 128
    with pytest.raises(ValueError, match="Wan 2.1 I2V without audio"):
        load_files(find_files(published).override(dit=(zoo["base"],)), CPU, FP32)
