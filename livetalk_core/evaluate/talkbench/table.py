"""The summary as Markdown tables in the report's layout, and as a CSV file with a row for each video."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from livetalk_core.evaluate.talkbench.files import write_text
from livetalk_core.evaluate.talkbench.summary import BESIDE, REPORT, Column

NOT_MEASURED = "–"
ARROWS = {True: " ↑", False: " ↓", None: ""}


def markdown(summary: dict) -> str:
    """Two tables for each set, the report's columns and ours; the best is bold and the second is underlined."""
    parts = []
    for name, systems in summary["sets"].items():
        parts += [f"### {name}", "", f"{clips_line(systems)} Best **bold**, second <u>underlined</u>; {NOT_MEASURED} not measured."]
        parts += ["", table_of(systems, REPORT)]
        if any(column.key in system["numbers"] for system in systems.values() for column in BESIDE):
            parts += ["", "Beside the report's:", "", table_of(systems, BESIDE)]
        if drift := drift_table(systems):
            parts += ["", "Drift, change in a minute (Theil-Sen, mean over videos):", "", drift]
        parts.append("")
    if summary["missing"]:
        parts += ["Not measured:", "", *[missing_line(row) for row in summary["missing"]], ""]
    return "\n".join(parts)


def clips_line(systems: dict) -> str:
    counts = {name: system["clips"] for name, system in systems.items()}
    if len(set(counts.values())) == 1:
        count = next(iter(counts.values()))
        return f"{count} clip{'s' if count > 1 else ''}."
    return "Clips: " + ", ".join(f"{name} {count}" for name, count in counts.items()) + "."


def missing_line(row: dict) -> str:
    videos = f"{row['videos']} video{'s' if row['videos'] > 1 else ''}"
    return f"- {row['system']}, {row['measure'].replace('_', ' ')}, {videos}: {row['reason']}"


def table_of(systems: dict, columns: Sequence[Column]) -> str:
    heads = [f"{column.title}{ARROWS[column.higher]}" for column in columns]
    ranked = {column.key: ranks(systems, column) for column in columns}
    rows = [
        " | ".join([f"| {escaped(name)}", *[cell(system, column, ranked[column.key].get(name, 0)) for column in columns]]) + " |"
        for name, system in systems.items()
    ]
    return "\n".join([f"| | {' | '.join(heads)} |", "|---" * (len(columns) + 1) + "|", *rows])


def ranks(systems: dict, column: Column) -> dict[str, int]:
    """1 for the best systems of a column and 2 for the second best, as the table shows them; equal ones share a place.

    One system alone is neither, and a column where more is neither better nor worse has none.
    """
    if column.higher is None:
        return {}
    shown = {
        name: round(system["numbers"][column.key]["mean"], column.digits)
        for name, system in systems.items()
        if column.key in system["numbers"]
    }
    if len(shown) < 2:
        return {}
    order = sorted(set(shown.values()), reverse=column.higher)
    return {name: order.index(value) + 1 for name, value in shown.items() if order.index(value) < 2}


def cell(system: dict, column: Column, rank: int) -> str:
    """A number with its mark."""
    text = shown_number(system, column)
    return f"**{text}**" if rank == 1 else f"<u>{text}</u>" if rank == 2 else text


def shown_number(system: dict, column: Column) -> str:
    """A number, with the number of videos if some were not measured."""
    found = system["numbers"].get(column.key)
    if found is None:
        return NOT_MEASURED
    text = f"{found['mean']:.{column.digits}f}"
    return text if found["videos"] == system["clips"] else f"{text} ({found['videos']})"


def drift_table(systems: dict) -> str:
    names = sorted({name for system in systems.values() for name in system["slopes"]})
    if not names:
        return ""
    rows = [
        f"| {escaped(name)} | " + " | ".join(signed(system["slopes"].get(each)) for each in names) + " |"
        for name, system in systems.items()
    ]
    return "\n".join([f"| | {' | '.join(name.replace('_', ' ') for name in names)} |", "|---" * (len(names) + 1) + "|", *rows])


def signed(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:+.2g}"


def escaped(text: str) -> str:
    return text.replace("|", "\\|")


def write_csv(summary: dict, path: Path) -> None:
    """One row for each video of each system, with every number that was found."""
    rows: dict[tuple[str, str, str], dict] = {}
    for result in summary["clips"]:
        key = (result["set"], result["clip"], result["system"])
        head = dict(zip(("set", "clip", "system"), key, strict=True)) | {"video": result["video"]}
        rows.setdefault(key, head).update(result["numbers"])
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows.values())
    write_text(path, text.getvalue())
