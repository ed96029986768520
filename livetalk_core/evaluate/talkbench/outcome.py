"""Writes a benchmark's outcome: JSON, Markdown, CSV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from livetalk_core.evaluate.talkbench.bench import Result
from livetalk_core.evaluate.talkbench.files import write_json, write_text
from livetalk_core.evaluate.talkbench.summary import summarize
from livetalk_core.evaluate.talkbench.table import markdown, write_csv


def write_outcome(results: Sequence[Result], out: Path) -> str:
    """results.json, table.md and clips.csv in `out`; returns the tables."""
    summary = summarize(results)
    text = markdown(summary)
    write_json(out / "results.json", summary)
    write_text(out / "table.md", text)
    write_csv(summary, out / "clips.csv")
    return text
