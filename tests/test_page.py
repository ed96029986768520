"""The modules of the ComfyUI page that need no browser."""

import shutil
import subprocess
from pathlib import Path

import pytest
from made import HANG_S


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed, so the page's modules are not run")
def test_the_modules_of_the_page_do_what_they_say():
    script = Path(__file__).with_name("page.test.mjs")
    done = subprocess.run(["node", "--test", str(script)], capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
