"""The only file that imports ComfyUI's node API, and the types of our wires."""

from comfy_api.latest import ComfyAPISync, ComfyExtension, InputImpl, io, ui

__all__ = [
    "CATEGORY",
    "ComfyAPISync",
    "ComfyExtension",
    "EngineWire",
    "InputImpl",
    "OptionsWire",
    "ReferenceWire",
    "SpeechWire",
    "StreamWire",
    "io",
    "ui",
]

CATEGORY = "LiveTalk"

EngineWire = io.Custom("LIVETALK_ENGINE")
"""engines.EngineSpec: settings, by which the engine is looked up."""
OptionsWire = io.Custom("LIVETALK_OPTIONS")
"""livetalk_core.engine.options.EngineOptions, without a model."""
SpeechWire = io.Custom("LIVETALK_AUDIO")
"""speech.Speech: the sound of one or two speakers."""
ReferenceWire = io.Custom("LIVETALK_REFERENCE")
"""livetalk_core.types.Reference."""
StreamWire = io.Custom("LIVETALK_STREAM")
"""stream.TalkStream: chunks that are computed while a node reads them."""
