"""Number: what the pack costs a starting ComfyUI, in seconds, and which heavy modules it brings in (none).

usage: COMFYUI_PATH=... python tests/comfy/bench_startup.py
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
CODE = """
import asyncio, importlib.util, sys, time
import comfy.cli_args
comfy.cli_args.args.cpu = True
import comfy_api.latest, folder_paths, nodes as core, server  # what ComfyUI has loaded before any pack
folder_paths.set_input_directory({folder!r})
async def start():
    spec = importlib.util.spec_from_file_location("pack", {root!r} + "/__init__.py", submodule_search_locations=[{root!r}])
    sys.modules["pack"] = pack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pack)
    extension = await pack.comfy_entrypoint()
    await extension.on_load()
    return [node.GET_SCHEMA().node_id for node in await extension.get_node_list()]
before, begin = set(sys.modules), time.perf_counter()
nodes = asyncio.run(start())
seconds = time.perf_counter() - begin
new = sorted(set(sys.modules) - before)
heavy = [name for name in new if name.startswith(("torch", "transformers", "av", "livetalk_core.models", "livetalk_core.engine.engine"))]
print(f"{{seconds:.3f}} s for {{len(nodes)}} nodes, {{len(new)}} modules, heavy ones: {{heavy or 'none'}}")
"""


def main() -> None:
    import tempfile

    python = os.environ.get("COMFYUI_PYTHON", sys.executable)
    with tempfile.TemporaryDirectory() as folder:
        code = CODE.format(root=str(ROOT), folder=folder)
        subprocess.run([python, "-c", code], cwd=os.environ["COMFYUI_PATH"], check=True, env={**os.environ, "PYTHONPATH": ""})


if __name__ == "__main__":
    main()
