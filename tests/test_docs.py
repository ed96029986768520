"""The documentation: every link leads somewhere, and every command, option, file and import that it names exists."""

from __future__ import annotations

import argparse
import ast
import functools
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from livetalk_core.cli.main import parser

ROOT = Path(__file__).parent.parent
CORE = ROOT / "livetalk_core"
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
MARKDOWN = MarkdownIt("commonmark").enable("table")
RUNS_LIVETALK = re.compile(r"(?:sh run\.sh|\blivetalk|-m livetalk_core\.cli)\s+(?=[a-z])(.*)")

on_every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def tokens(text: str) -> Iterator[Token]:
    for token in MARKDOWN.parse(text):
        yield token
        yield from token.children or ()


def spans(text: str) -> list[str]:
    """Code within a sentence or a table."""
    return [token.content for token in tokens(text) if token.type == "code_inline"]


def block_lines(text: str) -> list[str]:
    """Lines of code that stand apart, without Python; a line that ends in a backslash goes on in the next."""
    blocks = [token for token in tokens(text) if token.type in ("code_block", "fence") and token.info != "python"]
    return [line for block in blocks for line in block.content.replace("\\\n", " ").splitlines()]


def anchors(text: str) -> set[str]:
    """What a link to a heading of the page may end with, as GitHub has it."""
    titles = [re.sub(r"[`*]", "", following.content) for token, following in pairs(text) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def pairs(text: str) -> Iterator[tuple[Token, Token]]:
    parsed = MARKDOWN.parse(text)
    return zip(parsed, parsed[1:], strict=False)


def dead_links(text: str, folder: Path) -> list[str]:
    links = [token.attrGet("href") or token.attrGet("src") for token in tokens(text) if token.type in ("link_open", "image")]
    return [link for link in links if "://" not in link and not leads_somewhere(link, text, folder)]


def leads_somewhere(link: str, text: str, folder: Path) -> bool:
    name, _, anchor = link.partition("#")
    path = folder / name
    if not path.exists():
        return False
    return not anchor or anchor in anchors(path.read_text() if name else text)


@functools.cache
def commands() -> dict[str, argparse.ArgumentParser]:
    (subparsers,) = (action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    return subparsers.choices


def options_of(*names: str) -> set[str]:
    return {option for name in names for option in commands()[name]._option_string_actions}


def words_of(code: str) -> list[str]:
    """What our command line would be given by this code; nothing for other programs and for the tests."""
    match = RUNS_LIVETALK.search(code)
    words = shlex.split(match[1], comments=True) if match else []
    return [] if words[:1] == ["test"] else words


def wrong_commands(text: str) -> list[str]:
    """Lines apart must be whole commands; within a sentence, the command and its options must exist."""
    return [line for line in block_lines(text) if words_of(line) and not parses(words_of(line))] + [
        span for span in spans(text) if not known(span)
    ]


def parses(words: list[str]) -> bool:
    try:
        parser().parse_args(words)
    except SystemExit as end:
        return end.code == 0
    return True


def known(span: str) -> bool:
    words = words_of(span)
    if words and words[0] not in commands():
        return False
    if not words and not span.startswith("--"):
        return True
    given = {word for word in words or span.split() if word.startswith("--")}
    return given <= options_of(*(words[:1] or commands()))


def missing_files(text: str) -> list[str]:
    """Code spans that name a path in this repository, by its first part, where nothing is."""
    named = [span for span in spans(text) if re.fullmatch(r"[\w.-]+/[\w./-]*", span) and (ROOT / span.split("/")[0]).exists()]
    return [path for path in named if not (ROOT / path).exists() or path.endswith("/") and not (ROOT / path).is_dir()]


def wrong_imports(code: str) -> list[str]:
    """Names of ours that a piece of Python imports and that are not there."""
    nodes = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("livetalk")]
    return [f"{node.module}.{alias.name}" for node in nodes for alias in node.names if not exists(node.module, alias.name)]


def exists(module: str, name: str) -> bool:
    try:
        return name in vars(importlib.import_module(module)) or bool(importlib.import_module(f"{module}.{name}"))
    except ModuleNotFoundError:
        return False


def python_blocks(text: str) -> list[str]:
    return [token.content for token in tokens(text) if token.type == "fence" and token.info == "python"]


def unnamed_rooms(text: str) -> list[str]:
    """Files and folders of the core, in its first level, of which the page says nothing."""
    entries = [path for path in CORE.iterdir() if path.suffix == ".py" or path.is_dir()]
    names = [path.relative_to(ROOT).as_posix() for path in entries if not path.name.startswith("__")]
    return [name for name in names if not any(span == name or span.startswith(f"{name}/") for span in spans(text))]


@on_every_page
def test_every_link_leads_somewhere(page):
    assert dead_links(page.read_text(), page.parent) == []


@on_every_page
def test_every_command_and_option_exists(page):
    assert wrong_commands(page.read_text()) == []


@on_every_page
def test_every_file_that_is_named_exists(page):
    assert missing_files(page.read_text()) == []


@on_every_page
def test_every_import_in_a_page_works(page):
    assert [name for code in python_blocks(page.read_text()) for name in wrong_imports(code)] == []


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("*.py")), ids=lambda path: path.name)
def test_every_import_in_an_example_works(path):
    assert wrong_imports(path.read_text()) == []


def test_the_readme_is_short_and_names_every_command():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    assert set(commands()) <= set(spans(text))


def test_the_architecture_page_names_every_room_of_the_core():
    assert unnamed_rooms((ROOT / "docs" / "architecture.md").read_text()) == []


def test_every_page_says_first_what_its_reader_can_do():
    for page in sorted((ROOT / "docs").glob("*.md")):
        assert page.read_text().split("\n\n")[1].startswith("After reading this page you can "), page.name


@pytest.mark.parametrize(
    "find, text",
    [
        (lambda text: dead_links(text, ROOT), "[a page](docs/nowhere.md)"),
        (lambda text: dead_links(text, ROOT), "![a picture](docs/nowhere.png)"),
        (lambda text: dead_links(text, ROOT), "[a heading](docs/models.md#nowhere)"),
        (lambda text: dead_links(text, ROOT), "# One\n\n[a heading](#two)"),
        (wrong_commands, "Run `livetalk sing`."),
        (wrong_commands, "Run `sh run.sh sing`."),
        (wrong_commands, "Give `--sing`."),
        (wrong_commands, "Run `livetalk parity --steps 4`."),
        (wrong_commands, "Run it:\n\n    livetalk parity --golden\n"),
        (wrong_commands, "Run it:\n\n    torchrun --nproc_per_node 2 -m livetalk_core.cli train\n"),
        (wrong_commands, "Run it:\n\n    sh run.sh generate --steps many\n"),
        (missing_files, "| file | question |\n|---|---|\n| `livetalk_core/nowhere.py` | what? |"),
        (missing_files, "`livetalk_core/plan.py/`"),
        (wrong_imports, "from livetalk_core.plan import Nothing"),
        (wrong_imports, "from livetalk_core.nowhere import Nothing"),
        (unnamed_rooms, "| `livetalk_core/plan.py` |"),
    ],
)
def test_what_is_wrong_is_found(find, text):
    assert find(text)


@pytest.mark.parametrize(
    "find, text",
    [
        (lambda text: dead_links(text, ROOT), "# One `two`, three\n\n[a heading](#one-two-three) [a page](docs) <https://example.org>"),
        (
            wrong_commands,
            "`sh run.sh COMMAND`, `--steps 3`, `livetalk bench --help`\n\n    sh run.sh test -m slow\n    livetalk generate # all",
        ),
        (missing_files, "`livetalk_core/plan.py`, `tests/golden/`, `models/elsewhere`, `OUT/nano`"),
        (wrong_imports, "from livetalk_core.plan import StreamPlan\nfrom livetalk_core import plan\nimport aiohttp"),
    ],
)
def test_what_is_right_is_let_pass(find, text):
    assert find(text) == []
