"""Writes a benchmark's outcome: JSON, Markdown, CSV, plots and a page of videos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from livetalk_core.evaluate.talkbench.bench import Result
from livetalk_core.evaluate.talkbench.files import write_json, write_text
from livetalk_core.evaluate.talkbench.page import write_page
from livetalk_core.evaluate.talkbench.plots import plot_all
from livetalk_core.evaluate.talkbench.summary import summarize
from livetalk_core.evaluate.talkbench.table import markdown, write_csv


def write_outcome(results: Sequence[Result], out: Path, tell: Callable[[str], None] = print) -> str:
    """results.json, table.md, clips.csv, plots and page.html in `out`; returns the tables. Without matplotlib there are no plots."""
    summary = summarize(results)
    text = markdown(summary)
    write_json(out / "results.json", summary)
    write_text(out / "table.md", text)
    write_csv(summary, out / "clips.csv")
    try:
        pictures = plot_all(summary, out)
    except ValueError as reason:
        tell(str(reason))
        pictures = []
    write_page(summary, pictures, out / "page.html")
    return text
