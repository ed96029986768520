"""LiveTalk Live Session: opens a session on the graph's engine, which goes on after the prompt has ended."""

from __future__ import annotations

from . import host, sessions
from .sample import settings_inputs
from .types import CATEGORY, EngineWire, ReferenceWire, io


class LiveSessionNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LiveTalkLiveSession",
            display_name="LiveTalk Live Session",
            category=CATEGORY,
            description=(
                "An avatar that you talk with, in this node. It runs in the background, so other prompts can run meanwhile. "
                "It ends with its End button, when the node is deleted, or when ComfyUI unloads its model."
            ),
            search_aliases=["live", "realtime", "microphone", "conversation", "avatar"],
            inputs=[
                EngineWire.Input("engine", tooltip="From Load LiveTalk Model."),
                ReferenceWire.Input("reference", tooltip="From Reference Conditioning, for one speaker."),
                *settings_inputs()[:2],  # seed and steps
            ],
            outputs=[],
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, **inputs) -> float:
        """Never equal, so that a queued prompt opens a session again that was ended. One that is open goes on."""
        return float("nan")

    @classmethod
    def execute(cls, engine, reference, seed, steps) -> io.NodeOutput:
        workflow = (cls.hidden.extra_pnginfo or {}).get("workflow", {}).get("id", "")
        wanted = sessions.Wanted(spec=engine, reference=reference, seed=seed, steps=steps or None)
        opened = sessions.open_session(str(cls.hidden.unique_id), workflow, wanted)
        server = host.prompt_server()
        if server is not None:
            server.send_sync(sessions.EVENT, opened.describe())
        return io.NodeOutput()
