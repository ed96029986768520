"""The list of nodes, and the setup that runs once when ComfyUI starts. Nothing here imports torch."""

from . import host, live, sessions, startup
from .audio import AudioEmbedding
from .decode import ParallelVAEDecode
from .from_video import FromVideo
from .live_session import LiveSessionNode
from .load import LoadModel
from .lora import AddLora
from .options import SetEngineOptions
from .paste import PasteFaceBack
from .preview import LivePreview
from .reference import ReferenceConditioning
from .sample import StreamingBidirectionalSampler
from .types import ComfyExtension, io
from .video import Generate

NODES = (
    LoadModel,
    SetEngineOptions,
    AddLora,
    AudioEmbedding,
    ReferenceConditioning,
    StreamingBidirectionalSampler,
    ParallelVAEDecode,
    Generate,
    LivePreview,
    FromVideo,
    LiveSessionNode,
    PasteFaceBack,
)


class LiveTalkExtension(ComfyExtension):
    """What ComfyUI loads."""

    async def on_load(self) -> None:
        startup.report_missing()
        host.register_model_folder()
        host.register_gguf_files()
        startup.copy_samples(host.input_folder())
        live.add_routes(host.prompt_server())
        sessions.add_routes(host.prompt_server())

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return list(NODES)
