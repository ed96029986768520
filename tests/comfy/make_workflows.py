"""Makes workflows/*.json and their thumbnails from workflows/api: sizes come from real pages after a run, the pictures from its video.

usage: COMFYUI_PATH=... PLAYWRIGHT_CORE=... python tests/comfy/make_workflows.py [--layout] [NAME ...]

--layout keeps the thumbnails. *Community files* cannot run without its files; its nodes are as high as those of the full graph.
The template browser asks for NAME.jpg. A browser shows a picture by its content, so that file holds an animated WebP.
"""

from __future__ import annotations

import json
import sys
import tempfile
import uuid
from pathlib import Path

import numpy as np
from browser import browse
from comfy_server import ROOT, WORKFLOWS, Server, workflow
from layout import TITLE, hidden_wires, lay_out
from PIL import Image

from livetalk_core.media.video import read_frames

CARD = (288, 216)
"""Pixels of a thumbnail: the cards of the template browser are about 4:3."""
EVERY, MOST = 3, 25
"""Every third frame, at most 25 of them: about three seconds at the film's own speed."""
QUALITY = 60
LISTED = 120
"""Pixels for the names of all files of *Community files*, which its loader shows after a run."""


def main(names: list[str]) -> None:
    thumbnails = "--layout" not in names
    names = [name for name in names if name != "--layout"]
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder) / "base") as server:
        for path in sorted(WORKFLOWS.glob("*.json")):
            if not names or any(name in path.stem for name in names):
                make_layout(server, path)
                if thumbnails and "community" not in path.stem:
                    make_thumbnail(server, path)
                print(path.stem, flush=True)


def make_layout(server: Server, path: Path) -> None:
    measured = browse(server.url, prompt=json.loads(path.read_text()), measure=True, run=False, keepGraph=True)["graph"]
    if "community" in path.stem:
        next(node for node in measured["nodes"] if node["type"] == "LiveTalkModelLoader")["size"][1] += LISTED
    graph = lay_out(measured, heights_after_run(server, path)) | {"id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"livetalk/{path.stem}"))}
    assert not hidden_wires(graph), hidden_wires(graph)
    (ROOT / "workflows" / path.name).write_text(json.dumps(graph, indent=1) + "\n")


def heights_after_run(server: Server, path: Path) -> dict[int, float]:
    """Pixels of each node in the renderer that needs more."""
    prompt = shortened(workflow("full graph") if "community" in path.stem else json.loads(path.read_text()))
    found: dict[int, float] = {}
    for vue in (False, True):
        seen = browse(server.url, prompt=prompt, measure=True, vue=vue)
        assert seen["success"], seen
        for id, (_, top, _, bottom) in seen["boxes"]["nodes"].items():
            found[int(id)] = max(found.get(int(id), 0), bottom - top - TITLE)
    return found


def shortened(prompt: dict) -> dict:
    """A minute is too long."""
    for node in prompt.values():
        if node["inputs"].get("audio") == "livetalk_speech.flac":
            node["inputs"]["audio"] = "livetalk_hello.flac"
    return prompt


def make_thumbnail(server: Server, path: Path) -> None:
    entry = server.run(shortened(json.loads(path.read_text())))
    saved = [file for node in entry["outputs"].values() for file in node.get("images", ()) if file["type"] == "output"]
    videos = [server.base / "output" / file["subfolder"] / file["filename"] for file in saved]
    write_thumbnail(videos, ROOT / "workflows" / f"{path.stem}.jpg")


def write_thumbnail(videos: list[Path], path: Path) -> None:
    """The videos side by side, as an animated WebP."""
    films = [list(read_frames(video))[::EVERY][:MOST] for video in videos]
    pictures = [on_card([film[k] for film in films]) for k in range(min(map(len, films)))]
    pictures[0].save(path, "WEBP", save_all=True, append_images=pictures[1:], duration=EVERY * 40, loop=0, quality=QUALITY, method=6)


def on_card(frames: list[np.ndarray]) -> Image.Image:
    """Frames [H, W, 3] side by side in the middle of a card."""
    joined = Image.fromarray(np.concatenate(frames, axis=1))
    scale = min(CARD[0] / joined.width, CARD[1] / joined.height)
    joined = joined.resize((round(joined.width * scale), round(joined.height * scale)), Image.Resampling.LANCZOS)
    card = Image.new("RGB", CARD, (32, 34, 38))
    card.paste(joined, ((CARD[0] - joined.width) // 2, (CARD[1] - joined.height) // 2))
    return card


if __name__ == "__main__":
    main(sys.argv[1:])
