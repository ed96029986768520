"""Where the nodes of a workflow stand: three columns, a group with a caption for each, wires that pass behind no node."""

from __future__ import annotations

from itertools import combinations, pairwise
from math import dist

Point = tuple[float, float]
Box = tuple[float, float, float, float]

COLUMN, MARGIN, GAP, TITLE, SLOT = 350, 120, 50, 30, 20
"""Pixels: width of a node, space between columns, space between nodes, height of a node's title, distance of its slots."""
LANE = 16
FAR = 700
"""A wire to the next column that goes further up or down than this gets a lane, so that wires stay apart."""
GROWS_TO = {"LiveTalkReferenceConditioning": 580}
"""Pixels of a node whose picture comes with the run, in the frontend that gives it most."""
SPARE = 90
"""Room below the last node of a group: frontends differ in how high they draw text boxes."""
COLORS = ("#3f5159", "#593930", "#335533")
SECOND = ("LiveTalkGenerate", "LiveTalkReferenceConditioning", "LiveTalkAudioEmbedding")
FIRST = ("LoadImage", "LoadImageMask", "LoadAudio", "LoadImageDataSetFromFolder", "LiveTalkModelLoader")
CAPTIONS = ("1. Picture, speech, model", "2. Who talks, and how", "3. Make and save the video")


def lay_out(graph: dict, heights: dict[int, float]) -> dict:
    """The graph with every node at its place, groups around the columns and reroutes for wires that would pass behind a node.

    `heights`: pixels that each node takes after a run, without its title.
    """
    columns = [[], [], []]
    for node in sorted(graph["nodes"], key=lambda node: order(graph, node)):
        columns[column_of(node)].append(node)
    for k, nodes in enumerate(columns):
        y = 0.0
        for node in nodes:
            node["pos"], node["size"] = [k * (COLUMN + MARGIN), y], [COLUMN, node["size"][1]]
            y += height_of(node, heights) + GAP + TITLE
    graph["groups"] = [group(k + 1, nodes, heights) for k, nodes in enumerate(columns)]
    graph["extra"], reroutes, ends, lanes = {}, [], [], 0
    for link in graph["links"]:
        points = detour(graph, link, lanes)
        lanes += len(points) == 4 or column_of(by_id(graph, link[1])) == 0 and len(points) == 2
        for parent, point in enumerate(points):
            more = {"parentId": len(reroutes)} if parent else {}
            reroutes.append({"id": len(reroutes) + 1, **more, "pos": list(point), "linkIds": [link[0]]})
        ends += [{"id": link[0], "parentId": len(reroutes)}] if points else []
    graph["extra"] = {"ds": {"scale": 0.8, "offset": [90, 170]}, "reroutes": reroutes, "linkExtensions": ends}
    return graph


def height_of(node: dict, heights: dict[int, float]) -> float:
    """Pixels to keep free for a node."""
    return max(node["size"][1], heights[node["id"]], GROWS_TO.get(node["type"], 0))


def column_of(node: dict) -> int:
    return 0 if node["type"] in FIRST else 1 if node["type"] in SECOND else 2


def order(graph: dict, node: dict) -> tuple[int, int, int]:
    """In its column: after all that it needs, then the model, the picture, the rest."""
    before = [link[1] for link in graph["links"] if link[3] == node["id"]]
    depth = 1 + max((order(graph, by_id(graph, id))[0] for id in before), default=-1)
    return depth, 0 if node["type"] == "LiveTalkModelLoader" else 1, node["id"]


def by_id(graph: dict, id: int) -> dict:
    return next(node for node in graph["nodes"] if node["id"] == id)


def group(id: int, nodes: list[dict], heights: dict[int, float]) -> dict:
    """Around the nodes of a column, with room above for wires that cross it."""
    bottom = max(node["pos"][1] + height_of(node, heights) for node in nodes)
    left = nodes[0]["pos"][0] - 20
    return {
        "id": id, "title": CAPTIONS[id - 1], "bounding": [left, -150, COLUMN + 40, bottom + 150 + SPARE],
        "color": COLORS[id - 1], "font_size": 24, "flags": {},
    }  # fmt: skip


def detour(graph: dict, link: list, lanes: int) -> list[Point]:
    """Points for a wire to a node below in its column, two columns on, or far up in the next column; none for other wires."""
    _, source, out_slot, target, in_slot, _ = link
    start, end = by_id(graph, source), by_id(graph, target)
    step = column_of(end) - column_of(start)
    x0, y0 = start["pos"][0] + COLUMN + 35, start["pos"][1] + (out_slot + 0.7) * SLOT
    x1, y1 = end["pos"][0] - 35, end["pos"][1] + (in_slot + 0.7) * SLOT
    if step == 1:
        return [(x0 + LANE * lanes, y0), (x0 + LANE * lanes, y1)] if is_hidden(graph, link) or abs(y1 - y0) > FAR else []
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
    """Points of a link's wire, from slot to slot: straight from reroute to reroute, or a curve without any."""
    extra = graph["extra"]
    known = {reroute["id"]: reroute for reroute in extra.get("reroutes", ())}
    at = next((end["parentId"] for end in extra.get("linkExtensions", ()) if end["id"] == link[0]), None)
    between: list[Point] = []
    while at is not None:
        between.insert(0, tuple(known[at]["pos"]))
        at = known[at].get("parentId")
    start, end = by_id(graph, link[1]), by_id(graph, link[3])
    first = (start["pos"][0] + start["size"][0], start["pos"][1] + (link[2] + 0.7) * SLOT)
    last = (end["pos"][0], end["pos"][1] + (link[4] + 0.7) * SLOT)
    return [first, *between, last] if between else curve(first, last)


def curve(start: Point, end: Point) -> list[Point]:
    """The canvas's wire: a cubic Bezier curve that leaves and arrives level, pulled by a quarter of the distance."""
    pull = dist(start, end) / 4
    corners = (start, (start[0] + pull, start[1]), (end[0] - pull, end[1]), end)
    weights = [((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3) for t in (k / 20 for k in range(21))]
    return [tuple(sum(w * corner[axis] for w, corner in zip(four, corners, strict=True)) for axis in (0, 1)) for four in weights]


def is_hidden(graph: dict, link: list) -> bool:
    """Whether a link passes behind a node, at a hundred points of each piece."""
    for (ax, ay), (bx, by) in pairwise(path_of(graph, link)):
        points = [(ax + (bx - ax) * k / 100, ay + (by - ay) * k / 100) for k in range(1, 100)]
        if any(left + 2 < x < right - 2 and top < y < bottom for left, top, right, bottom in boxes(graph).values() for x, y in points):
            return True
    return False


def hidden_wires(graph: dict) -> list[int]:
    return [link[0] for link in graph["links"] if is_hidden(graph, link)]


def overlaps(drawn: dict[str, Box]) -> list[tuple[str, str]]:
    """Pairs of nodes that lie on one another, of boxes as the page draws them."""
    return [
        (one, other)
        for (one, a), (other, b) in combinations(drawn.items(), 2)
        if a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
    ]


def outside(drawn: dict[str, Box], groups: list[Box]) -> list[str]:
    """Nodes that are not wholly in a group."""
    inside = lambda a, b: b[0] <= a[0] and b[1] <= a[1] and a[2] <= b[2] and a[3] <= b[3]  # noqa: E731
    return [node for node, box in drawn.items() if not any(inside(box, group) for group in groups)]
