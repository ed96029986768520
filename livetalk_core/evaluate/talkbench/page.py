"""A page with the tables, the plots, and the videos of all systems side by side, each with its numbers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from livetalk_core.evaluate.talkbench.files import write_text
from livetalk_core.evaluate.talkbench.summary import BESIDE, REPORT, Column
from livetalk_core.evaluate.talkbench.table import ARROWS, NOT_MEASURED, clips_line, missing_line, ranks, shown_number

STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.45 system-ui, sans-serif; margin: 1.2rem auto; padding: 0 1rem; max-width: 76rem }
h2 { margin: 2.2rem 0 .4rem } h3 { margin: 1.4rem 0 .4rem; font-size: 1rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; white-space: nowrap }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #8884 }
th:first-child, td:first-child { text-align: left; padding-left: 0; white-space: normal; overflow-wrap: anywhere; min-width: 6rem }
.clip { display: flex; gap: 1rem; overflow-x: auto; padding-bottom: .6rem }
figure { margin: 0; flex: 0 0 260px }
video { width: 260px; aspect-ratio: 1; background: #8883 }
figcaption b { overflow-wrap: anywhere }
figcaption td { white-space: normal; padding: .05rem .7rem }
button { font: inherit; padding: .3rem .8rem }
img { max-width: 100%; height: auto; background: #fff }
li { overflow-wrap: anywhere }
"""
SCRIPT = """
for (const clip of document.querySelectorAll(".clip")) {
  const videos = [...clip.querySelectorAll("video")];
  clip.previousElementSibling.querySelector("button").onclick = () => {
    const stop = videos.some(video => !video.paused);
    videos.forEach((video, k) => {
      video.muted = k > 0;
      if (stop) video.pause(); else { video.currentTime = 0; video.play(); }
    });
  };
}
"""
TITLES = {"offsets": "Sync offsets"}


def write_page(summary: dict, pictures: Sequence[Path], path: Path) -> None:
    """Write the page; videos and pictures are linked from where they lie."""
    parts = [table_part(name, systems) for name, systems in summary["sets"].items()]
    parts += [plot(picture, path) for picture in pictures]
    for (set_name, clip), systems in clips_of(summary).items():
        title = f"{escape(set_name)}: {escape(clip)}"
        parts.append(f"<h2>{title}</h2><p><button>Play all, with the first one's sound</button></p>")
        parts.append("<div class='clip'>" + "".join(figure(name, of, path) for name, of in systems.items()) + "</div>")
    if summary["missing"]:
        lines = "".join(f"<li>{escape(missing_line(row).removeprefix('- '))}</li>" for row in summary["missing"])
        parts.append(f"<h2>Not measured</h2><ul>{lines}</ul>")
    view = "<meta name='viewport' content='width=device-width, initial-scale=1'>"
    head = f"<!doctype html><html lang='en'><meta charset='utf-8'>{view}<title>TalkBench</title><style>{STYLE}</style>"
    write_text(path, f"{head}<h1>TalkBench</h1>{''.join(parts)}<script>{SCRIPT}</script></html>\n")


def clips_of(summary: dict) -> dict[tuple[str, str], dict[str, dict]]:
    """The video and the numbers of each system, by set and clip."""
    clips: dict[tuple[str, str], dict[str, dict]] = {}
    for result in summary["clips"]:
        of = clips.setdefault((result["set"], result["clip"]), {}).setdefault(result["system"], {"video": result["video"], "numbers": {}})
        of["numbers"].update(result["numbers"])
    return clips


def table_part(set_name: str, systems: dict) -> str:
    """A set's two tables; of the second, the columns that have a number."""
    beside = [column for column in BESIDE if any(column.key in system["numbers"] for system in systems.values())]
    words = f"{escape(clips_line(systems))} Best <b>bold</b>, second <u>underlined</u>; {NOT_MEASURED} not measured."
    more = f"<h3>Beside the report's</h3>{table(systems, beside)}" if beside else ""
    return f"<h2>{escape(set_name)}</h2><p>{words}</p>{table(systems, REPORT)}{more}"


def table(systems: dict, columns: Sequence[Column]) -> str:
    heads = "".join(f"<th>{escape(column.title)}{ARROWS[column.higher]}" for column in columns)
    ranked = {column.key: ranks(systems, column) for column in columns}
    rows = []
    for name, system in systems.items():
        cells = (cell(shown_number(system, column), ranked[column.key].get(name, 0)) for column in columns)
        rows.append(f"<tr><td>{escape(name)}{''.join(cells)}")
    return f"<div class='wide'><table><tr><th>{heads}{''.join(rows)}</table></div>"


def cell(text: str, rank: int) -> str:
    return f"<td>{f'<b>{text}</b>' if rank == 1 else f'<u>{text}</u>' if rank == 2 else text}"


def plot(picture: Path, page: Path) -> str:
    title = escape(TITLES.get(picture.stem) or f"Drift over time: {picture.stem.removeprefix('drift-')}", quote=True)
    at = link(picture, page)
    return f"<h2>{title}</h2><a href='{at}'><img src='{at}' alt='{title}'></a>"


def figure(system: str, of: dict, page: Path) -> str:
    rows = "".join(
        f"<tr><td>{escape(column.title)}<td>{of['numbers'][column.key]:.{column.digits}f}"
        for column in (*REPORT, *BESIDE)
        if column.key in of["numbers"]
    )
    video = f"<video src='{link(Path(of['video']), page)}#t=0.01' controls preload='metadata'></video>"
    return f"<figure>{video}<figcaption><b>{escape(system)}</b><table>{rows}</table></figcaption></figure>"


def link(file: Path, page: Path) -> str:
    """A relative link from the page to a file."""
    relative = os.path.relpath(file.resolve(), page.resolve().parent)
    return quote(Path(relative).as_posix())
