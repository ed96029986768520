"""The example workflows are readable when they open: three columns, captions, nothing on top of anything, no wire behind a node."""

import copy
import json
import sys

import pytest
from standin import ROOT

sys.path.append(str(ROOT / "tests" / "comfy"))
from layout import boxes, hidden_wires  # noqa: E402

GRAPHS = {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "workflows").glob("*.json"))}


def overlap(a, b) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@pytest.mark.parametrize("name", GRAPHS)
def test_an_example_has_three_columns_with_captions_and_no_wire_behind_a_node(name):
    graph = GRAPHS[name]
    places = boxes(graph)
    assert len({node["pos"][0] for node in graph["nodes"]}) == 3 and all(group["title"] for group in graph["groups"])
    assert not [(a, b) for a in places for b in places if a < b and overlap(places[a], places[b])]
    for left, top, right, bottom in places.values():
        inside = [(x, y, x + w, y + h) for x, y, w, h in (group["bounding"] for group in graph["groups"])]
        assert any(x <= left and y <= top and right <= x1 and bottom <= y1 for x, y, x1, y1 in inside), "in a group"
    assert not hidden_wires(graph)


def test_a_wire_behind_a_node_is_noticed():
    graph = copy.deepcopy(next(graph for name, graph in GRAPHS.items() if "full graph" in name))
    graph["extra"] |= {"reroutes": [], "linkExtensions": []}
    assert hidden_wires(graph)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_saved_value_belongs_to_an_input_and_none_to_what_the_page_adds(name):
    for node in GRAPHS[name]["nodes"]:
        if node["type"].startswith("LiveTalk"):
            named = node["widgets_values_named"]
            assert node["widgets_values"] == list(named.values()) and not [key for key in named if "livetalk" in key]
