"""LiveTalk LoRA: adds a LoRA to the settings of an engine. Several are chained."""

from __future__ import annotations

from dataclasses import replace

from livetalk_core.engine.options import EngineOptions

from . import checkpoints, host
from .types import CATEGORY, OptionsWire, io

FOLDER = "loras"


class AddLora(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LiveTalkLora",
            display_name="LiveTalk LoRA",
            category=CATEGORY,
            description="Adds a LoRA to the DiT of Load LiveTalk Model. Chain several to add them all.",
            search_aliases=["lora", "distill", "lightx2v"],
            inputs=[
                io.Combo.Input("lora", options=host.model_files(FOLDER), tooltip="A LoRA for Wan 2.1, from models/loras."),
                io.Float.Input("strength", default=1.0, min=-10.0, max=10.0, step=0.05, tooltip="How much of it is added; 0 adds nothing."),
                OptionsWire.Input("options", optional=True, tooltip="Settings, or another LiveTalk LoRA, to add this LoRA to."),
            ],
            outputs=[OptionsWire.Output("options", display_name="options", tooltip="Settings, for Load LiveTalk Model.")],
        )

    @classmethod
    def execute(cls, lora: str, strength: float, options: EngineOptions | None = None) -> io.NodeOutput:
        if lora not in host.model_files(FOLDER):
            raise ValueError(f"{lora!r} is not in models/{FOLDER}; choose another LoRA")
        checkpoints.refuse_other(FOLDER, lora, "lora")
        asked = options or EngineOptions()
        return io.NodeOutput(replace(asked, lora=(*asked.lora, f"{host.model_path(FOLDER, lora)}:{strength}")))
