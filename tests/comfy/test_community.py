"""The workflow *Community files* in a real ComfyUI: it takes the set that is there, and says what is missing where it is not."""

from __future__ import annotations

import pytest
from comfy_server import Server, failure, workflow
from community_files import BASES, LORA, NAMES, PATCH, write_set

from livetalk_core.media.video import probe_video


@pytest.fixture
def bare(checkout, tmp_path):
    """A server without model files."""
    with Server(tmp_path / "base") as server:
        yield server


def short() -> dict:
    """The workflow with 0.4 s of speech and one step at 64 x 48."""
    prompt = workflow("community files")
    prompt["6"]["inputs"]["audio"] = "livetalk_speech.flac"
    prompt["7"] = {"class_type": "TrimAudioDuration", "inputs": {"audio": ["6", 0], "start_index": 0.0, "duration": 0.4}}
    prompt["3"]["inputs"]["audio"] = ["7", 0]
    prompt["2"]["inputs"] |= {"size": "custom", "width": 64, "height": 48, "any_size": True}
    prompt["4"]["inputs"]["steps"] = 1
    return prompt


def test_the_set_is_found_and_talks_and_what_is_missing_is_said(bare):
    told = failure(bare.run(short()))["exception_message"]
    assert "no whole set of files was found, missing a Wan 2.1 I2V 14B base" in told and "clip_vision_h.safetensors" in told
    assert told.strip().count("\n") == 0
    for base in ("fp8", "gguf"):
        for path in (bare.base / "models" / "diffusion_models").glob("wan*"):
            path.unlink()
        write_set(bare.base / "models", base)
        info = bare.get("/object_info/LiveTalkModelLoader")["LiveTalkModelLoader"]["input"]
        assert f"diffusion_models/{BASES[base]}" in str(info) and f"model_patches/{PATCH}" in str(info)
        prompt = short()
        prompt["4"]["inputs"]["seed"] = len(base)
        entry = bare.run(prompt)
        assert entry["status"]["status_str"] == "success", entry["status"]
        shown = str(entry["outputs"]["1"])
        assert all(name in shown for name in (BASES[base], PATCH, LORA, *NAMES.values())), shown
        assert probe_video(bare.output(entry)).frames == 10
    listed = bare.get("/models/diffusion_models")
    assert not any(name.endswith(".gguf") for name in listed), "ComfyUI's own list is as it was"
    wrong = short()
    wrong["1"]["inputs"]["model"] = f"model_patches/{PATCH}"
    status, answer = bare.post("/prompt", {"prompt": wrong})
    assert status == 400 and "is an audio patch" in str(answer) and "choose it as the audio patch" in str(answer)
