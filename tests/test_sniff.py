"""What a checkpoint file is, by what it holds; a wrong file in a wrong place gets one line that says so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from made import write_published_folder, write_small_folder
from safetensors.torch import load_file, save_file
from test_quantized_files import quantized, write_gguf

from livetalk_core.cli.main import main
from livetalk_core.engine.files import find_files
from livetalk_core.engine.load import load_engine, load_files
from livetalk_core.engine.sniff import what_is
from livetalk_core.models.headers import read_headers, strip_prefix
from livetalk_core.models.weights import read_weights

CPU, FP32 = torch.device("cpu"), torch.float32


def told(kind: str, **more) -> dict[str, torch.Tensor]:
    """What ComfyUI's files say beside a layer."""
    return {"blocks.0.ffn.0.comfy_quant": torch.tensor(list(json.dumps({"format": kind} | more).encode()), dtype=torch.uint8)}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> dict[str, Path]:
    """One file of each kind, all named x, so that only what they hold can tell them apart."""
    folder = tmp_path_factory.mktemp("zoo")
    parts = write_published_folder(folder / "m")
    dit, audio = parts["dit"], {name for name in parts["dit"] if "audio" in name or "norm_x" in name}
    base = {name: tensor for name, tensor in dit.items() if name not in audio}
    made = {
        "dit": dit,
        "base": base,
        "patch": {name: tensor for name, tensor in dit.items() if name in audio},
        "t2v": {name: tensor for name, tensor in dit.items() if name not in audio and "img" not in name},
        "scaled": {f"model.diffusion_model.{name}": tensor for name, tensor in quantized(dit, "comfy_fp8").items()},
        "lora": {f"diffusion_model.blocks.0.ffn.0.lora_{half}.weight": torch.ones(4, 128) for half in ("down", "up")},
        "vae": parts["vae"],
        "text": parts["text"],
        "image": parts["image"],
        "audio": parts["audio"],
        "large audio": {
            "wav2vec2.encoder.layer_norm.bias": torch.ones(1024),
            "wav2vec2.feature_extractor.conv_layers.0.conv.weight": torch.ones(1),
        },
        "english audio": parts["audio"] | {"lm_head.weight": torch.ones(32, 64)},
        "t5": {name: tensor for name, tensor in parts["text"].items() if "blocks.1.pos_embedding" not in name},
        "control": base | {"patch_embedding.weight": torch.ones(128, 48, 1, 2, 2)},
        "nvfp4": base | told("nvfp4"),
        "mxfp8": base | told("mxfp8"),
        "rotated": base | told("int8_tensorwise", convrot=True),
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
        ("base", "base", "a Wan 2.1 I2V base (128 wide), which needs an audio patch to talk (F32)"),
        ("patch", "patch", "an audio patch (InfiniteTalk or MultiTalk) for a Wan 2.1 I2V base (F32)"),
        ("t2v", "none", "a Wan DiT without a picture input (128 wide): Wan 2.1 text-to-video or Wan 2.2 (F32)"),
        ("scaled", "dit", "a DiT that talks: Wan 2.1 I2V with audio (128 wide) (scaled F8_E4M3)"),
        ("gguf", "dit", "a DiT that talks: Wan 2.1 I2V with audio (128 wide) (GGUF Q8_0)"),
        ("lora", "lora", "a LoRA of rank 4 for 1 layers, most of them 128 wide (F32)"),
        ("vae", "vae", "the Wan 2.1 VAE (F32)"),
        ("pickled vae", "vae", "the Wan 2.1 VAE (F32)"),
        ("small vae", "vae", "the VAE of a small model such as nano (F32)"),
        ("vae of 48", "none", "a VAE of 48 channels, as of Wan 2.2; Wan 2.1's has 16 (F32)"),
        ("text", "text", "a umT5 text encoder (32 wide) (F32)"),
        ("t5", "none", "a T5 text encoder (32 wide) as of Flux or SD3; Wan reads prompts with umT5-xxl (F32)"),
        ("control", "none", "a Wan 2.1 DiT for other inputs (48 channels), such as VACE or Fun Control (F32)"),
        ("nvfp4", "form", "a Wan 2.1 I2V base (128 wide), which needs an audio patch to talk, in NVFP4 (4 bits) (F32)"),
        ("mxfp8", "form", "a Wan 2.1 I2V base (128 wide), which needs an audio patch to talk, in MXFP8 (8 bits) (F32)"),
        ("rotated", "form", "a Wan 2.1 I2V base (128 wide), which needs an audio patch to talk, in rotated int8 (convrot) (F32)"),
        ("english audio", "audio", "a wav2vec2 audio encoder (64 wide), trained to write English or another language (F32)"),
        ("image", "image", "a CLIP vision encoder (80 wide) (F32)"),
        ("audio", "audio", "a wav2vec2 audio encoder (64 wide) (F32)"),
        ("large audio", "none", "a large wav2vec2 (1024 wide); the models hear with chinese-wav2vec2-base (768 wide) (F32)"),
        ("other", "unknown", "no file of a kind that is known here (some.weight) (F32)"),
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
        ("dit", "nvfp4", "x.safetensors is a Wan 2.1 I2V base .*, in NVFP4 .*; that form cannot be read; choose its bf16, fp8_scaled"),
        ("dit", "rotated", "in rotated int8 .*; that form cannot be read"),
        ("text", "t5", "x.safetensors is a T5 text encoder .*; Wan reads prompts with umT5-xxl; LiveTalk cannot use it"),
        ("dit", "lora", r"x.safetensors is a LoRA of rank 4 .*; choose it as a LoRA \(models/loras\)"),
        ("dit", "vae", r"x.safetensors is the Wan 2.1 VAE; choose it as the VAE \(models/vae\)"),
        ("dit", "t2v", "x.safetensors is a Wan DiT without a picture input .*; LiveTalk cannot use it"),
        ("audio", "large audio", "is a large wav2vec2 .*; LiveTalk cannot use it. Here chinese-wav2vec2-base is needed"),
        ("vae", "vae of 48", "is a VAE of 48 channels.* Here the Wan 2.1 VAE is needed"),
        ("text", "image", "is a CLIP vision encoder .*; choose it as the CLIP vision encoder .* Here the umT5-xxl encoder is needed"),
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


def test_encoders_of_another_size_are_refused_with_both_sizes(zoo, tmp_path, published):
    wide = {name: tensor for name, tensor in load_file(zoo["image"]).items()}
    wide["visual.cls_embedding"] = torch.ones(1, 1, 1664)
    save_file(wide, tmp_path / "clip_vision_g.safetensors")
    told = "clip_vision_g.safetensors is a CLIP vision encoder .1664 wide., 1664 wide; this DiT needs 80. Choose clip_vision_h"
    with pytest.raises(ValueError, match=told):
        load_files(find_files(published).override(image=tmp_path / "clip_vision_g.safetensors"), CPU, FP32)


def test_files_are_judged_without_torch_and_only_once(zoo, tmp_path, monkeypatch):
    code = "import sys; from pathlib import Path; from livetalk_core.engine.sniff import what_is\n"
    code += "for name in sys.argv[1:]: what_is(Path(name))\n"
    code += "print([name for name in ('torch', 'numpy', 'gguf') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code, *map(str, zoo.values())], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
    reads = []
    monkeypatch.setattr("livetalk_core.engine.sniff.read_headers", lambda path: reads.append(path) or read_headers(path))
    path = tmp_path / "x.safetensors"
    for state in (torch.ones(2), torch.ones(3)):
        save_file({"x": state}, path)
        for _ in range(3):
            assert what_is(path).part == "unknown"
    assert len(reads) == 2, "once for each size and time"


@pytest.mark.parametrize("name", ["pickled vae", "gguf", "dit", "scaled"])
def test_headers_tell_what_the_tensors_are(zoo, name):
    tensors = read_weights([zoo[name]])
    shapes = {key: stored.shape for key, stored in strip_prefix(read_headers(zoo[name])).items()}
    assert {key: tuple(tensor.shape) for key, tensor in tensors.items()}.items() <= shapes.items()


@pytest.mark.parametrize("old", [True, False])
def test_a_pickled_file_is_read_in_both_forms_and_runs_no_code(tmp_path, old):
    state = {"a.weight": torch.ones(2, 3).bfloat16(), "b": torch.nn.Parameter(torch.ones(4))}
    torch.save(state, tmp_path / "x.pth", _use_new_zipfile_serialization=not old)
    assert read_headers(tmp_path / "x.pth") == {"a.weight": ((2, 3), "BF16"), "b": ((4,), "F32")}
    torch.save({"a": Path("x")}, tmp_path / "code.pth", _use_new_zipfile_serialization=not old)
    with pytest.raises(ValueError, match="code.pth is not a file of tensors .it holds pathlib.*, which is no tensor"):
        read_headers(tmp_path / "code.pth")
