"""ComfyUI's door to the pack: everything else is loaded when ComfyUI asks for the nodes."""

import importlib.util
import logging
import sys
from pathlib import Path

ROOT = Path(__file__).parent
CORE = "livetalk_core"
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))  # at the end: the folder `nodes` here must not hide ComfyUI's module of that name


def own_core() -> bool:
    """Whether this copy of the pack has its own core. Python knows one module of a name, so a second copy cannot have one."""
    if CORE not in sys.modules:
        spec = importlib.util.spec_from_file_location(CORE, ROOT / CORE / "__init__.py", submodule_search_locations=[str(ROOT / CORE)])
        sys.modules[CORE] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[CORE])
    return Path(sys.modules[CORE].__file__).resolve().parent == (ROOT / CORE).resolve()


FIRST = own_core()
if FIRST:
    WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """The pack's nodes, as ComfyUI's V3 loader asks for them. A second copy of the pack has none."""
    if FIRST:
        from .nodes import LiveTalkExtension

        return LiveTalkExtension()

    from comfy_api.latest import ComfyExtension

    class SecondCopy(ComfyExtension):
        async def get_node_list(self):
            return []

    used = Path(sys.modules[CORE].__file__).resolve().parent.parent
    logging.getLogger(__name__).warning("LiveTalk is installed twice: %s is used, %s is not; remove one of them", used, ROOT)
    return SecondCopy()
