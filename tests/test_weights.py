"""Files to modules: the published folder, single files of ComfyUI users, and the errors for files that do not fit."""

import json
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made import AUDIO, DIT, IMAGE, TEXT, pixels, speech_like, write_published_folder, write_small_folder
from safetensors.torch import save_file

from livetalk_core.engine.files import ModelFiles, find_files
from livetalk_core.engine.load import load_engine, load_files
from livetalk_core.models.dit import AudioDiT
from livetalk_core.models.dit_config import DiTConfig
from livetalk_core.models.patch_vae import PatchVAE
from livetalk_core.models.vae import CausalVAE, VAEConfig
from livetalk_core.models.weights import build, dit_config_from, load_dit, load_vae, read_tensors, vae_config_from
from livetalk_core.presets import nano
from livetalk_core.types import StreamSettings

CPU, FP32 = torch.device("cpu"), torch.float32


def shapes(module):
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def talk(engine):
    """One chunk of frames from an engine."""
    stream = engine.open(engine.reference(pixels(), "A person is talking."), StreamSettings())
    return torch.cat([chunk.frames_THWC for chunk in [*stream.push(torch.from_numpy(speech_like(1.0))), *stream.finish()]])


def test_sizes_of_the_14b_model_are_read_from_its_tensors():
    with torch.device("meta"):
        dit, vae = shapes(AudioDiT(DiTConfig())), shapes(CausalVAE(VAEConfig()))
    assert dit_config_from(dit) == DiTConfig()
    assert vae_config_from(vae) == VAEConfig()


def test_a_published_folder_loads_without_a_config_and_talks(published):
    engine = load_engine(published, device="cpu")
    assert engine.models.dit.config == DIT and engine.models.audio.config == AUDIO
    assert engine.models.text().config == TEXT and engine.models.image().config == IMAGE
    assert talk(engine).shape == (25, 32, 48, 3)


def test_every_tensor_of_the_folder_reaches_its_place(tmp_path):
    parts = write_published_folder(tmp_path / "m", shards=3)
    engine = load_engine(tmp_path / "m", device="cpu")
    for name, tensor in engine.models.dit.state_dict().items():
        assert torch.equal(tensor, parts["dit"][name]), name
    for name, tensor in engine.models.vae.state_dict().items():
        assert torch.equal(tensor, parts["vae"][name]), name


def test_single_files_and_a_base_with_an_audio_patch_talk_the_same(published, tmp_path):
    found = find_files(published)
    tensors = read_tensors(found.dit)
    patch = {name for name in tensors if "audio" in name or "norm_x" in name}
    one = {f"model.diffusion_model.{name}": tensor.contiguous() for name, tensor in tensors.items()}
    save_file(one, tmp_path / "one.safetensors")
    save_file({n: t.contiguous() for n, t in tensors.items() if n not in patch}, tmp_path / "base.safetensors")
    save_file({n: t.contiguous() for n, t in tensors.items() if n in patch}, tmp_path / "patch.safetensors")
    save_file(read_tensors([found.vae]), tmp_path / "vae.safetensors")
    engine = load_files(found, CPU, FP32)
    single = found.override(dit=(tmp_path / "one.safetensors",), vae=tmp_path / "vae.safetensors")
    split = found.override(dit=(tmp_path / "base.safetensors", tmp_path / "patch.safetensors"), kind="livetalk_14b")
    for files in (single, split):
        other = load_files(files, CPU, FP32)
        for part in ("dit", "vae"):
            ours, theirs = (getattr(models, part).state_dict() for models in (engine.models, other.models))
            assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
        apart = talk(other).int() - talk(engine).int()
        assert apart.abs().max() <= 1, "where in memory a file lies may turn the last bit of a product"


def test_a_base_without_its_audio_patch_says_what_to_add(published, tmp_path):
    tensors = {n: t.contiguous() for n, t in read_tensors(find_files(published).dit).items() if "audio" not in n and "norm_x" not in n}
    save_file(tensors, tmp_path / "base.safetensors")
    with pytest.raises(
        ValueError, match="Wan 2.1 I2V without audio: audio_proj.proj1.weight.* add the InfiniteTalk or FlashTalk audio patch"
    ):
        load_dit(read_tensors([tmp_path / "base.safetensors"]), dtype=FP32)


def test_tensors_are_cast_one_by_one_and_keep_no_gradient(published):
    vae = load_vae(read_tensors([find_files(published).vae]), dtype=torch.bfloat16)
    assert {p.dtype for p in vae.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in vae.parameters()) and not vae.training


def test_building_allocates_nothing_before_the_tensors_are_loaded():
    with torch.device("meta"):
        state = AudioDiT(DIT).state_dict()
    with pytest.raises(ValueError, match="not the weights of the toy: .*missing"):
        build(lambda: AudioDiT(DIT), {}, what="the toy", dtype=FP32, device="cpu")
    assert all(tensor.is_meta for tensor in state.values())


def test_loading_keeps_one_copy_at_most(tmp_path):
    """Peak memory of a process that loads, cast to another type, against one that only imports: one cast copy and the mapped file."""
    code = """
import resource, sys, torch
from pathlib import Path
from livetalk_core.models.weights import load_dit, read_tensors
if len(sys.argv) > 1:
    dit = load_dit(read_tensors([Path(sys.argv[1])]), dtype=torch.float32)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""
    big = replace(DIT, dim=512, num_heads=4, ffn_dim=2048, num_layers=10)
    state = {name: tensor.bfloat16() for name, tensor in AudioDiT(big).state_dict().items()}
    save_file(state, tmp_path / "big.safetensors")
    peaks = []
    for arguments in ([], [str(tmp_path / "big.safetensors")]):
        command = [sys.executable, "-c", code, *arguments]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent).stdout))
    size = (tmp_path / "big.safetensors").stat().st_size
    assert size > 100e6, "large beside what a process takes anyway"
    assert peaks[1] - peaks[0] < 3.3 * size, "the file once (mapped) and float32 once: 3 times the file"


@pytest.fixture
def broken(published, tmp_path):
    """A copy of the published folder, for breaking."""
    return shutil.copytree(published, tmp_path / "model")


def first_shard(folder):
    return next(folder.glob("diffusion_pytorch_model-00001-*"))


def rewrite_bias(folder, *replacement):
    """Take one tensor out of the shard that holds it, and put another in its place if given."""
    index = json.loads((folder / "diffusion_pytorch_model.safetensors.index.json").read_text())
    shard = folder / index["weight_map"]["blocks.0.ffn.0.bias"]
    tensors = {name: tensor.clone() for name, tensor in read_tensors([shard]).items() if name != "blocks.0.ffn.0.bias"}
    save_file(tensors | dict.fromkeys(["blocks.0.ffn.0.bias"], *replacement) if replacement else tensors, shard)


def without_shard(folder):
    first_shard(folder).unlink()


def without_shard_or_index(folder):
    first_shard(folder).unlink()
    (folder / "diffusion_pytorch_model.safetensors.index.json").unlink()


def truncated_shard(folder):
    first_shard(folder).write_bytes(first_shard(folder).read_bytes()[:1000])


def wrong_shape(folder):
    rewrite_bias(folder, torch.zeros(7))


def missing_tensor(folder):
    rewrite_bias(folder)


def no_vae(folder):
    (folder / "Wan2.1_VAE.pth").unlink()


def other_model_as_vae(folder):
    torch.save({"weight": torch.zeros(3)}, folder / "Wan2.1_VAE.pth")


def code_as_vae(folder):
    (folder / "Wan2.1_VAE.pth").write_bytes(pickle.dumps(print, protocol=2))


def empty_audio(folder):
    (folder / "chinese-wav2vec2-base" / "pytorch_model.bin").write_bytes(b"")


def no_tokenizer(folder):
    (folder / "google" / "umt5-xxl" / "tokenizer.json").unlink()


def broken_index(folder):
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text("{")


@pytest.mark.parametrize(
    "damage, kind, parts",
    [
        (without_shard, FileNotFoundError, ["diffusion_pytorch_model-00001-of-00002.safetensors is missing", "download"]),
        (without_shard_or_index, FileNotFoundError, ["diffusion_pytorch_model-00001-of-00002.safetensors is missing"]),
        (truncated_shard, ValueError, ["diffusion_pytorch_model-00001", "not a whole safetensors file", "download it again"]),
        (wrong_shape, ValueError, ["00001-of-00002.safetensors", "blocks.0.ffn.0.bias is [7] but must be [160]", "SoulX-FlashTalk-14B"]),
        (missing_tensor, ValueError, ["00001-of-00002.safetensors", "blocks.0.ffn.0.bias missing", "SoulX-FlashTalk-14B"]),
        (no_vae, FileNotFoundError, ["missing vae", "Soul-AILab/SoulX-FlashTalk-14B"]),
        (other_model_as_vae, ValueError, ["not the weights of the Wan 2.1 VAE", "Wan2.1_VAE.pth"]),
        (code_as_vae, ValueError, ["Wan2.1_VAE.pth is not a file of tensors"]),
        (empty_audio, ValueError, ["pytorch_model.bin is empty; download it again"]),
        (no_tokenizer, FileNotFoundError, ["tokenizer"]),
        (broken_index, ValueError, ["index.json is not JSON"]),
    ],
)
def test_a_damaged_model_folder_is_refused_in_one_line_that_names_the_file(broken, damage, kind, parts):
    damage(broken)
    with pytest.raises(kind) as error:
        load_engine(broken, device="cpu")
    message = str(error.value)
    assert "\n" not in message and all(part in message for part in parts), message


def test_a_model_folder_that_is_not_there_says_what_to_download(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist; download Soul-AILab/SoulX-FlashTalk-14B"):
        load_engine(tmp_path / "nothing", device="cpu")


def test_an_empty_folder_lists_all_that_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        load_engine(tmp_path, device="cpu")
    assert all(f"{part}: download" in str(error.value) for part in ("dit", "vae", "text", "image", "audio", "tokenizer"))


def test_wav2vec2_may_lie_beside_the_model_folder(broken):
    shutil.move(broken / "chinese-wav2vec2-base", broken.parent / "chinese-wav2vec2-base")
    assert find_files(broken).audio == broken.parent / "chinese-wav2vec2-base" / "pytorch_model.bin"


def test_heads_that_are_not_128_wide_come_from_the_config(broken):
    (broken / "config.json").write_text(json.dumps({"num_heads": 2, "unknown": 1}))
    assert load_engine(broken, device="cpu").models.dit.config.num_heads == 2


@pytest.fixture
def small(tmp_path) -> Path:
    return write_small_folder(tmp_path / "small")


def test_a_small_models_folder_needs_no_encoder_files_and_talks(small):
    engine = load_engine(small, device="cpu")
    assert (engine.preset.name, engine.preset.shift) == ("small", nano().shift)
    dit = engine.models.dit.config
    assert (dit.num_heads, dit.text_len, dit.predicts, dit.picture_in) == (4, 1, "change", "every")
    assert (dit.out_dim, dit.shifts) == (engine.preset.vae.z_dim, engine.preset.dit.shifts), "of the head's rows"
    assert isinstance(engine.models.vae, PatchVAE) and engine.models.vae.config == engine.preset.vae
    assert talk(engine).shape == (25, 32, 48, 3)
    (small / "vae.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="the nano model is not complete, missing vae; copy its whole folder, or leave --model out"):
        load_engine(small, device="cpu")


@pytest.mark.parametrize("name", ["livetalk_14b", "tiny", "giant"])
def test_a_preset_whose_encoders_need_files_is_refused_in_a_config(small, name):
    (small / "config.json").write_text(json.dumps({"num_heads": 4, "predicts": "change", "preset": name}))
    with pytest.raises(ValueError, match=f"config.json names the preset '{name}', which must be nano"):
        load_engine(small, device="cpu")


def test_named_files_need_every_part():
    with pytest.raises(FileNotFoundError, match="missing dit: download"):
        ModelFiles().require()
