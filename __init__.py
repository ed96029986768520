"""ComfyUI's door to the pack: everything else is loaded when ComfyUI asks for the nodes."""

import sys
from pathlib import Path

ROOT = str(Path(__file__).parent)
if ROOT not in sys.path:
    sys.path.append(ROOT)  # at the end: the folder `nodes` here must not hide ComfyUI's module of that name

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """The pack's nodes, as ComfyUI's V3 loader asks for them."""
    from .nodes import LiveTalkExtension

    return LiveTalkExtension()
