"""A pack for measuring: a node that makes a moving pattern with a tone at exactly 25 frames a second, as a LiveTalk stream."""

import time

import torch
from comfy_api.latest import ComfyExtension, io

NEW_FRAMES, FPS, RATE = 28, 25, 16000


class PacedStream:
    """What Live Preview asks of a stream."""

    speech = None

    def __init__(self, width: int, height: int, num_chunks: int) -> None:
        self.width, self.height, self.num_chunks = width, height, num_chunks
        self.num_frames = num_chunks * NEW_FRAMES

    def chunks(self):
        from livetalk_core.types import Chunk

        start = time.perf_counter()
        x = torch.linspace(0, 6.28, self.width)
        for index in range(self.num_chunks):
            shift = torch.arange(NEW_FRAMES)[:, None] / FPS + index
            row = ((x + 4 * shift).sin() * 120 + 128).to(torch.uint8)
            frames = row[:, None, :, None].expand(-1, self.height, -1, 3).contiguous()
            samples = 0.2 * torch.sin(torch.arange(NEW_FRAMES * RATE // FPS) * 0.17)
            time.sleep(max(0, start + (index + 1) * NEW_FRAMES / FPS - time.perf_counter()))
            yield Chunk(index=index, first_frame=index * NEW_FRAMES, frames_THWC=frames, samples=samples)

    def write(self, watch):
        for chunk in self.chunks():
            watch(chunk)
        return NoFile()


class NoFile(str):
    """In place of the path of a video file."""


class Pacer(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LiveTalkTestPacer",
            inputs=[io.Int.Input("width"), io.Int.Input("height"), io.Int.Input("num_chunks")],
            outputs=[io.Custom("LIVETALK_STREAM").Output("stream")],
        )

    @classmethod
    def execute(cls, width, height, num_chunks):
        return io.NodeOutput(PacedStream(width, height, num_chunks))


class Extension(ComfyExtension):
    async def get_node_list(self):
        return [Pacer]


async def comfy_entrypoint():
    return Extension()
