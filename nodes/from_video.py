"""Picture and Speech from Video: a video's first frame and its whole sound, without the frames between in memory."""

from __future__ import annotations

import io as bytes_io
from pathlib import Path

from . import host
from .types import CATEGORY, InputImpl, io
from .words import name_inputs, naming_inputs

WINDOWS_S = (0.5, 8.0, 0.0)
"""Lengths in which the first frame is looked for; 0 is all of the video."""


class FromVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LiveTalkFromVideo",
            display_name="LiveTalk Picture and Speech from Video",
            category=CATEGORY,
            description=(
                "Gives a video's first frame and its sound, so that a video can be the reference and the speech at once. "
                "Only one frame is decoded, so a long video needs memory for its sound alone."
            ),
            search_aliases=["video to image and audio", "first frame", "load video", "video input", "dub"],
            inputs=[io.Video.Input("video", tooltip="A video, from Load Video for example. Of a trimmed video, the trimmed part.")],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="The first frame, upright."),
                io.Audio.Output(
                    "audio", display_name="audio", tooltip="The video's sound, for its whole length. Empty if the video has none."
                ),
            ],
        )

    @classmethod
    def execute(cls, video) -> io.NodeOutput:
        if isinstance(video, InputImpl.VideoFromComponents):  # all frames are in memory already
            parts = video.get_components()
            return io.NodeOutput(parts.images[:1], parts.audio)
        return io.NodeOutput(first_frame(video), sound_of(video))


def first_frame(video):
    """IMAGE [1, H, W, C] of the first frame. ValueError for a video without one."""
    _, duration = video.get_active_trim_window()
    for window_s in WINDOWS_S:
        length = min(window_s or duration, duration or window_s)
        found = video.as_trimmed(0, length, strict_duration=False)
        if found is not None and len(images := found.get_components().images):
            return images[:1].clone()
    raise ValueError("the video has no picture in it; load another one")


def sound_of(video) -> dict | None:
    """AUDIO of the active part, None for a video without sound. ValueError, in one line, for sound that cannot be read."""
    import torch

    from livetalk_core.media.decode import decode

    path, notes = file_of(video), []
    if not has_sound(path):
        return None
    with naming_inputs({f"{path}: ": "the video's sound: "}):
        pieces = list(decode(path, notes=notes))
    for note in notes:
        host.tell(name_inputs(note, {"; --audio-track N takes another": ""}))
    rate = pieces[0].sample_rate
    waveform_CN = torch.cat([torch.from_numpy(piece.samples_CN) for piece in pieces], dim=1)
    start, duration = (round(seconds * rate) for seconds in video.get_active_trim_window())
    return {"waveform": waveform_CN[None, :, start : start + duration if duration else None], "sample_rate": rate}


def file_of(video) -> str:
    """The path of the video's file; one that is in memory is written to a temporary file, which goes with the returned object."""
    source = video.get_stream_source()
    if not isinstance(source, bytes_io.BytesIO):
        return str(source)
    path = host.TempFile(host.temp_path(".video"))
    Path(path).write_bytes(source.getvalue())
    return path


def has_sound(path: str) -> bool:
    from livetalk_core.media.source import open_media

    with open_media(path, "video file") as container:
        return bool(container.streams.audio)
