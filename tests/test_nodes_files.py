"""ComfyUI's folders are searched by what files hold: lists, the parts of a model, the set that `auto` finds, wrong files."""

import re
import shutil
import sys
import time

import pytest
import torch
from community_files import BASES, LORA, NAMES, PATCH, write_set
from made import pixels, speech_like
from safetensors.torch import load_file, save_file

from livetalk_core.engine.options import EngineOptions
from livetalk_core.types import StreamSettings

BASE, PATCHED = f"diffusion_models/{BASES['gguf']}", f"model_patches/{PATCH}"
SETTINGS = {"precision": "auto", "attention": "auto", "gpus": 1, "compile": False}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The whole set, as in ComfyUI's models folder."""
    folder = tmp_path_factory.mktemp("set")
    return folder, write_set(folder)


@pytest.fixture
def found(nodes, host, models):
    """ComfyUI with the whole set."""
    folder, files = models
    shutil.copytree(folder, host.folder, dirs_exist_ok=True)
    (host.folder / "models" / "livetalk").mkdir(parents=True)
    gguf = [name for name in files["diffusion_models"] if name.endswith(".gguf")]
    host.files = files | {"diffusion_models": [], "livetalk_gguf_diffusion_models": gguf}
    paths = sys.modules["folder_paths"]
    paths.folder_names_and_paths |= {kind: ([], {".safetensors"}) for kind in files}
    nodes.host.register_gguf_files()
    return host


def add(host, folder: str, name: str, source: str, renamed=None) -> None:
    """A copy of a file of the set, named otherwise, with its tensors changed."""
    state = load_file(host.folder / source)
    save_file(renamed(state) if renamed else state, host.folder / folder / name)
    host.files = host.files | {folder: sorted([*host.files.get(folder, []), name])}


def choices(nodes, node: str = "LiveTalkModelLoader") -> dict[str, list[str]]:
    schema = next(schema for schema in (each.define_schema() for each in nodes.NODES) if schema.node_id == node)
    return {part.id: part.fields["options"] for part in schema.inputs if "options" in part.fields}


def test_gguf_files_are_listed_without_touching_comfyuis_own_lists(nodes, found):
    paths = sys.modules["folder_paths"].folder_names_and_paths
    assert paths["livetalk_gguf_diffusion_models"] == (paths["diffusion_models"][0], {".gguf"})
    assert paths["livetalk_gguf_diffusion_models"][0] is paths["diffusion_models"][0], "folders that are added later count too"
    assert paths["diffusion_models"][1] == {".safetensors"} and "unet_gguf" not in paths
    assert choices(nodes)["model"] == ["nano", BASE, "auto"] and choices(nodes)["audio_patch"] == ["none", PATCHED]


def test_lists_go_by_what_files_hold_and_not_by_their_names(nodes, found, caplog):
    for folder, name, source in (
        ("diffusion_models", "x.safetensors", PATCHED),
        ("diffusion_models", "wan2.1_i2v_InfiniteTalk.safetensors", f"loras/{LORA}"),
        ("vae", "umt5.safetensors", f"vae/{NAMES['vae']}"),
    ):
        add(found, folder, name, source)
    assert choices(nodes)["audio_patch"] == ["none", "diffusion_models/x.safetensors", PATCHED]
    assert choices(nodes)["model"] == ["nano", BASE, "auto"] and choices(nodes, "LiveTalkGenerate")["model"] == ["nano"]
    told = "models/diffusion_models/wan2.1_i2v_InfiniteTalk.safetensors is a LoRA of rank 4 .*; it belongs into models/loras"
    (record,) = [record for record in caplog.records if "LoRA" in record.getMessage()]
    assert re.search(told, record.getMessage())


def test_parts_are_those_that_fit_the_dit_and_chinese_wav2vec2_wins(nodes, found):
    add(found, "audio_encoders", "a_english.safetensors", f"audio_encoders/{NAMES['audio_encoders']}", with_head)
    add(found, "audio_encoders", "b_base.safetensors", f"audio_encoders/{NAMES['audio_encoders']}")
    add(found, "audio_encoders", "a_large.safetensors", f"audio_encoders/{NAMES['audio_encoders']}", large)
    add(found, "clip_vision", "a_clip_g.safetensors", f"clip_vision/{NAMES['clip_vision']}", wider)
    add(found, "text_encoders", "a_plain.safetensors", f"text_encoders/{NAMES['text_encoders']}", without_tokenizer)
    add(found, "vae", "a.safetensors", f"clip_vision/{NAMES['clip_vision']}")
    files = nodes.load.folders.find_model(BASE, PATCHED)
    assert [path.name for path in (files.vae, files.text, files.image, files.audio)] == list(NAMES.values()) and files.missing() == []
    found.files = found.files | {"audio_encoders": ["a_english.safetensors", "a_large.safetensors", "b_base.safetensors"]}
    assert nodes.load.folders.find_model(BASE, PATCHED).audio.name == "b_base.safetensors", "not the one that writes English"


def with_head(state):
    return state | {"lm_head.weight": torch.ones(32, 64)}


def large(state):
    return state | {"wav2vec2.encoder.layer_norm.bias": torch.ones(1024)}


def wider(state):
    return state | {"vision_model.embeddings.class_embedding": torch.ones(1664)}


def without_tokenizer(state):
    return {name: tensor for name, tensor in state.items() if name != "spiece_model"}


@pytest.mark.parametrize(
    "model, patch, message",
    [
        (PATCHED, "none", f"^{PATCH} is an audio patch .*; choose it as the audio patch, after a Wan 2.1 I2V base"),
        (BASE, BASE, "is a Wan 2.1 I2V base .*; choose it as the model, .* Here an InfiniteTalk or MultiTalk file is needed"),
        (f"loras/{LORA}", "none", "is a LoRA of rank 4 .*; choose it as a LoRA .models/loras.*Here a Wan 2.1 I2V 14B"),
        ("diffusion_models/gone.safetensors", "none", "'diffusion_models/gone.safetensors' was not found; choose one of nano, "),
        (BASE, "model_patches/gone", f"audio_patch 'model_patches/gone' was not found; choose one of none, {PATCHED}"),
    ],
)
def test_a_wrong_choice_is_one_line_before_anything_runs(nodes, found, model, patch, message):
    told = nodes.LoadModel.validate_inputs(model, patch)
    assert re.search(message, told) and "\n" not in told
    assert nodes.LoadModel.validate_inputs(BASE, PATCHED) is True and nodes.LoadModel.validate_inputs("auto", "none") is True
    assert "choose it as the model, with an audio patch" in nodes.Generate.validate_inputs(BASE)
    assert nodes.Generate.validate_inputs("nano") is True


def test_a_wrong_part_or_lora_is_refused_in_the_node_where_it_was_chosen(nodes, found):
    add(found, "audio_encoders", "large.safetensors", f"audio_encoders/{NAMES['audio_encoders']}", large)
    add(found, "loras", "patch.safetensors", PATCHED)
    with pytest.raises(
        ValueError, match="^large.safetensors is a large wav2vec2 .1024 wide.*; LiveTalk cannot use it. Here chinese-wav2vec2"
    ):
        nodes.LoadModel.execute(model=BASE, audio_patch=PATCHED, **SETTINGS, audio_encoder="large.safetensors")
    with pytest.raises(ValueError, match="^patch.safetensors is an audio patch .*; choose it as the audio patch.*Here a LoRA for Wan 2.1"):
        nodes.lora.AddLora.execute("patch.safetensors", 1.0)


def test_auto_finds_the_whole_set_and_talks_in_4_steps(nodes, found):
    out = nodes.LoadModel.execute(model="auto", **SETTINGS)
    shown = out.ui["text"]
    for name in (BASES["gguf"], PATCH, LORA, *NAMES.values(), "infinitetalk_4step"):
        assert name in shown, name
    engine = nodes.load.engines.engine_for(out.args[0])
    assert (engine.preset.steps, engine.preset.sampler, engine.preset.chunk_frames) == (4, "euler", 81)
    stream = engine.open(engine.reference(pixels()), StreamSettings(steps=1))
    frames = [*stream.push(torch.from_numpy(speech_like(0.4))), *stream.finish()]
    assert sum(len(piece.frames_THWC) for piece in frames) == 10


def test_auto_keeps_what_is_chosen_and_says_when_there_is_no_lora(nodes, found):
    find_set = nodes.load.community.find_set
    chosen = EngineOptions(kind="multitalk")
    assert find_set(chosen) == (BASE, PATCHED, chosen)
    found.files = found.files | {"loras": []}
    add(found, "loras", "Wan2.2_lightx2v_4steps_high_noise.safetensors", f"loras/{LORA}")
    assert find_set(EngineOptions())[2] == EngineOptions(kind="infinitetalk")
    assert "no LoRA for 4 steps is in models/loras" in found.lines[-1]


def test_auto_sees_a_file_that_comes_later(nodes, found):
    before = nodes.LoadModel.fingerprint_inputs(model="auto", precision="auto")
    add(found, "diffusion_models", BASES["fp8"], f"vae/{NAMES['vae']}", lambda state: state)
    write_set(found.folder, "fp8")
    assert nodes.LoadModel.fingerprint_inputs(model="auto") != before
    assert nodes.LoadModel.fingerprint_inputs(model=BASE) == nodes.LoadModel.fingerprint_inputs(model="nano"), "control"
    assert nodes.LoadModel.execute(model="auto", **SETTINGS).args[0].model == f"diffusion_models/{BASES['fp8']}"


def test_auto_says_all_that_is_missing_and_what_lies_elsewhere(nodes, found):
    add(found, "diffusion_models", "wan_2.1_vae.safetensors", f"vae/{NAMES['vae']}")
    found.files = {"diffusion_models": ["wan_2.1_vae.safetensors"], "clip_vision": [NAMES["clip_vision"]]}
    with pytest.raises(FileNotFoundError) as error:
        nodes.LoadModel.execute(model="auto", **SETTINGS)
    told = str(error.value)
    for word in ("a Wan 2.1 I2V 14B base", "an audio patch", "into models/vae", "into models/text_encoders", "into models/audio_encoders"):
        assert word in told
    assert "clip_vision" not in told and "models/diffusion_models/wan_2.1_vae.safetensors is the Wan 2.1 VAE; it belongs" in told
    assert "\n" not in told and "--" not in told


def test_hundreds_of_files_are_read_once(nodes, found, monkeypatch):
    names = [f"{k}.safetensors" for k in range(300)]
    for name in names:
        save_file({"x": torch.ones(1)}, found.folder / "diffusion_models" / name)
    found.files = found.files | {"diffusion_models": names}
    reads = []
    from livetalk_core.engine import sniff

    read = sniff.read_headers
    monkeypatch.setattr(sniff, "read_headers", lambda path: reads.append(path) or read(path))
    for _ in range(3):
        assert choices(nodes)["model"] == ["nano", BASE, "auto"]
    assert len({*reads}) == len(reads) >= 300
    start = time.perf_counter()
    choices(nodes)
    print(f"a list of 300 known files: {1000 * (time.perf_counter() - start):.0f} ms")
