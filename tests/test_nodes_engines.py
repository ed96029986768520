"""Engines by their settings: shared, closed when ComfyUI frees memory, brought back by the next run."""

import gc

import pytest
import torch
from made import pixels, write_published_folder
from safetensors.torch import save_file

from livetalk_core.engine.files import SHIPPED, find_files
from livetalk_core.engine.options import EngineOptions
from livetalk_core.models.weights import read_tensors
from livetalk_core.types import StreamSettings


def test_two_loaders_with_equal_settings_share_one_engine(nodes):
    settings = {"model": "nano", "precision": "auto", "attention": "auto", "gpus": 1, "compile": False}
    first, second = (nodes.LoadModel.execute(**settings).args[0] for _ in range(2))
    other = nodes.LoadModel.execute(**settings | {"precision": "float32"}).args[0]
    assert nodes.load.engines.engine_for(first) is nodes.load.engines.engine_for(second)
    assert nodes.load.engines.engine_for(first) is not nodes.load.engines.engine_for(other)
    assert [slot.num_loads for slot in nodes.load.engines.SLOTS.values()] == [1, 1]


def test_unloading_closes_the_engine_and_the_next_use_brings_it_back(nodes, host):
    engines = nodes.load.engines
    spec = engines.EngineSpec()
    before = torch.nn.utils.parameters_to_vector(engines.engine_for(spec).models.dit.parameters())
    slot = engines.SLOTS[spec]
    assert slot.patcher.loaded_size() == slot.patcher.model_size() > 0
    host.unload_all()
    gc.collect()
    assert slot.engine is None and slot.patcher.loaded_size() == 0 and slot.references == {}
    after = torch.nn.utils.parameters_to_vector(engines.engine_for(spec).models.dit.parameters())
    assert slot.num_loads == 2 and torch.equal(before, after)


def test_detaching_without_unpatching_leaves_the_engine_open(nodes):
    spec = nodes.load.engines.EngineSpec()
    engine = nodes.load.engines.engine_for(spec)
    nodes.load.engines.SLOTS[spec].patcher.detach(unpatch_all=False)
    assert nodes.load.engines.SLOTS[spec].engine is engine


def test_an_engine_is_unloaded_whole_or_not_at_all(nodes):
    spec = nodes.load.engines.EngineSpec()
    nodes.load.engines.engine_for(spec)
    patcher = nodes.load.engines.SLOTS[spec].patcher
    assert patcher.partially_unload("cpu", 1) == 0 and patcher.loaded_size() > 0 and not patcher.is_dynamic()


def test_a_reference_of_the_same_picture_and_prompt_is_encoded_once(nodes):
    engines, picture = nodes.load.engines, pixels(32, 32)
    spec = engines.EngineSpec()
    first = engines.reference_for(spec, picture, "a", None, None)
    assert engines.reference_for(spec, picture.clone(), "a", None, None) is first
    assert engines.reference_for(spec, picture, "b", None, None) is not first
    assert engines.reference_for(spec, -picture, "a", None, None) is not first
    for k in range(10):
        engines.reference_for(spec, picture, str(k), None, None)
    assert len(engines.SLOTS[spec].references) == engines.NUM_REFERENCES


def test_two_processes_make_what_one_makes_and_close_with_the_slot(nodes):
    """On the CPU, `gpus` are processes."""
    engines = nodes.load.engines
    one, two = (engines.engine_for(engines.EngineSpec(options=EngineOptions(gpus=count))) for count in (1, 2))
    frames = []
    for engine in (one, two):
        stream = engine.open(engine.reference(pixels()), StreamSettings(steps=1))
        frames.append(torch.cat([chunk.frames_THWC for chunk in stream.finish(3)]).int())
    assert (frames[0] - frames[1]).abs().max() <= 1
    engines.SLOTS[engines.EngineSpec(options=EngineOptions(gpus=2))].close()
    assert two.state.kind == "closed"


def test_what_a_pool_cannot_do_is_refused_with_the_way_out(nodes):
    with pytest.raises(ValueError, match="gpus=64 are too many"):
        nodes.load.engines.engine_for(nodes.load.engines.EngineSpec(options=EngineOptions(gpus=64)))


def test_a_model_that_is_gone_is_refused_with_the_list(nodes):
    with pytest.raises(ValueError, match=r"'livetalk/gone' was not found; choose one of nano"):
        nodes.load.engines.engine_for(nodes.load.engines.EngineSpec(model="livetalk/gone"))


def test_a_model_for_tests_is_no_choice(nodes):
    with pytest.raises(ValueError, match="'tiny' was not found"):
        nodes.load.engines.engine_for(nodes.load.engines.EngineSpec(model="tiny"))


def test_comfyui_is_told_the_shipped_models_size_before_it_is_loaded(nodes):
    files = [path.stat().st_size for path in (SHIPPED / "nano").glob("*.safetensors")]
    assert len(files) == 3 and nodes.load.folders.size_on_disk("nano") == sum(files) > 10**6


def test_the_shipped_model_runs_in_either_precision(nodes):
    engines = nodes.load.engines
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16), ("auto", torch.float32)):
        engine = engines.engine_for(engines.EngineSpec(options=EngineOptions(dtype=precision)))
        (chunk,) = engine.open(engine.reference(pixels()), StreamSettings(steps=1)).finish(3)
        assert engine.dtype == dtype and chunk.frames_THWC.shape == (3, 32, 48, 3)


def test_a_half_downloaded_model_folder_says_what_is_missing(nodes, host):
    (host.folder / "models" / "livetalk" / "half").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"^model livetalk/half is not complete, missing dit: put it into models/livetalk/half"):
        nodes.load.engines.engine_for(nodes.load.engines.EngineSpec(model="livetalk/half"))


def test_a_published_folder_in_models_livetalk_loads(nodes, host, published):
    (host.folder / "models" / "livetalk").mkdir(parents=True)
    (host.folder / "models" / "livetalk" / "large").symlink_to(published)
    spec = nodes.load.engines.EngineSpec(model="livetalk/large")
    assert spec.model in nodes.load.folders.model_names()
    assert nodes.load.engines.engine_for(spec).models.dit.config.num_layers == 2
    assert nodes.load.engines.SLOTS[spec].size > 0


def put_talker(host, published, name: str) -> None:
    """The published toy DiT as a single file in diffusion_models."""
    (host.folder / "diffusion_models").mkdir()
    save_file(read_tensors(find_files(published).dit), host.folder / "diffusion_models" / name)


def test_a_single_file_takes_the_parts_that_a_model_folder_has(nodes, host, published):
    host.files = {"diffusion_models": ["x.safetensors"], "vae": ["wan_2.1_vae.safetensors"]}
    put_talker(host, published, "x.safetensors")
    (host.folder / "models" / "livetalk").mkdir(parents=True)
    (host.folder / "models" / "livetalk" / "large").symlink_to(published)
    files = nodes.load.folders.find_model("diffusion_models/x.safetensors")
    assert files.missing() == [] and files.vae.name == "Wan2.1_VAE.pth" and files.dit[0].name == "x.safetensors"


def test_a_small_models_folder_lends_no_vae_to_a_single_file(nodes, host, published):
    host.files = {"diffusion_models": ["x.safetensors"], "vae": ["wan_2.1_vae.safetensors"]}
    put_talker(host, published, "x.safetensors")
    (host.folder / "models" / "livetalk").mkdir(parents=True)
    (host.folder / "models" / "livetalk" / "large").symlink_to(published)
    (host.folder / "models" / "livetalk" / "small").symlink_to(SHIPPED / "nano")
    assert nodes.load.folders.find_model("diffusion_models/x.safetensors").vae.name == "Wan2.1_VAE.pth"
    assert nodes.load.folders.find_model("livetalk/small").name == "small", "as a model it can be chosen"


BASE, PATCH = "diffusion_models/wan2.1_i2v_480p_14B_fp16.safetensors", "model_patches/wan2.1_infiniteTalk_single_fp16.safetensors"


@pytest.fixture
def parted(host):
    """A toy model without its DiT in models/livetalk, and the DiT as a base and an audio patch in ComfyUI's folders."""
    folder = host.folder / "models" / "livetalk" / "parts"
    state = write_published_folder(folder)["dit"]
    for path in folder.glob("diffusion_pytorch_model*"):
        path.unlink()
    audio = {name for name in state if "audio" in name or "norm_x" in name}
    for name, keys in ((BASE, set(state) - audio), (PATCH, audio)):
        (host.folder / name).parent.mkdir()
        save_file({key: state[key].contiguous() for key in keys}, host.folder / name)
    kinds = {name.split("/")[0]: [name.split("/")[1]] for name in (BASE, PATCH)}
    host.files = kinds | {"diffusion_models": ["flux_i2v.safetensors", "wan2.2_i2v_high.safetensors", *kinds["diffusion_models"]]}
    return state


def test_a_base_and_its_audio_patch_are_one_model(nodes, parted):
    engines = nodes.load.engines
    shown = {part.id: part.fields["options"] for part in nodes.LoadModel.define_schema().inputs if "options" in part.fields}
    assert shown["model"] == ["nano", BASE, "auto"] and shown["audio_patch"] == ["none", PATCH]
    spec = nodes.LoadModel.execute(BASE, "auto", "auto", 1, False, PATCH).args[0]
    dit = engines.engine_for(spec).models.dit.state_dict()
    assert all(torch.equal(dit[name], tensor) for name, tensor in parted.items())
    assert engines.SLOTS[spec].size >= sum(tensor.nbytes for tensor in parted.values())


def test_the_one_node_form_lists_only_what_talks_without_a_patch(nodes, parted):
    (model,) = [part for part in nodes.Generate.define_schema().inputs if part.id == "model"]
    assert model.fields["options"] == ["nano"]


@pytest.mark.parametrize(
    "model, patch, message",
    [
        (BASE, "none", "Wan 2.1 I2V without audio: .* add the InfiniteTalk"),
        (BASE, "model_patches/gone", f"'model_patches/gone' was not found; choose one of none, {PATCH}"),
        ("nano", PATCH, "is for a Wan 2.1 I2V base, not for nano; choose none"),
        ("livetalk/parts", PATCH, "is an audio patch .* for a Wan 2.1 I2V base; choose it as the audio patch"),
    ],
)
def test_a_model_and_a_patch_that_do_not_fit_are_refused(nodes, parted, model, patch, message):
    with pytest.raises(ValueError, match=message) as error:
        nodes.LoadModel.execute(model, "auto", "auto", 1, False, patch)
    assert "\n" not in str(error.value)


def test_a_folders_own_files_take_a_patch_too(nodes, host, parted, published):
    (host.folder / "models" / "livetalk" / "large").symlink_to(published)
    files = nodes.load.folders.find_model("livetalk/large", PATCH)
    assert len(files.dit) == 3 and files.dit[-1] == host.folder / PATCH and files.missing() == []


def test_a_half_downloaded_folder_hides_itself_and_no_other(nodes, host, published, caplog):
    own = host.folder / "models" / "livetalk"
    (own / "half").mkdir(parents=True)
    (own / "half" / "diffusion_pytorch_model-00001-of-00002.safetensors").write_bytes(b"")
    (own / "large").symlink_to(published)
    host.files = {"diffusion_models": ["x.safetensors"]}
    put_talker(host, published, "x.safetensors")
    assert nodes.load.folders.model_names() == ["nano", "livetalk/large", "diffusion_models/x.safetensors"]
    assert "models/livetalk/half is left out" in caplog.text
    files = nodes.load.folders.find_model("diffusion_models/x.safetensors")
    assert files.tokenizer.is_relative_to(own / "large")


def test_missing_parts_name_comfyuis_folders(nodes, host, published):
    host.files = {"diffusion_models": ["x.safetensors"], "vae": ["Wan2.1_VAE.pth"]}
    put_talker(host, published, "x.safetensors")
    (host.folder / "vae").symlink_to(published)
    with pytest.raises(FileNotFoundError) as error:
        nodes.load.engines.engine_for(nodes.load.engines.EngineSpec(model="diffusion_models/x.safetensors"))
    for place in ("models/text_encoders", "models/clip_vision", "models/audio_encoders", "a folder in models/livetalk"):
        assert place in str(error.value)
    assert "--" not in str(error.value) and "models/vae" not in str(error.value) and "\n" not in str(error.value)


def test_the_loader_shows_the_parts_that_were_found_and_lets_them_be_chosen(nodes, host, published):
    (host.folder / "models" / "livetalk").mkdir(parents=True)
    (host.folder / "models" / "livetalk" / "large").symlink_to(published)
    host.files = {"vae": ["other.pth"]}
    settings = {"model": "livetalk/large", "precision": "auto", "attention": "auto", "gpus": 1, "compile": False}
    shown = nodes.LoadModel.execute(**settings).ui["text"]
    assert "VAE: Wan2.1_VAE.pth" in shown and "audio: " in shown and "missing" not in shown
    inputs = {part.id: part.fields for part in nodes.LoadModel.define_schema().inputs}
    assert inputs["vae"]["options"] == ["auto", "other.pth"] and inputs["vae"]["advanced"]
    (host.folder / "vae").mkdir()
    (host.folder / "vae" / "other.pth").write_bytes((published / "Wan2.1_VAE.pth").read_bytes())
    spec = nodes.LoadModel.execute(**settings, vae="other.pth").args[0]
    assert spec.options.vae == host.folder / "vae" / "other.pth"


def test_the_model_folder_is_made_at_start(nodes, host):
    nodes.host.register_model_folder()
    assert (host.folder / "models" / "livetalk").is_dir()
