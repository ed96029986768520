"""Runs browser.cjs. Environment: PLAYWRIGHT_CORE, that package's folder; CHROMIUM, the program."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).parent / "browser.cjs"


def browse(url: str, **job: object) -> dict:
    """What the page saw of one job: progress, previews, playedDuring, audio, texts, errors, missing."""
    command = ["node", str(SCRIPT), json.dumps({"url": url, "vue": False, **job})]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)
