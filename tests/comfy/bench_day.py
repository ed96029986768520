"""Number: what plays, and for how long, in a day's use of the pack in a real browser; screenshots are kept.

usage: COMFYUI_PATH=... PLAYWRIGHT_CORE=... python tests/comfy/bench_day.py classic|vue FOLDER_FOR_SCREENSHOTS [PART ...]
COMFYUI_OPTIONS="--front-end-root DIR" tries another frontend.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from comfy_server import ROOT, Server


def main(renderer: str, shots: Path, parts: list[str]) -> None:
    shots.mkdir(parents=True, exist_ok=True)
    script = Path(__file__).with_name("day.cjs")
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder) / "base") as server:
        subprocess.run(["node", str(script), server.url, renderer, str(ROOT / "workflows"), str(shots), *parts], check=True, timeout=600)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
