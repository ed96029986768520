"""A real ComfyUI for these tests, where a checkout is at hand."""

import os
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    if "COMFYUI_PATH" not in os.environ:
        pytest.skip("COMFYUI_PATH is not set, so the nodes are not run in a real ComfyUI")
    from comfy_server import Server

    with Server(tmp_path_factory.mktemp("comfy")) as started:
        yield started
