"""What a checkpoint file is, by what it holds; a wrong file in a wrong place gets one line that says so."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
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
from livetalk_core.pool.place import demand_of

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
        "flux lora": {f"lora_unet_single_blocks_0_linear1.lora_{half}.weight": torch.ones(4, 128) for half in ("down", "up")},
        "kohya lora": {f"lora_unet_blocks_0_self_attn_q.lora_{half}.weight": torch.ones(4, 128) for half in ("down", "up")},
        "diffusers lora": {f"transformer.blocks.0.attn1.to_q.lora_{half}.weight": torch.ones(4, 128) for half in ("A", "B")},
        "lokr": {f"lycoris_blocks_0_self_attn_q.lokr_w{half}": torch.ones(4, 4) for half in (1, 2)},
        "diffs": {"diffusion_model.blocks.0.ffn.0.diff": torch.ones(256, 128)},
        "diffusers": {"condition_embedder.time_proj.weight": torch.ones(4, 4), "blocks.0.attn1.to_q.weight": torch.ones(4, 4)},
        "clip g": {"vision_model.embeddings.class_embedding": torch.ones(1664)},
        "quanto": quantized(dit, "quanto"),
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
        ("dit", "dit", "a DiT that talks: Wan 2.1 I2V with audio (128 wide); weights in fp32"),
        ("base", "base", "a Wan 2.1 I2V base (128 wide), which needs an audio patch to talk; weights in fp32"),
        ("patch", "patch", "an audio patch (InfiniteTalk or MultiTalk) for a Wan 2.1 I2V base; weights in fp32"),
        ("t2v", "none", "a Wan DiT without a picture input (128 wide): Wan 2.1 text-to-video or Wan 2.2; weights in fp32"),
        ("scaled", "dit", "a DiT that talks: Wan 2.1 I2V with audio (128 wide); weights in scaled fp8 (e4m3)"),
        ("gguf", "dit", "a DiT that talks: Wan 2.1 I2V with audio (128 wide); weights in GGUF Q8_0"),
        ("lora", "lora", "a LoRA of rank 4 for 1 layer, most of them 128 wide; weights in fp32"),
        ("vae", "vae", "the Wan 2.1 VAE; weights in fp32"),
        ("pickled vae", "vae", "the Wan 2.1 VAE; weights in fp32"),
        ("small vae", "vae", "the VAE of a small model such as nano; weights in fp32"),
        ("vae of 48", "none", "a VAE of 48 channels, as of Wan 2.2; Wan 2.1's has 16; weights in fp32"),
        ("text", "text", "a umT5 text encoder (32 wide); the folder of its tokenizer is needed too; weights in fp32"),
        ("t5", "none", "a T5 text encoder (32 wide) as of Flux or SD3; Wan reads prompts with umT5-xxl; weights in fp32"),
        ("control", "none", "a Wan 2.1 DiT for other inputs (48 channels), such as VACE or Fun Control; weights in fp32"),
        ("nvfp4", "form", "a Wan 2.1 I2V base (128 wide), which needs an audio patch to talk, in NVFP4 (4 bits)"),
        ("mxfp8", "form", "a Wan 2.1 I2V base (128 wide), which needs an audio patch to talk, in MXFP8 (8 bits)"),
        ("rotated", "form", "a Wan 2.1 I2V base (128 wide), which needs an audio patch to talk, in rotated int8 (convrot)"),
        (
            "english audio",
            "audio",
            "a wav2vec2 audio encoder (64 wide); it writes a language, and the models were trained with chinese-wav2vec2-base; "
            "weights in fp32",
        ),
        ("image", "image", "a CLIP vision encoder (80 wide); weights in fp32"),
        ("audio", "audio", "a wav2vec2 audio encoder (64 wide); weights in fp32"),
        ("large audio", "none", "a large wav2vec2 (1024 wide); the models hear with chinese-wav2vec2-base (768 wide); weights in fp32"),
        ("flux lora", "none", "a LoRA for another model than Wan (lora_unet_single_blocks_0_linear1); weights in fp32"),
        ("lokr", "none", "a LoRA of the kind LoKr, which cannot be read; choose one with lora_down and lora_up; weights in fp32"),
        ("diffs", "lora", "a LoRA of whole differences for 1 weights; weights in fp32"),
        ("kohya lora", "lora", "a LoRA of rank 4 for 1 layer, most of them 128 wide; weights in fp32"),
        ("diffusers lora", "lora", "a LoRA of rank 4 for 1 layer, most of them 128 wide; weights in fp32"),
        ("diffusers", "none", "a Wan DiT under the names of diffusers; choose a file with Wan's own, such as Comfy-Org's; weights in fp32"),
        (
            "clip g",
            "none",
            "a CLIP vision encoder (1664 wide, as clip_vision_g); Wan 2.1 sees with clip_vision_h (1280 wide); weights in fp32",
        ),
        ("quanto", "dit", "a DiT that talks: Wan 2.1 I2V with audio (128 wide); weights in scaled int8"),
        ("other", "unknown", "no file of a kind that is known here (some.weight); weights in fp32"),
    ],
)
def test_each_kind_is_known_by_its_tensors(zoo, name, part, told):
    kind = what_is(zoo[name])
    assert (kind.part, kind.told) == (part, told)


def test_doctor_says_what_files_are_and_which_cannot_be_used(zoo, tmp_path, capsys):
    assert main(["doctor", str(zoo["patch"]), str(zoo["lora"])]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all(line.startswith("ok   x.safetensors: a") for line in lines)
    assert "after a Wan 2.1 I2V base" in lines[0] and lines[1].endswith("choose it as a LoRA (models/loras)")
    (tmp_path / "cut.safetensors").write_bytes(zoo["dit"].read_bytes()[:100])
    assert main(["doctor", str(tmp_path / "cut.safetensors"), str(tmp_path / "gone"), str(zoo["large audio"])]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("no   cut.safetensors: not a whole safetensors file") and lines[1] == "no   gone: missing; check the path"
    assert lines[2].endswith("LiveTalk cannot use it") and len(lines) == 3


def as_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "hello")


def as_tensors(path: Path) -> None:
    save_file({"x": torch.ones(2)}, path)


OTHERS = [
    ("x.safetensors", b"", "empty; download it again"),
    ("x.gguf", b"<!DOCTYPE html><html>", "a web page and no checkpoint; download the file itself"),
    (
        "x.pth",
        b"version https://git-lfs.github.com/spec/v1\noid",
        "a pointer of Git LFS and not the file itself; fetch that with git lfs pull",
    ),
    ("x.safetensors", b"My notes on models\n", "a text file and no checkpoint; choose another file"),
    ("x.index.json", b'{"weight_map": {}}', "a JSON file and holds no tensors; choose the checkpoint beside it"),
    ("x.safetensors", b"GGUF\3\0\0\0", "a GGUF file with another ending; rename it to .gguf"),
    ("x.safetensors", as_zip, "a ZIP archive and no checkpoint; unpack it first"),
    ("x.zip", as_zip, "a ZIP archive and no checkpoint; unpack it first"),
    ("x.safetensors", lambda path: torch.save({"x": torch.ones(2)}, path), "a file of torch with another ending; rename it to .pth"),
    ("x.bin", as_tensors, "a safetensors file with another ending; rename it to .safetensors"),
    ("x.ckpt", lambda path: torch.save({"state_dict": {}, "step": 3}, path), "(it holds more than named tensors); choose another file"),
    ("x.gguf", bytes(range(256)) * 9, "not a whole GGUF file (it does not begin as one); download it again"),
    ("x.safetensors", bytes(range(256)) * 9, "not a whole safetensors file (it has no whole header); download it again"),
    (
        "x.bin",
        bytes(range(255, 0, -1)) * 9,
        "not a file of tensors: it is none of torch's, and its ending is neither .safetensors nor .gguf",
    ),
    ("x.safetensors", Path.mkdir, "a folder; name the files in it, or give a model's folder with --model"),
    ("x.safetensors", lambda path: path.symlink_to("nowhere"), "a link to a file that is missing; check the path"),
]


@pytest.mark.parametrize("name, content, told", OTHERS)
def test_what_is_no_checkpoint_is_said_in_one_line_with_the_way_out(tmp_path, name, content, told, capsys):
    path = tmp_path / name
    path.write_bytes(content) if isinstance(content, bytes) else content(path)
    assert main(["doctor", str(path)]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"no   {name}: ") and told in line


def test_a_part_of_a_model_is_judged_with_the_others_and_names_a_missing_one(zoo, tmp_path, published):
    state = load_file(zoo["dit"])
    names = sorted(state)
    for number, some in enumerate((names[::2], names[1::2]), 1):
        save_file({name: state[name] for name in some}, tmp_path / f"a b-{number:05d}-of-00002.safetensors")
    parts = sorted(tmp_path.iterdir())
    assert [what_is(part).part for part in parts] == ["shards"] * 2
    assert what_is(parts[1]).text == f"part 2 of 2 of {what_is(zoo['dit']).text}"
    files = find_files(published)
    assert load_files(files.override(dit=tuple(parts)), CPU, FP32).models.dit.config.dim == 128
    with pytest.raises(ValueError, match="a b-00002-of-00002.safetensors is one of 2 parts of a model, and a b-00001.* is not given"):
        load_files(files.override(dit=(parts[1],)), CPU, FP32)
    parts[0].unlink()
    with pytest.raises(FileNotFoundError, match="is one of 2 parts of a model, and a b-00001-of-00002.safetensors is not beside it"):
        what_is(parts[1])


def test_a_model_that_is_a_file_or_a_folder_of_diffusers_is_refused_with_the_way_out(zoo, tmp_path):
    with pytest.raises(ValueError, match="x.safetensors is a file, and a model is a folder; name a single file with --dit"):
        load_engine(zoo["dit"], "cpu")
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(ValueError, match="is a pipeline of diffusers, which has other names in its files; download Soul-AILab"):
        load_engine(tmp_path, "cpu")
    with pytest.raises(ValueError, match="is a folder; name the files in it"):
        read_weights([tmp_path])


@pytest.mark.parametrize("name", ["Wan 2.1 模型 é.SAFETENSORS", "x.sft", "link.safetensors", "Q8 0.GGUF"])
def test_files_are_read_under_any_name_and_usual_ending(zoo, tmp_path, published, name):
    path = tmp_path / name
    path.symlink_to(zoo["gguf" if name.endswith("GGUF") else "dit"])
    files = find_files(published).override(dit=(path,))
    assert what_is(path).part == "dit" and load_files(files, CPU, FP32).models.dit.config.dim == 128
    assert demand_of(files).num_blocks == 2


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
    wide["visual.cls_embedding"] = torch.ones(1, 1, 1660)
    save_file(wide, tmp_path / "clip_vision_x.safetensors")
    told = "clip_vision_x.safetensors is a CLIP vision encoder .1660 wide., 1660 wide; this DiT needs 80. Choose clip_vision_h"
    with pytest.raises(ValueError, match=told):
        load_files(find_files(published).override(image=tmp_path / "clip_vision_x.safetensors"), CPU, FP32)


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
