"""The only door to ComfyUI's node API, and what travels on our wires."""

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
"""engines.EngineSpec: settings only; the engine itself is looked up by them."""
OptionsWire = io.Custom("LIVETALK_OPTIONS")
"""livetalk_core.engine.options.EngineOptions, without a model."""
SpeechWire = io.Custom("LIVETALK_AUDIO")
"""speech.Speech: one or two speakers' sound, from which the stream makes its audio windows."""
ReferenceWire = io.Custom("LIVETALK_REFERENCE")
"""livetalk_core.types.Reference."""
StreamWire = io.Custom("LIVETALK_STREAM")
"""stream.TalkStream: chunks that are made when somebody asks for them."""
