"""What saved workflows rely on does not change by accident; what a user reads is there; starting ComfyUI costs nothing."""

import ast
import asyncio
import copy
import importlib.util
import json
import re
import subprocess
import sys

import pytest
from made import HANG_S
from PIL import Image
from standin import ROOT, contract

from livetalk_core.presets import BY_NAME, PROMPT, livetalk_14b
from livetalk_core.types import StreamSettings

FROZEN = json.loads((ROOT / "tests" / "comfy" / "contract.json").read_text())
UNITS = re.compile(r"\d")


def test_ids_inputs_outputs_and_defaults_are_those_that_are_frozen(nodes):
    assert json.dumps(contract(nodes)) == json.dumps(FROZEN), "run `python tests/standin.py > tests/comfy/contract.json` if this is meant"


@pytest.mark.parametrize("where", ["default", "min", "options", "type"])
def test_a_changed_input_is_noticed(nodes, where):
    changed = copy.deepcopy(FROZEN)
    inputs = [entry for node in changed.values() for entry in node["inputs"].values() if where in entry]
    inputs[0][where] = "changed"
    assert contract(nodes) != changed


def test_every_input_and_output_has_a_tooltip_and_numbers_name_their_range(nodes):
    for node in nodes.NODES:
        schema = node.define_schema()
        for part in (*schema.inputs, *schema.outputs):
            assert len(part.fields["tooltip"]) > 10, (schema.node_id, part.id)
            if "min" in part.fields:
                assert UNITS.search(part.fields["tooltip"]), (schema.node_id, part.id)
        assert schema.node_id.startswith("LiveTalk") and schema.description and schema.search_aliases


def test_defaults_are_the_cores_own(nodes):
    fields = {part.id: part.fields for node in nodes.NODES for part in node.define_schema().inputs}
    settings = StreamSettings()
    for name in ("seed", "color_strength", "loudness", "audio_strength"):
        assert fields[name]["default"] == vars(settings)[name]
    assert fields["prompt"]["default"] == PROMPT
    for name in ("steps", "shift", "text_guidance", "audio_guidance"):
        assert vars(settings)[name] is None and fields[name]["default"] == 0, f"{name}: 0 is the model's own"
    assert settings.prompts == () and settings.negative_prompt is None
    assert fields["prompt_at"]["default"] == fields["negative_prompt"]["default"] == ""


def test_what_the_texts_say_of_the_shipped_model_is_so(nodes):
    texts = {part.id: part.fields["tooltip"] for node in nodes.NODES for part in node.define_schema().inputs}
    large, small = livetalk_14b(), BY_NAME[nodes.load.folders.SHIPPED]()
    assert f"{large.shift:g} for the published 14B and {small.shift:g} for {small.name}" in texts["shift"]
    assert f"C is {large.vae.z_dim} (Wan 2.1), for {small.name} {small.vae.z_dim}" in texts["latent"]
    assert f"{small.name} comes with the pack: drawn people and close photographs at {small.bucket} pixels" in texts["model"]
    assert f"distilled for {small.steps}" in texts["steps"] and small.trained


def test_the_shipped_model_comes_first_and_is_the_default(nodes, host):
    (host.folder / "models" / "livetalk" / "another").mkdir(parents=True)
    (host.folder / "models" / "livetalk" / "another" / "diffusion_pytorch_model.safetensors").touch()
    model = next(part for part in nodes.NODES[0].define_schema().inputs if part.id == "model")
    assert model.fields["options"] == [nodes.load.folders.SHIPPED, "livetalk/another", "auto"]
    assert model.fields["default"] == nodes.load.folders.SHIPPED == "nano"


def test_listing_the_nodes_does_not_load_torch():
    code = "import standin, sys, pathlib as p; h = standin.Host(p.Path('/nowhere')); standin.contract(standin.load_pack(h).nodes)"
    code = f"import sys; sys.modules['pytest'] = type(sys)('pytest'); sys.modules['pytest'].fixture = lambda f: f; {code}"
    code += "; print([name for name in ('torch', 'transformers', 'av', 'numpy') if name in sys.modules])"
    paths = f"{ROOT}:{ROOT / 'tests'}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG_S, env={"PYTHONPATH": paths})
    assert done.stdout.strip() == "[]", done.stderr


def test_only_the_adapter_imports_comfyuis_node_api():
    importers = [path.name for path in (ROOT / "nodes").glob("*.py") if "comfy_api" in modules_imported(path)]
    assert importers == ["types.py"]


def test_the_core_is_imported_absolutely_and_comfyui_inside_functions():
    for path in (ROOT / "nodes").glob("*.py"):
        tree = ast.parse(path.read_text())
        assert not any(isinstance(node, ast.ImportFrom) and node.level > 1 for node in ast.walk(tree)), path
        if path.name not in ("types.py", "patcher.py"):
            top = {name for node in tree.body for name in imported(node)}
            assert not top & {"comfy", "folder_paths", "server", "torch", "numpy"}, path


def modules_imported(path) -> set[str]:
    return {name for node in ast.walk(ast.parse(path.read_text())) for name in imported(node)}


def imported(node) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name.split(".")[0] for alias in node.names]
    return [node.module.split(".")[0]] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []


def test_the_door_appends_to_the_path_and_offers_the_v3_entry_only():
    door = (ROOT / "__init__.py").read_text()
    assert "sys.path.append" in door and "insert" not in door
    assert "NODE_CLASS_MAPPINGS" not in door and "async def comfy_entrypoint" in door


def test_every_node_has_its_help_page_and_its_texts_in_both_languages():
    for language in ("en", "zh"):
        texts = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text())
        assert set(texts) == set(FROZEN)
        for name, node in FROZEN.items():
            assert set(texts[name]["inputs"]) == set(node["inputs"]), (language, name)
            assert texts[name]["display_name"] and texts[name]["description"]
    for name, node in FROZEN.items():
        page = (ROOT / "web" / "docs" / f"{name}.md").read_text()
        assert all(f"`{input}`" in page for input in node["inputs"]), name


def test_help_and_english_texts_say_what_the_tooltips_say(nodes):
    texts = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text())
    for schema in (node.define_schema() for node in nodes.NODES):
        page = (ROOT / "web" / "docs" / f"{schema.node_id}.md").read_text()
        for part in schema.inputs:
            assert f"- `{part.id}`: {part.fields['tooltip']}\n" in page
            assert texts[schema.node_id]["inputs"][part.id]["tooltip"] == part.fields["tooltip"]


def test_every_workflow_has_an_api_twin_a_thumbnail_and_only_known_inputs():
    names = {path.stem for path in (ROOT / "workflows").glob("*.json")}
    assert names == {path.stem for path in (ROOT / "workflows" / "api").glob("*.json")} and len(names) == 7
    for name in names:
        with Image.open(ROOT / "workflows" / f"{name}.jpg") as thumbnail:
            assert thumbnail.format == "WEBP" and thumbnail.n_frames >= 10, "it shows the face talking"
        assert (ROOT / "workflows" / f"{name}.jpg").stat().st_size < 100_000
        assert all(word in name.lower() for word in ("livetalk ", "talking", "avatar", "lip sync")), "the template browser searches names"
        for node in json.loads((ROOT / "workflows" / "api" / f"{name}.json").read_text()).values():
            if node["class_type"].startswith("LiveTalk"):
                assert set(node["inputs"]) <= set(FROZEN[node["class_type"]]["inputs"])


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "workflows").glob("*.json")))
def test_a_workflow_and_its_twin_have_the_same_values_with_model_and_shift_at_their_defaults(name):
    shown = {str(node["id"]): node for node in json.loads((ROOT / "workflows" / f"{name}.json").read_text())["nodes"]}
    prompt = json.loads((ROOT / "workflows" / "api" / f"{name}.json").read_text())
    for id, node in prompt.items():
        if node["class_type"].startswith("LiveTalk"):
            saved = shown[id].get("widgets_values_named", {})
            assert shown[id]["widgets_values"][: len(saved)] == list(saved.values())
            values = {key: value for key, value in node["inputs"].items() if not isinstance(value, list)}
            assert values == {key: saved[key] for key in values}
            for key in {"model", "shift", "audio_patch"} & set(values):
                found = key == "model" and "community files" in name
                assert values[key] == ("auto" if found else FROZEN[node["class_type"]]["inputs"][key]["default"])


def test_a_missing_package_is_one_line_and_stops_nothing(nodes, caplog, monkeypatch):
    nodes.startup.report_missing()
    assert not caplog.records
    monkeypatch.setattr(nodes.startup, "PACKAGES", ("json", "no_such_package"))
    nodes.startup.report_missing()
    assert [record.getMessage().count("\n") for record in caplog.records] == [0]
    assert "no_such_package" in caplog.text and "requirements.txt" in caplog.text


def test_samples_are_copied_once_and_a_users_file_is_left_alone(nodes, tmp_path):
    (tmp_path / "livetalk_portrait.jpg").write_text("mine")
    nodes.startup.copy_samples(tmp_path)
    assert (tmp_path / "livetalk_portrait.jpg").read_text() == "mine"
    assert (tmp_path / "livetalk_speech.flac").read_bytes()[:4] == b"fLaC"


def test_a_second_copy_of_the_pack_warns_once_with_both_paths_and_uses_no_other_core(nodes, tmp_path, caplog, monkeypatch):
    class Extension:
        pass

    monkeypatch.setattr(sys.modules["comfy_api.latest"], "ComfyExtension", Extension)
    (tmp_path / "copy" / "livetalk_core").mkdir(parents=True)
    (tmp_path / "copy" / "__init__.py").write_text((ROOT / "__init__.py").read_text())
    spec = importlib.util.spec_from_file_location("second_copy", tmp_path / "copy" / "__init__.py")
    second = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "path", sys.path[:])
    spec.loader.exec_module(second)
    assert asyncio.run(asyncio.run(second.comfy_entrypoint()).get_node_list()) == [] and not hasattr(second, "WEB_DIRECTORY")
    (record,) = caplog.records
    assert str(ROOT) in record.getMessage() and str(tmp_path / "copy") in record.getMessage()
