"""A page with the videos of all systems side by side, each with its numbers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from livetalk_core.evaluate.talkbench.files import write_text
from livetalk_core.evaluate.talkbench.summary import BESIDE, REPORT

STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 1.5rem; color: #222; background: #fff }
.clip { display: flex; gap: 1rem; overflow-x: auto; padding-bottom: 1rem }
figure { margin: 0; flex: 0 0 260px }
video { width: 260px; background: #ddd }
figcaption { font-size: 13px }
table { border-collapse: collapse; font-size: 13px }
td { padding: 0 .6rem 0 0 }
button { font: inherit }
img { max-width: 100% }
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


def write_page(summary: dict, pictures: Sequence[Path], path: Path) -> None:
    """Write the page; videos and pictures are linked from where they lie."""
    clips: dict[tuple[str, str], dict[str, dict]] = {}
    for result in summary["clips"]:
        of = clips.setdefault((result["set"], result["clip"]), {}).setdefault(result["system"], {"video": result["video"], "numbers": {}})
        of["numbers"].update(result["numbers"])
    parts = []
    for (set_name, clip), systems in clips.items():
        parts.append(f"<h2>{escape(set_name)}: {escape(clip)} <button>play all, sound of the first</button></h2>")
        parts.append("<div class='clip'>" + "".join(figure(name, of, path) for name, of in systems.items()) + "</div>")
    for picture in pictures:
        parts.append(f"<h2>{escape(picture.stem)}</h2><img src='{link(picture, path)}' alt='{escape(picture.stem, quote=True)}'>")
    head = f"<!doctype html><html lang='en'><meta charset='utf-8'><title>TalkBench</title><style>{STYLE}</style>"
    write_text(path, f"{head}<h1>TalkBench</h1>{''.join(parts)}<script>{SCRIPT}</script></html>\n")


def figure(system: str, of: dict, page: Path) -> str:
    rows = "".join(
        f"<tr><td>{escape(column.title)}<td>{of['numbers'][column.key]:.{column.digits}f}"
        for column in (*REPORT, *BESIDE)
        if column.key in of["numbers"]
    )
    video = f"<video src='{link(Path(of['video']), page)}' controls preload='metadata'></video>"
    return f"<figure>{video}<figcaption><b>{escape(system)}</b><table>{rows}</table></figcaption></figure>"


def link(file: Path, page: Path) -> str:
    """A relative link from the page to a file."""
    relative = os.path.relpath(file.resolve(), page.resolve().parent)
    return quote(Path(relative).as_posix())
