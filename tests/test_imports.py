"""The stairs: who may import whom, read from the syntax trees; and what an import costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from made import HANG_S

ROOT = Path(__file__).parent.parent
CORE = ROOT / "livetalk_core"

ALLOWED = {
    "plan": set(),
    "sizes": set(),
    "types": set(),
    "presets": {"models", "plan", "sizes", "types"},
    "models": set(),
    "stream": {"plan", "types"},
    "media": set(),
    "parallel": {"models"},
    "engine": {"models", "parallel", "plan", "presets", "sizes", "stream", "types"},
    "pool": {"engine", "models", "parallel", "plan", "presets", "sizes", "types"},
    "open": {"engine", "models", "parallel", "pool", "presets"},
    "provenance": {"media"},
    "talker": {"media"},
    "train": {"media", "models", "parallel", "plan", "presets", "stream", "talker", "types"},
    "evaluate": {"engine", "generate", "media", "open", "plan", "sizes", "stream", "talker", "train", "types"},
    "bench": {"checks", "engine", "models", "parallel", "plan", "pool", "presets", "sizes", "stream", "types"},
    "checks": {"engine", "models", "parallel", "plan", "presets", "stream", "types"},
    "job": {"media", "plan", "presets", "provenance", "sizes", "types"},
    "resume": {"media", "types"},
    "generate": {"engine", "job", "media", "plan", "pool", "presets", "provenance", "resume", "stream", "types"},
    "serve": {"engine", "media", "plan", "pool", "presets", "provenance", "sizes", "types"},
    "cli": None,
}
"""What each room may import of the others; the command line opens every door."""

FOREIGN = {
    "models": {"torch.distributed", "xfuser", "av"},
    "stream": {"torch.distributed", "xfuser", "av", "transformers"},
    "media": {"transformers", "torch.distributed"},
}
"""Libraries that a room does without."""


def room_of(path: Path) -> str:
    parts = path.relative_to(CORE).parts
    return parts[0] if len(parts) > 1 else path.stem


def imports(path: Path) -> set[str]:
    """Every module that a file names in an import, at any depth."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} uses a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


def wrong_edges(files) -> list[str]:
    wrong = []
    for path in files:
        room, names = room_of(path), imports(path)
        ours = {name.split(".")[1] for name in names if name.startswith("livetalk_core.")} - {room, "__version__"}
        allowed = ALLOWED.get(room, set())
        wrong += [f"{path.name} ({room}) imports {other}" for other in ours if allowed is not None and other not in allowed]
        wrong += [f"{path.name} ({room}) imports {name}" for name in names for bad in FOREIGN.get(room, ()) if name.startswith(bad)]
        wrong += [f"{path.name} imports {name}" for name in names if name.split(".")[0] in ("comfy", "comfy_api", "server", "nodes")]
    return wrong


def node_graph() -> dict[str, set[str]]:
    """The pack's files, and which of them each names in a relative import, at any depth."""
    files = {path.stem: path for path in (ROOT / "nodes").glob("*.py") if path.name != "__init__.py"}
    graph: dict[str, set[str]] = {}
    for name, path in files.items():
        relative = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom) and node.level]
        named = {node.module for node in relative if node.module} | {alias.name for node in relative for alias in node.names}
        graph[name] = named & files.keys() - {name}
    return graph


def import_graph() -> dict[str, set[str]]:
    """The core's modules, and which of them each names in an import, at any depth."""
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in CORE.rglob("*.py") if path.name != "__init__.py"}
    return {name: imports(path) & modules.keys() - {name} for name, path in modules.items()}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The modules that are left when those that import nothing of the rest are taken away again and again: none without a circle."""
    left = {name: set(others) for name, others in graph.items()}
    while done := [name for name, others in left.items() if not others & left.keys()]:
        for name in done:
            del left[name]
    return [name for name in left if any(name in others for others in left.values())]


def test_every_file_imports_only_what_its_room_may():
    files = [path for path in CORE.rglob("*.py") if path.name != "__init__.py"]
    assert len(files) > 20
    assert wrong_edges(files) == []
    assert {room_of(path) for path in files} <= set(ALLOWED), "a new room needs its line in ALLOWED"


def test_no_file_imports_itself_by_way_of_others():
    assert circle(import_graph()) == []
    assert len(node_graph()) > 10 and circle(node_graph()) == []


def test_only_the_command_line_reads_arguments():
    readers = {room_of(path) for path in CORE.rglob("*.py") if "argparse" in imports(path)}
    assert readers == {"cli"}


def test_a_circle_of_imports_is_caught():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a", "b", "c"]


def test_at_most_eight_files_lie_at_the_root():
    assert len([path for path in CORE.glob("*.py") if path.name != "__init__.py"]) <= 8


@pytest.mark.parametrize(
    "where, line",
    [
        ("stream/wrong.py", "from livetalk_core.models.dit import AudioDiT"),
        ("models/wrong.py", "import torch.distributed as dist"),
        ("media/wrong.py", "def f():\n    from livetalk_core import plan"),
        ("plan.py", "import nodes"),
    ],
)
def test_a_wrong_edge_is_caught(where, line, monkeypatch):
    path = CORE / where
    text = path.read_text if path.exists() else None
    monkeypatch.setattr(Path, "read_text", lambda self: line)
    assert wrong_edges([path]), text


def test_the_command_line_starts_without_the_heavy_libraries():
    code = "import sys, livetalk_core.cli.main as c; c.parser(); print([m for m in ('torch', 'transformers', 'av') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=HANG_S)
    assert done.stdout.strip() == "[]", done.stderr
