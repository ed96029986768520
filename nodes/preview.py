"""Live Preview: plays a stream with its sound while it is made, and passes it on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from . import host, live
from .stream import TalkStream, with_progress
from .types import CATEGORY, StreamWire, io


class LivePreview(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LiveTalkLivePreview",
            display_name="LiveTalk Live Preview",
            category=CATEGORY,
            description=(
                "Plays the video with sound while it is made. With its output connected, the node after it runs the stream; "
                "otherwise it runs the stream itself and keeps nothing."
            ),
            search_aliases=["live", "stream", "preview video", "watch"],
            inputs=[StreamWire.Input("stream", tooltip="From the sampler.")],
            outputs=[StreamWire.Output("stream", display_name="stream", tooltip="The same stream, for Parallel VAE Decode.")],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, stream) -> io.NodeOutput:
        workflow = (cls.hidden.extra_pnginfo or {}).get("workflow", {}).get("id", "")
        watched = WatchedStream(source=stream, node=str(cls.hidden.unique_id), workflow=workflow)
        if host.count_links(cls.hidden.dynprompt, cls.hidden.unique_id, 0) == 0:
            for _ in with_progress(watched.chunks(), watched.num_frames):
                pass
        return io.NodeOutput(watched)


@dataclass(frozen=True, kw_only=True, eq=False)
class WatchedStream:
    """A stream that is published on a channel while it runs."""

    source: TalkStream
    node: str
    workflow: str

    @property
    def width(self) -> int:
        return self.source.width

    @property
    def height(self) -> int:
        return self.source.height

    @property
    def num_frames(self) -> int:
        return self.source.num_frames

    @property
    def speech(self):
        return self.source.speech

    def chunks(self) -> Iterator:
        """The source's chunks, each published before it is handed on."""
        channel = live.open_channel(self.node, self.workflow, self.num_frames)
        broadcast = live.Broadcast(channel, announce)
        try:
            for chunk in self.source.chunks():
                broadcast.send(chunk)
                yield chunk
        finally:
            broadcast.close()


def announce(channel: live.Channel) -> None:
    """Tell every page about a channel that can be watched."""
    server = host.prompt_server()
    if server is not None:
        server.send_sync(live.EVENT, channel.describe())
