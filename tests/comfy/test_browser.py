"""The pack in Chromium with the real frontend, classic canvas and Nodes 2.0: graphs load and run, the live picture plays with sound."""

import json
import os

import pytest
from browser import browse
from comfy_server import ROOT, full_graph, workflow
from layout import outside, overlaps

pytestmark = pytest.mark.skipif("PLAYWRIGHT_CORE" not in os.environ, reason="PLAYWRIGHT_CORE is not set, so no browser is tried")
NAMES = sorted(path.stem for path in (ROOT / "workflows").glob("*.json") if "community" not in path.stem)  # it needs files
RENDERERS = {"classic": False, "vue": True}


def saved(name: str) -> dict:
    return json.loads((ROOT / "workflows" / f"{name}.json").read_text())


@pytest.mark.parametrize("renderer", RENDERERS)
def test_a_run_shows_progress_and_a_live_picture_with_sound_before_it_ends(server, renderer, tmp_path):
    prompt = full_graph(6.0)
    prompt["4"]["inputs"]["seed"] = 10 + RENDERERS[renderer]
    seen = browse(server.url, prompt=prompt, measure=True, vue=RENDERERS[renderer], shot=str(tmp_path / "page.png"))
    print(renderer, {name: seen[name] for name in ("playedDuring", "times", "audio", "frames", "texts", "previews")})
    assert seen["success"] and not seen["errors"] and not seen["missing"]
    assert seen["progress"] == 1
    assert seen["playedDuring"] > 0, "video.currentTime moved while the chunks were being made"
    assert seen["times"][-1] > seen["times"][0] and seen["audio"] > 1000 and seen["visible"]
    assert all(word in seen["texts"][-1] for word in ("first ", "fps", "RTF", "150/150 frames"))


def test_a_page_that_is_reloaded_during_a_run_plays_on(server):
    prompt = full_graph(9.0)
    prompt["2"]["inputs"]["size"] = "128"
    prompt["4"]["inputs"]["seed"] = 20
    seen = browse(server.url, prompt=prompt, measure=True, reload=True)
    assert seen["success"] and not seen["errors"]
    assert seen["playedDuring"] > 0 and seen["frames"] > 28 and seen["audio"] > 1000


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_workflow_loads_and_runs(server, name):
    seen = browse(server.url, graph=saved(name), vue=NAMES.index(name) % 2 == 1)
    assert seen["success"] and not seen["errors"] and not seen["missing"], seen
    assert seen["nodes"] == len(workflow(name))
    drawn, groups = seen["boxes"]["nodes"], seen["boxes"]["groups"]
    assert not overlaps(drawn) and not outside(drawn, groups), "nodes have room for what they grow to"


def test_a_workflow_saved_with_a_value_for_the_player_still_runs(server):
    graph = saved(next(name for name in NAMES if "quick start" in name))
    node = next(node for node in graph["nodes"] if node["type"] == "LiveTalkGenerate")
    node["widgets_values"].append("")
    del node["widgets_values_named"]
    seen = browse(server.url, graph=graph, timeout_s=60)
    assert seen["success"] and not seen["errors"], seen


def test_no_gap_is_left_below_the_prompt_in_nodes_2(server):
    seen = browse(server.url, graph=saved(next(name for name in NAMES if "quick start" in name)), vue=True, run=False)
    assert 0 <= seen["gap"] < 30, seen["gap"]


def test_a_workflow_with_an_unknown_node_is_noticed(server):
    graph = saved(next(name for name in NAMES if "quick start" in name))
    graph["nodes"][0]["type"] = "LiveTalkNoSuchNode"
    seen = browse(server.url, graph=graph, run=False)
    assert seen["missing"] == ["LiveTalkNoSuchNode"]
