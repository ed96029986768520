"""A stand-in for the parts of ComfyUI that the nodes touch, so that they are tested without it.

`python tests/standin.py > tests/comfy/contract.json` freezes the nodes' inputs and outputs anew, on purpose.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

ROOT = Path(__file__).parent.parent


class Kind:
    """io.Image, io.Combo, ...: its Input and Output keep what they are given."""

    def __init__(self, name: str) -> None:
        self.name = name

    def Input(self, id: str, **fields) -> SimpleNamespace:
        return SimpleNamespace(kind=self.name, id=id, fields=fields)

    Output = Input


class Io:
    """comfy_api's `io`."""

    class ComfyNode:
        hidden = SimpleNamespace(unique_id="4", dynprompt=SimpleNamespace(get_original_prompt=dict), extra_pnginfo=None)

    class NodeOutput:
        def __init__(self, *args, ui=None) -> None:
            self.args, self.ui = args, ui

    Schema = SimpleNamespace
    Custom = Kind
    Input = object
    Hidden = SimpleNamespace(unique_id="unique_id", dynprompt="dynprompt", extra_pnginfo="extra_pnginfo")

    def __getattr__(self, name: str) -> Kind:
        return Kind(name.upper())


class Interrupted(BaseException):
    """As ComfyUI's, no Exception."""


class Host:
    """What a test asks of the stand-in, and what it hears from the nodes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checks_left = 10**9
        self.progress: list[tuple[float, int]] = []
        self.pictures: list[tuple[tuple[int, int], bool]] = []
        self.lines: list[str] = []
        self.loaded: list = []
        self.files: dict[str, list[str]] = {}

    def check(self) -> None:
        self.checks_left -= 1
        if self.checks_left < 0:
            raise Interrupted

    def load_models(self, patchers) -> None:
        """As ComfyUI does it: an entry that is there already is detached without unloading, then loaded again."""
        for patcher in patchers:
            if patcher in self.loaded:
                patcher.detach(unpatch_all=False)
            else:
                self.loaded.append(patcher)
            patcher.partially_load("cpu", 0)

    def unload_all(self) -> None:
        while self.loaded:
            self.loaded.pop().detach(True)

    def set_progress(self, value, max_value, preview_image=None, ignore_size_limit=False) -> None:
        self.progress.append((value, max_value))
        self.pictures += [] if preview_image is None else [(preview_image.size, ignore_size_limit)]


def modules(host: Host) -> dict[str, ModuleType]:
    """The modules the nodes import from ComfyUI."""
    sync = lambda: SimpleNamespace(execution=SimpleNamespace(set_progress=host.set_progress))  # noqa: E731
    pictures = SimpleNamespace(PreviewImage=lambda image, cls: {"images": image}, PreviewText=lambda text: {"text": text})
    server = SimpleNamespace(send_progress_text=lambda text, node: host.lines.append(text), send_sync=lambda *told: None)
    paths = {"livetalk": [str(host.folder / "models" / "livetalk")]}
    parts = {
        "comfy_api": {},
        "comfy_api.latest": {
            "io": Io(), "ui": pictures, "ComfyExtension": object, "ComfyAPISync": sync,
            "InputImpl": SimpleNamespace(VideoFromFile=Filed, VideoFromComponents=Held),
        },
        "comfy": {},
        "comfy.model_management": {
            "throw_exception_if_processing_interrupted": host.check, "load_models_gpu": host.load_models, "get_torch_device": lambda: "cpu",
            "get_free_memory": lambda device: 10**9,
        },
        "comfy.model_patcher": {"ModelPatcher": Patcher},
        "comfy_execution": {},
        "comfy_execution.utils": {"get_executing_context": lambda: SimpleNamespace(node_id="4")},
        "comfy_execution.graph": {"ExecutionBlocker": lambda message: SimpleNamespace(message=message)},
        "folder_paths": {
            "models_dir": str(host.folder / "models"), "folder_names_and_paths": {key: (value, set()) for key, value in paths.items()},
            "supported_pt_extensions": {".safetensors"}, "add_model_folder_path": lambda key, path: paths.setdefault(key, [path]),
            "get_folder_paths": lambda key: paths[key], "get_filename_list": lambda key: host.files.get(key, []),
            "get_input_directory": lambda: host.folder / "input",
            "get_temp_directory": lambda: str(host.folder / "temp"), "get_full_path_or_raise": lambda key, name: host.folder / key / name,
        },
        "server": {"PromptServer": SimpleNamespace(instance=server)},
    }  # fmt: skip
    made = {name: ModuleType(name) for name in parts}
    for name, values in parts.items():
        vars(made[name]).update(values)
    made["comfy"].model_management = made["comfy.model_management"]
    return made


class Held:
    """ComfyUI's VIDEO of frames in memory."""

    def __init__(self, components) -> None:
        self.get_components = lambda: components


class Filed:
    """ComfyUI's VIDEO of a file. Its metadata goes into a copy of another program's making."""

    def __init__(self, path) -> None:
        self.path, self.file = Path(path), path

    def save_to(self, path, metadata=None) -> None:
        import av

        with av.open(str(self.path)) as source, av.open(str(path), "w", options={"movflags": "use_metadata_tags"}) as sink:
            sink.metadata.update(metadata or {})
            streams = {stream: sink.add_stream_from_template(stream) for stream in source.streams}
            for packet in source.demux():
                if packet.dts is not None:
                    packet.stream = streams[packet.stream]
                    sink.mux(packet)


class Patcher:
    """ComfyUI's ModelPatcher, as far as ours relies on it."""

    def __init__(self, model, load_device, offload_device) -> None:
        self.model, self.load_device, self.offload_device = model, load_device, offload_device


def load_pack(host: Host) -> ModuleType:
    """The pack as ComfyUI loads it: under a made-up name, with its nodes inside. Its modules are attributes of `nodes`."""
    for name in [name for name in sys.modules if name.startswith("livetalk_pack")]:
        del sys.modules[name]
    sys.modules.update(modules(host))
    spec = importlib.util.spec_from_file_location("livetalk_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    pack = sys.modules["livetalk_pack"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pack)
    pack.nodes = importlib.import_module("livetalk_pack.nodes")
    return pack


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


@pytest.fixture
def nodes(host):
    """The package `nodes` on the stand-in; the stand-in's modules go afterwards."""
    before = {name: sys.modules.get(name) for name in modules(host)}
    yield load_pack(host).nodes
    for name, module in before.items():
        if module is None:
            sys.modules.pop(name, None)
        else:
            sys.modules[name] = module


def contract(nodes: ModuleType) -> dict:
    """All that a saved workflow relies on: ids, inputs with their choices, ranges and defaults, outputs in their order."""
    return {schema.node_id: describe(schema) for schema in (node.define_schema() for node in nodes.NODES)}


def describe(schema: SimpleNamespace) -> dict:
    inputs = {part.id: {"type": part.kind} | {k: v for k, v in part.fields.items() if k != "tooltip"} for part in schema.inputs}
    return {"inputs": inputs, "outputs": [[part.id, part.kind] for part in schema.outputs]}


if __name__ == "__main__":
    print(json.dumps(contract(load_pack(Host(Path("/nonexistent"))).nodes), indent=1))
