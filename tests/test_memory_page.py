"""docs/memory.md: what is chosen for which cards, held against the memory that the choice takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from livetalk_core.parallel.memory import GATHERED_BLOCKS, GIB, PROCESS_BYTES
from livetalk_core.pool.memory_page import BLOCK, CARDS, COUNTS, HOSTS, NUM_BLOCKS, REST, ROOMS, choice, page

PAGE = Path(__file__).parents[1] / "docs" / "memory.md"


def test_the_page_is_what_is_chosen():
    assert PAGE.read_text() == page(), "run python -m livetalk_core.pool.memory_page > docs/memory.md"


@pytest.mark.parametrize("host", HOSTS)
def test_every_choice_fits_the_cards_and_the_host(host):
    for card, count in ((card, count) for card in CARDS for count in COUNTS):
        chosen = choice(card, count, host)
        if chosen == "does not fit":
            assert card == 16 and host == 32
            continue
        used, kind, kept = re.fullmatch(r"(\d) x (resident|sharded|offload)(?:, (\d+) on GPU)?", chosen).groups()
        on_gpu = {"resident": NUM_BLOCKS, "sharded": NUM_BLOCKS / int(used) + GATHERED_BLOCKS, "offload": int(kept or 0) + 2}[kind]
        assert on_gpu * BLOCK + REST + ROOMS[int(used) - 1] <= card * GIB, chosen
        pinned = int(used) * ((NUM_BLOCKS - int(kept)) * GIB + PROCESS_BYTES) if kind == "offload" else 0
        assert pinned <= host * GIB and int(used) <= count, chosen


@pytest.mark.parametrize(
    "card, count, kind", [(80, 8, "resident"), (44.5, 8, "resident"), (44.5, 1, "resident"), (32, 4, "sharded"), (24, 8, "sharded")]
)
def test_cards_of_that_size_are_all_used(card, count, kind):
    assert choice(card, count, 64) == f"{count} x {kind}"
