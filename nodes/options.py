"""LiveTalk Engine Options: settings that Load LiveTalk Model does not show. The inputs are made from EngineOptions' fields."""

from __future__ import annotations

from dataclasses import Field, fields
from pathlib import Path

from livetalk_core.engine.options import EngineOptions, option_of

from . import folders
from .types import CATEGORY, OptionsWire, io
from .words import INPUTS, naming_inputs

ELSEWHERE = {"model", "dit", "gpus", "device", "tokenizer", "size", "chunk_frames", "lora"}
"""Fields without an input here. Load LiveTalk Model has the model, patch and GPUs; the device is ComfyUI's; the tokenizer is found in
models/livetalk; size and chunk_frames are for servers; LiveTalk LoRA adds LoRAs."""
NONE = "none"
MOST = 64


class SetEngineOptions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LiveTalkEngineOptions",
            display_name="LiveTalk Engine Options",
            category=CATEGORY,
            description=(
                "Rarely needed settings for Load LiveTalk Model: where the weights are kept, so that small GPUs can share a model; "
                "lossy speed-ups; single files; CPU processes. What is set here overrides the loader."
            ),
            search_aliases=["offload", "low vram", "sharded", "fp8", "tiny decoder", "livetalk settings"],
            inputs=[input_of(field) for field in input_fields()],
            outputs=[OptionsWire.Output("options", display_name="options", tooltip="Settings, for Load LiveTalk Model.")],
        )

    @classmethod
    def execute(cls, **chosen) -> io.NodeOutput:
        with naming_inputs():
            given = {field.name: value_of(field, chosen[id_of(field)]) for field in input_fields() if id_of(field) in chosen}
            return io.NodeOutput(EngineOptions(**given))


def input_fields() -> list[Field]:
    return [field for field in fields(EngineOptions) if field.name not in ELSEWHERE]


def id_of(field: Field) -> str:
    return INPUTS.get(field.name, field.name)


def input_of(field: Field) -> io.Input:
    """The input of a field. All are optional, so that older saved prompts still run. 0 or none stands for None."""
    option, tooltip = option_of(field), sentence(option_of(field).help)
    common = {"default": field.default, "tooltip": tooltip, "optional": True, "advanced": True}
    if option.kind is bool:
        return io.Boolean.Input(id_of(field), **common)
    if option.choices:
        return io.Combo.Input(id_of(field), options=list(option.choices), **common)
    if option.kind is int:
        absent = field.default is None
        changed = {"default": 0, "tooltip": f"{tooltip} At most {MOST}; 0: none."} if absent else {}
        return io.Int.Input(id_of(field), **common | {"min": 0 if absent else option.least, "max": MOST} | changed)
    if option.kind is Path and field.name in folders.FOLDERS:
        changed = {"default": NONE, "tooltip": f"{tooltip} From models/{folders.FOLDERS[field.name]}; none: the model's own."}
        return io.Combo.Input(id_of(field), options=[NONE, *folders.file_names(field.name)], **common | changed)
    return io.String.Input(id_of(field), **common | {"default": field.default or ""})


def value_of(field: Field, chosen: object) -> object:
    """An input's value as EngineOptions takes it."""
    option = option_of(field)
    if option.kind is Path and field.name in folders.FOLDERS:
        return None if chosen == NONE else folders.find_file(field.name, chosen)
    if option.kind is Path:
        return Path(chosen) if chosen else None
    return None if option.kind is int and field.default is None and chosen == 0 else chosen


def sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
