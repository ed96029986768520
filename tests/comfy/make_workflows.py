"""Makes workflows/*.json and their thumbnails from workflows/api: each is laid out and run in a real page.

usage: COMFYUI_PATH=... PLAYWRIGHT_CORE=... python tests/comfy/make_workflows.py [NAME ...]
"""

from __future__ import annotations

import json
import sys
import tempfile
import uuid
from pathlib import Path

from browser import browse
from comfy_server import ROOT, WORKFLOWS, Server, workflow
from PIL import Image

GRAPH_AREA = (60, 92, 1600, 720)
"""Of a 1600 x 1000 page, without the bars."""


def main(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder) / "base") as server:
        for name in names or sorted(path.stem for path in WORKFLOWS.glob("*.json")):
            make(server, name, Path(folder) / "shot.png")
            print(name)


def make(server: Server, name: str, shot: Path) -> None:
    laid_out = browse(server.url, prompt=workflow(name), arrange=True, run=False, keepGraph=True)
    graph = laid_out["graph"] | {"id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"livetalk/{name}"))}
    (ROOT / "workflows" / f"{name}.json").write_text(json.dumps(graph, indent=1) + "\n")
    seen = browse(server.url, prompt=workflow(name), arrange=True, vue=True, shot=str(shot))
    assert seen["success"], seen
    with Image.open(shot) as picture:
        small = picture.convert("RGB").crop(GRAPH_AREA).resize((770, 314), Image.Resampling.LANCZOS)
        small.save(ROOT / "workflows" / f"{name}.jpg", quality=85)


if __name__ == "__main__":
    main(sys.argv[1:])
