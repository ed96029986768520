"""Parallel VAE Decode: runs a stream into a video file or into images; also decodes a plain LATENT."""

from __future__ import annotations

from . import engines, host
from .film import Film, film_of_latent, images_of, write_video
from .marks import video_from
from .types import CATEGORY, EngineWire, SpeechWire, StreamWire, io

OUTPUTS = ("images", "video")


class ParallelVAEDecode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LiveTalkParallelVAEDecode",
            display_name="LiveTalk Parallel VAE Decode",
            category=CATEGORY,
            description=(
                "Runs a stream. video: writes a file with sound, at any length in constant memory. "
                "images: keeps all frames in memory, for short clips and core image nodes. Also decodes a LATENT with the engine's VAE."
            ),
            search_aliases=["vae decode", "video", "save talking video"],
            inputs=[
                io.Combo.Input(
                    "output",
                    options=["video", "images"],
                    default="video",
                    tooltip="video: a file, any length. images: in memory, 12 bytes a pixel and frame (720x416 for 10 s: 0.9 GB).",
                ),
                StreamWire.Input("stream", optional=True, tooltip="From the sampler or Live Preview. Connect this or a latent, not both."),
                io.Latent.Input(
                    "latent", optional=True, tooltip="Latents [1, C, t, h, w] to decode: 4 t - 3 frames. C is 16 (Wan 2.1), for nano 64."
                ),
                EngineWire.Input("engine", optional=True, tooltip="The engine whose VAE decodes the latent. A stream does not need it."),
                SpeechWire.Input("speech", optional=True, tooltip="Sound for the video of a latent. A stream does not need it."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            outputs=[
                io.Image.Output("images", display_name="images", tooltip="Frames at 25 a second, if output is images."),
                io.Video.Output("video", display_name="video", tooltip="MP4 at 25 frames a second with its sound, if output is video."),
            ],
        )

    @classmethod
    def execute(cls, output, stream=None, latent=None, engine=None, speech=None) -> io.NodeOutput:
        from comfy_execution.graph import ExecutionBlocker

        other = OUTPUTS[1 - OUTPUTS.index(output)]
        not_made = f"Parallel VAE Decode makes {output} here; set its output to {other} to use that one"
        if host.is_read(cls.hidden.dynprompt, cls.hidden.unique_id, OUTPUTS.index(other)):
            raise ValueError(not_made)
        check_source(stream, latent, engine)
        film = stream.film() if latent is None else film_of_latent(engines.engine_for(engine), latent, speech)
        made = {output: video_of(stream, film) if output == "video" else images_of(film), other: ExecutionBlocker(not_made)}
        return io.NodeOutput(*(made[name] for name in OUTPUTS))


def check_source(stream, latent, engine) -> None:
    """ValueError for none, both, or a latent without an engine."""
    if (stream is None) == (latent is None):
        raise ValueError("Parallel VAE Decode needs a stream or a latent: connect one of them, not both")
    if stream is None and engine is None:
        raise ValueError("a latent needs an engine, whose VAE decodes it; connect Load LiveTalk Model")


def video_of(stream, film: Film):
    """A stream's video is written once; that of a latent, now."""
    return video_from(write_video(film) if stream is None else stream.write())
