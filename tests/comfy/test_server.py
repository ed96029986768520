"""The pack in a real ComfyUI: every example runs, a queue shares one engine, stop and unload do what they say, mistakes stay small."""

import json
import os
import time
import wave
from pathlib import Path

import av
import pytest
from comfy_server import WORKFLOWS, failure, full_graph, short_prompt, workflow

from livetalk_core.media.video import probe_video
from livetalk_core.provenance.inspection import inspect_video

CONTRACT = json.loads((Path(__file__).parent / "contract.json").read_text())
LOADED, CLOSED = "engine of nano loaded", "engine of nano closed"
LENGTHS = {"quick start": 63, "full graph": 63, "two speakers": 100, "upscaled": 63}


def test_all_nodes_are_there_with_their_frozen_inputs_and_outputs(server):
    for name, node in CONTRACT.items():
        info = server.get(f"/object_info/{name}")[name]
        inputs = info["input"]["required"] | info["input"].get("optional", {})
        assert set(inputs) == set(node["inputs"])
        assert info["output"] == [kind for _, kind in node["outputs"]]
        for id, entry in node["inputs"].items():
            assert inputs[id][1].get("default") == entry.get("default")


def test_templates_script_help_and_translations_are_served(server):
    names = {path.stem for path in WORKFLOWS.glob("*.json")}
    assert set(server.get("/workflow_templates")["livetalk"]) == names
    assert "/extensions/livetalk/livetalk.js" in server.get("/extensions")
    assert not [path for path in server.get("/extensions") if path.startswith("/extensions/livetalk/") and path.count("/") > 3]
    assert set(server.get("/i18n")["en"]["nodeDefs"]) >= set(CONTRACT)
    assert isinstance(server.get("/livetalk/live"), list)


@pytest.mark.parametrize("name", LENGTHS)
def test_every_example_makes_its_video_with_sound(server, name):
    entry = server.run(workflow(name))
    assert entry["status"]["status_str"] == "success", entry["status"]
    info = probe_video(server.output(entry))
    assert info.fps == 25 and info.frames == LENGTHS[name] and abs(info.audio_duration - info.duration) < 0.1
    assert (info.width, info.height) == {"two speakers": (512, 256), "upscaled": (512, 512)}.get(name, (256, 256))


def test_the_long_video_example_makes_a_minute(server):
    prompt = workflow("long video")
    prompt["2"]["inputs"] |= {"size": "custom", "width": 32, "height": 32, "any_size": True}
    prompt["4"]["inputs"]["steps"] = 1
    assert 1400 < probe_video(server.output(server.run(prompt))).frames < 1600


def test_the_batch_example_makes_a_video_for_each_picture(server):
    entry = server.run(workflow("batch"))
    videos = saved_videos(server, entry)
    assert [probe_video(path).frames for path in videos] == [63, 63] and len(set(videos)) == 2


@pytest.mark.parametrize("each, count", [(True, 3), (False, 1)])
def test_a_batch_in_one_image_gives_a_video_for_each_picture_where_asked(server, each, count):
    prompt = short_prompt(0.2, seed=50)
    prompt["10"] = {"class_type": "RepeatImageBatch", "inputs": {"image": ["1", 0], "amount": 3}}
    prompt["4"]["inputs"] |= {"image": ["10", 0], "each_picture": each}
    assert len(saved_videos(server, server.run(prompt))) == count
    graph = full_graph(0.2)
    graph["11"] = {"class_type": "RepeatImageBatch", "inputs": {"image": ["5", 0], "amount": 3}}
    graph["2"]["inputs"] |= {"image": ["11", 0], "each_picture": each, "size": "custom", "width": 32, "height": 32, "any_size": True}
    assert len(saved_videos(server, server.run(graph))) == count


def test_a_video_gives_picture_and_speech_to_the_next_one(server):
    made = server.output(server.run(short_prompt(0.6, seed=51)))
    (server.base / "input" / "made.mp4").write_bytes(made.read_bytes())
    prompt = short_prompt(seed=52)
    prompt["1"] = {"class_type": "LoadVideo", "inputs": {"file": "made.mp4"}}
    prompt["3"] = {"class_type": "LiveTalkFromVideo", "inputs": {"video": ["1", 0]}}
    prompt["4"]["inputs"] |= {"image": ["3", 0], "audio": ["3", 1]}
    entry = server.run(prompt)
    assert entry["status"]["status_str"] == "success", failure(entry)
    assert probe_video(server.output(entry)).frames in (15, 16), "the sound has whole AAC packets"


def test_a_saved_video_keeps_its_workflow_beside_its_credentials_and_both_are_signed(server):
    """A copy in which one byte of the workflow is changed is no longer as it was signed."""
    graph = {"id": "a workflow", "nodes": [], "extra": {"note": "NOTE-1"}}
    prompt = short_prompt(0.4, seed=61)
    made = server.output(server.wait(server.queue(prompt, graph)))
    found = inspect_video(made, frames=0).credentials
    assert found.state == "valid" and found.by_machine and found.details["model"] == "nano"
    with av.open(str(made)) as file:
        assert json.loads(file.metadata["workflow"]) == graph
        assert {node: entry["inputs"] for node, entry in json.loads(file.metadata["prompt"]).items()} == {
            node: entry["inputs"] for node, entry in prompt.items()
        }
    changed = made.with_name("changed.mp4")
    changed.write_bytes(made.read_bytes().replace(b"NOTE-1", b"NOTE-2"))
    assert inspect_video(changed, frames=0).credentials.state == "altered"


def saved_videos(server, entry) -> list:
    assert entry["status"]["status_str"] == "success", entry["status"]
    files = [file for node in entry["outputs"].values() for file in node.get("images", ()) if file["type"] == "output"]
    return [server.base / "output" / file["subfolder"] / file["filename"] for file in files]


def test_stop_ends_a_run_within_a_second_or_so_and_keeps_the_engine(server):
    server.run(short_prompt())
    loads, files = server.count_in_log(LOADED), set((server.base / "temp").iterdir())
    prompt = short_prompt(12, seed=2)
    prompt["4"]["inputs"] |= {"width": 128, "height": 128, "steps": 4}
    prompt_id = server.queue(prompt)
    server.wait_for(lambda: set((server.base / "temp").iterdir()) - files)
    time.sleep(0.5)
    start = time.monotonic()
    server.post("/interrupt", {})
    entry = server.wait(prompt_id)
    print(f"stopped after {time.monotonic() - start:.2f} s")
    assert failure(entry)["node_type"] == "LiveTalkGenerate" and not entry["outputs"]
    assert not [path for path in (server.base / "temp").iterdir() if path not in files], "nothing half-made is left"
    assert server.run(short_prompt(seed=3))["status"]["status_str"] == "success"
    assert server.count_in_log(LOADED) == loads


def test_unload_models_closes_the_engine_and_the_next_prompt_brings_it_back(server):
    server.run(short_prompt(seed=4))
    loads, closes = server.count_in_log(LOADED), server.count_in_log(CLOSED)
    server.post("/free", {"unload_models": True})
    server.wait_for(lambda: server.count_in_log(CLOSED) == closes + 1)
    assert server.run(short_prompt(seed=5))["status"]["status_str"] == "success"
    assert server.count_in_log(LOADED) == loads + 1


def test_a_cached_loader_still_works_after_unload(server):
    prompt = full_graph(0.4)
    prompt["2"]["inputs"] |= {"size": "custom", "width": 32, "height": 32, "any_size": True}
    server.run(prompt)
    closes = server.count_in_log(CLOSED)
    server.post("/free", {"unload_models": True})
    server.wait_for(lambda: server.count_in_log(CLOSED) == closes + 1)
    prompt["4"]["inputs"]["seed"] = 77
    entry = server.run(prompt)
    assert entry["status"]["status_str"] == "success"
    cached = next(message for kind, message in entry["status"]["messages"] if kind == "execution_cached")
    assert {"1", "2", "3"} <= set(cached["nodes"]), "loader, reference and speech came from the cache"
    assert entry["outputs"]["3"]["text"] == ["10 frames, 0.40 s, 1 speaker(s)"], "and what they showed is shown again"
    assert entry["outputs"]["2"]["images"]


def test_twenty_prompts_load_the_engine_once_and_a_bad_one_spoils_no_other(server):
    write_text_as_picture(server)
    loads = server.count_in_log(LOADED) or 1
    prompts = [short_prompt(0.3, start=0.2 * k, seed=100 + k) for k in range(20)]
    prompts[7]["4"]["inputs"]["width"] = 1000
    ids = [server.queue(prompt) for prompt in prompts]
    entries = [server.wait(prompt_id) for prompt_id in ids]
    assert [k for k, entry in enumerate(entries) if entry["status"]["status_str"] != "success"] == [7]
    assert "width=1000 must be a multiple of 16; nearest: 992 or 1008" in failure(entries[7])["exception_message"]
    assert server.count_in_log(LOADED) == loads


def write_text_as_picture(server) -> None:
    """A text that is called a sound, and a picture of one pixel, in the input folder."""
    from PIL import Image

    (server.base / "input" / "text.wav").write_text("this is no sound\n" * 20)
    Image.new("RGB", (1, 1)).save(server.base / "input" / "dot.png")
    with wave.open(str(server.base / "input" / "cut.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)


def test_a_wrong_model_name_is_refused_on_its_node_before_anything_runs(server):
    prompt = short_prompt()
    prompt["4"]["inputs"]["model"] = "no such model"
    status, answer = server.post("/prompt", {"prompt": prompt})
    (error,) = answer["node_errors"]["4"]["errors"]
    assert status == 400 and "no such model" in error["details"]


@pytest.mark.parametrize(
    "node, change, at, message",
    [
        ("2", {"audio": "text.wav"}, "2", ""),
        ("1", {"image": "dot.png"}, "4", "image is 1x1 pixels; each side must be 32 or more"),
        ("3", {"start_index": 500.0}, "3", ""),
    ],
)
def test_bad_input_is_reported_on_its_node_and_the_server_goes_on(server, node, change, at, message):
    write_text_as_picture(server)
    prompt = short_prompt(seed=6)
    prompt[node]["inputs"] |= change
    status, answer = server.post("/prompt", {"prompt": prompt})
    if status == 200:
        report = failure(server.wait(answer["prompt_id"]))
        assert report["node_id"] == at and message in report["exception_message"]
        assert "\n" not in report["exception_message"].strip()
    else:
        assert at in answer["node_errors"]
    assert server.run(short_prompt(seed=7))["status"]["status_str"] == "success"


def test_latents_go_through_core_nodes_and_back(server):
    prompt = full_graph(1.2)
    prompt["2"]["inputs"] |= {"size": "custom", "width": 64, "height": 64, "any_size": True}
    prompt["11"] = {"class_type": "LatentMultiply", "inputs": {"samples": ["4", 1], "multiplier": 0.9}}
    prompt["12"] = {"class_type": "LiveTalkParallelVAEDecode", "inputs": {"output": "video", "latent": ["11", 0], "engine": ["1", 0]}}
    prompt["12"]["inputs"]["speech"] = ["3", 0]
    prompt["13"] = {"class_type": "SaveVideo", "inputs": {"video": ["12", 1], "filename_prefix": "again", "format": "auto"}}
    prompt["13"]["inputs"]["format.codec"] = "auto"
    entry = server.run(prompt)
    assert entry["status"]["status_str"] == "success", failure(entry)
    files = [server.base / "output" / f["subfolder"] / f["filename"] for node in ("10", "13") for f in entry["outputs"][node]["images"]]
    assert [probe_video(path).frames for path in files] == [30, 30]


def test_live_preview_alone_runs_the_stream_and_its_end_can_still_be_watched(server):
    prompt = {name: node for name, node in full_graph().items() if name not in ("9", "10")}
    prompt["4"]["inputs"]["seed"] = 31
    assert server.run(prompt)["status"]["status_str"] == "success"
    channel = server.get("/livetalk/live")[-1]
    assert (channel["node"], channel["ended"]) == ("8", True) and channel["mime"].startswith("video/mp4")


@pytest.mark.parametrize("settings", [{"precision": "bfloat16"}, {"attention": "sdpa"}])
def test_other_engine_settings_make_other_engines_that_run(server, settings):
    prompt = full_graph(0.4, "long video")
    prompt["1"]["inputs"] |= settings
    prompt["2"]["inputs"] |= {"size": "custom", "width": 32, "height": 32, "any_size": True}
    loads = server.count_in_log(LOADED)
    assert server.run(prompt)["status"]["status_str"] == "success"
    assert server.count_in_log(LOADED) == loads + 1


@pytest.mark.parametrize(
    "settings, message", [({"gpus": 64}, "gpus=64 are too many"), ({"attention": "flash3"}, "is not installed; use 'auto'")]
)
def test_engine_settings_that_this_machine_cannot_do_are_refused_on_the_loader(server, settings, message):
    prompt = full_graph()
    prompt["1"]["inputs"] |= settings
    report = failure(server.run(prompt))
    assert report["node_type"] == "LiveTalkModelLoader" and message in report["exception_message"]


def short_graph(options: dict) -> dict:
    """The full graph at 32 x 32 for 0.4 s, with LiveTalk Engine Options at its loader."""
    prompt = full_graph(0.4)
    prompt["2"]["inputs"] |= {"size": "custom", "width": 32, "height": 32, "any_size": True}
    prompt["20"] = {"class_type": "LiveTalkEngineOptions", "inputs": options}
    prompt["1"]["inputs"]["options"] = ["20", 0]
    return prompt


@pytest.mark.parametrize("options, said", [({"memory": "offload", "weights": "int8"}, ""), ({"workers": 2}, "2 processes on the CPU")])
def test_engine_options_make_the_engine_that_they_ask_for(server, options, said):
    loads = server.count_in_log(LOADED)
    entry = server.run(short_graph(options))
    assert entry["status"]["status_str"] == "success", failure(entry)
    assert server.count_in_log(LOADED) == loads + 1 and said in server.log()


def test_engine_options_that_do_not_fit_are_refused_in_the_words_of_the_nodes(server):
    report = failure(server.run(short_graph({"memory": "sharded", "compile": True})))
    assert report["node_type"] == "LiveTalkEngineOptions" and "choose another memory" in report["exception_message"]
    report = failure(server.run(short_graph({"memory": "sharded"})))
    assert report["node_type"] == "LiveTalkModelLoader" and "memory='sharded' shares the weights" in report["exception_message"]


def test_the_output_that_was_not_chosen_names_the_way_out(server):
    prompt = full_graph(0.3, "upscaled")
    prompt["9"]["inputs"]["output"] = "video"
    entry = server.run(prompt)
    assert "set its output to images" in failure(entry)["exception_message"]


@pytest.mark.skipif("COMFYUI_PATH" not in os.environ, reason="COMFYUI_PATH is not set")
def test_the_server_is_still_up_and_nothing_was_logged_as_a_failed_import(server):
    assert server.process.poll() is None
    assert "IMPORT FAILED" not in server.log() and "Cannot import" not in server.log()
