"""Where the nodes of a workflow stand: three columns, a group with a caption for each, wires that pass behind no node."""

from __future__ import annotations

from itertools import pairwise

Point = tuple[float, float]
Box = tuple[float, float, float, float]

COLUMN, MARGIN, GAP, TITLE, SLOT = 350, 120, 50, 30, 20
"""Pixels: width of a node, space between columns, space between nodes, height of a node's title, distance of its slots."""
LANE = 16
COLORS = ("#3f5159", "#593930", "#335533")
SECOND = ("LiveTalkGenerate", "LiveTalkReferenceConditioning", "LiveTalkAudioEmbedding")
FIRST = ("LoadImage", "LoadImageMask", "LoadAudio", "LoadImageDataSetFromFolder", "LiveTalkModelLoader")
CAPTIONS = ("1. Picture, speech, model", "2. Who talks, and how", "3. Make and save the video")


def lay_out(graph: dict) -> dict:
    """The graph with every node at its place, groups around the columns and reroutes for wires that would pass behind a node."""
    columns = [[], [], []]
    for node in sorted(graph["nodes"], key=lambda node: order(graph, node)):
        columns[column_of(node)].append(node)
    for k, nodes in enumerate(columns):
        y = 0.0
        for node in nodes:
            node["pos"], node["size"] = [k * (COLUMN + MARGIN), y], [COLUMN, node["size"][1]]
            y += node["size"][1] + GAP + TITLE
    graph["groups"] = [group(k + 1, nodes) for k, nodes in enumerate(columns)]
    reroutes, ends, lanes = [], [], 0
    for link in graph["links"]:
        points = detour(graph, link, lanes)
        lanes += len(points) == 4
        for parent, point in enumerate(points):
            more = {"parentId": len(reroutes)} if parent else {}
            reroutes.append({"id": len(reroutes) + 1, **more, "pos": list(point), "linkIds": [link[0]]})
        ends += [{"id": link[0], "parentId": len(reroutes)}] if points else []
    graph["extra"] = {"ds": {"scale": 0.8, "offset": [90, 170]}, "reroutes": reroutes, "linkExtensions": ends}
    return graph


def column_of(node: dict) -> int:
    return 0 if node["type"] in FIRST else 1 if node["type"] in SECOND else 2


def order(graph: dict, node: dict) -> tuple[int, int, int]:
    """In its column: after all that it needs, then the model, the picture, the rest."""
    before = [link[1] for link in graph["links"] if link[3] == node["id"]]
    depth = 1 + max((order(graph, by_id(graph, id))[0] for id in before), default=-1)
    return depth, 0 if node["type"] == "LiveTalkModelLoader" else 1, node["id"]


def by_id(graph: dict, id: int) -> dict:
    return next(node for node in graph["nodes"] if node["id"] == id)


def group(id: int, nodes: list[dict]) -> dict:
    """Around the nodes of a column, with room above for wires that cross it."""
    bottom = max(node["pos"][1] + node["size"][1] for node in nodes)
    left = nodes[0]["pos"][0] - 20
    return {
        "id": id, "title": CAPTIONS[id - 1], "bounding": [left, -150, COLUMN + 40, bottom + 170],
        "color": COLORS[id - 1], "font_size": 24, "flags": {},
    }  # fmt: skip


def detour(graph: dict, link: list, lanes: int) -> list[Point]:
    """Points for a wire to a node below in its column, or two columns on; none for one to the next column."""
    _, source, out_slot, target, in_slot, _ = link
    start, end = by_id(graph, source), by_id(graph, target)
    step = column_of(end) - column_of(start)
    if step == 1:
        return []
    x0, y0 = start["pos"][0] + COLUMN + 35, start["pos"][1] + (out_slot + 0.7) * SLOT
    x1, y1 = end["pos"][0] - 35, end["pos"][1] + (in_slot + 0.7) * SLOT
    if step == 2:
        lane = -TITLE - 25 - LANE * lanes
        return [(x0 + LANE * lanes, y0), (x0 + LANE * lanes, lane), (x1 - LANE * lanes, lane), (x1 - LANE * lanes, y1)]
    lane = end["pos"][1] - TITLE - GAP / 2
    return [(x0, lane), (x1, lane)]


def boxes(graph: dict) -> dict[int, Box]:
    """Left, top, right, bottom of every node, its title included."""
    return {
        node["id"]: (node["pos"][0], node["pos"][1] - TITLE, node["pos"][0] + node["size"][0], node["pos"][1] + node["size"][1])
        for node in graph["nodes"]
    }


def path_of(graph: dict, link: list) -> list[Point]:
    """Points of a link's wire: from slot to slot, over its reroutes."""
    extra = graph["extra"]
    known = {reroute["id"]: reroute for reroute in extra.get("reroutes", ())}
    at = next((end["parentId"] for end in extra.get("linkExtensions", ()) if end["id"] == link[0]), None)
    between: list[Point] = []
    while at is not None:
        between.insert(0, tuple(known[at]["pos"]))
        at = known[at].get("parentId")
    start, end = by_id(graph, link[1]), by_id(graph, link[3])
    first = (start["pos"][0] + start["size"][0], start["pos"][1] + (link[2] + 0.7) * SLOT)
    return [first, *between, (end["pos"][0], end["pos"][1] + (link[4] + 0.7) * SLOT)]


def hidden_wires(graph: dict) -> list[str]:
    """Links that pass behind a node, at a hundred points of each piece."""
    found = []
    for link in graph["links"]:
        for (ax, ay), (bx, by) in pairwise(path_of(graph, link)):
            points = [(ax + (bx - ax) * k / 100, ay + (by - ay) * k / 100) for k in range(1, 100)]
            for id, (left, top, right, bottom) in boxes(graph).items():
                if any(left + 2 < x < right - 2 and top < y < bottom for x, y in points):
                    found.append(f"link {link[0]} behind node {id}")
    return found
