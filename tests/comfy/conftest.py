"""A real ComfyUI for these tests, where a checkout is at hand."""

import os
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))


@pytest.fixture(scope="session")
def checkout():
    """Skips a test where no ComfyUI is at hand."""
    if "COMFYUI_PATH" not in os.environ:
        pytest.skip("COMFYUI_PATH is not set, so the nodes are not run in a real ComfyUI")


@pytest.fixture(scope="session")
def server(checkout, tmp_path_factory):
    from comfy_server import Server

    with Server(tmp_path_factory.mktemp("comfy")) as started:
        yield started
