"""Live Preview: runs a stream and plays it with its sound while it is made, and passes it on."""

from __future__ import annotations

from . import host, live
from .stream import TalkStream
from .types import CATEGORY, StreamWire, io


class LivePreview(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LiveTalkLivePreview",
            display_name="LiveTalk Live Preview",
            category=CATEGORY,
            description=(
                "Runs the stream and plays the video with sound while it is made. "
                "Nodes after it read the finished stream, which is not computed again."
            ),
            search_aliases=["live", "stream", "preview video", "watch"],
            has_intermediate_output=True,  # when the node comes from the cache, the page is told again which video to show
            inputs=[StreamWire.Input("stream", tooltip="From the sampler.")],
            outputs=[StreamWire.Output("stream", display_name="stream", tooltip="The same stream, for Parallel VAE Decode.")],
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, stream) -> io.NodeOutput:
        return io.NodeOutput(stream, ui=shown([play(stream, cls.hidden)]))


def shown(files: list[host.TempFile]) -> dict:
    """What the page gets to show finished videos."""
    return {"livetalk_video": [live.view_of_video(file) for file in files]}


def play(stream: TalkStream, hidden) -> host.TempFile:
    """The stream's video file. It is published on a channel of this node while it is made, its crop first; a finished one is only shown."""
    workflow = (hidden.extra_pnginfo or {}).get("workflow", {}).get("id", "")
    channel = live.open_channel(str(hidden.unique_id), workflow, stream.num_frames)
    channel.crop = host.save_picture(stream.picture)
    announce(channel)
    broadcast = live.Broadcast(channel, announce)
    try:
        file = stream.write(broadcast.send)
        if broadcast.pace is not None:  # nothing was sent if the video was there
            file.pace = broadcast.pace | {"note": stream.note}
        channel.keep(file)
    finally:
        broadcast.close()
        channel.crop = None
        announce(channel)
    return file


def announce(channel: live.Channel) -> None:
    """Tell every page about a channel that can be watched, or whose video is finished."""
    server = host.prompt_server()
    if server is not None:
        server.send_sync(live.EVENT, channel.describe())
