"""LiveTalk Live Session in a real ComfyUI and a real browser."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from comfy_server import ROOT, full_graph
from made import write_wav

from livetalk_core.media.audio import read_audio

pytestmark = pytest.mark.skipif("PLAYWRIGHT_CORE" not in os.environ, reason="PLAYWRIGHT_CORE is not set, so no browser is tried")


def session_prompt() -> dict:
    """Node 1 loader, 2 picture's reference, 5 session, and the picture."""
    prompt, kinds = full_graph(), ("LiveTalkModelLoader", "LiveTalkReferenceConditioning", "LoadImage")
    nodes = {id: node for id, node in prompt.items() if node["class_type"] in kinds}
    id_of = {node["class_type"]: id for id, node in nodes.items()}
    links = {"engine": [id_of["LiveTalkModelLoader"], 0], "reference": [id_of["LiveTalkReferenceConditioning"], 0]}
    nodes[id_of["LiveTalkReferenceConditioning"]]["inputs"]["size"] = "128"
    return nodes | {"50": {"class_type": "LiveTalkLiveSession", "inputs": links | {"seed": 1, "steps": 0}}}


def browse(folder: Path, **job: object) -> dict:
    speech = np.concatenate(list(read_audio(ROOT / "livetalk_core" / "assets" / "speech.flac", rate=48000)))[: 48000 * 8]
    wav = write_wav(folder / "speech.wav", speech, rate=48000)
    command = ["node", str(Path(__file__).parent / "session.cjs"), json.dumps({"wav": str(wav), "node": 50, **job})]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("vue", [False, True])
def test_a_session_lives_in_its_node_beside_the_queue_and_ends_with_it(server, vue, tmp_path):
    shot = os.environ.get("SESSION_SHOT", str(tmp_path / "page"))
    seen = browse(tmp_path, url=server.url, prompt=session_prompt(), vue=vue, shot=f"{shot}_{vue}.png")
    print(seen)
    assert not seen["errors"] and "sound to lips" in seen["text"]
    assert (seen["opened"], seen["afterTabChange"], seen["afterReturn"], seen["afterRemoval"]) == (1, 1, 1, 0)


def test_other_prompts_run_meanwhile_and_unloading_the_model_ends_the_session(server):
    entry = server.run(session_prompt())
    assert entry["status"]["status_str"] == "success" and len(server.get("/livetalk/sessions")) == 1
    assert server.run(full_graph(0.5))["status"]["status_str"] == "success", "the queue goes on"
    assert len(server.get("/livetalk/sessions")) == 1
    server.post("/free", {"unload_models": True})
    server.wait_for(lambda: not server.get("/livetalk/sessions"))
