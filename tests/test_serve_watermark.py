"""A served stream is marked if the server is told to, and carries the id that its client was told."""

import asyncio

import numpy as np
import torch

from livetalk_core.cli.main import parser
from livetalk_core.cli.serve import limits_of
from livetalk_core.media.video import read_frames
from livetalk_core.provenance.detect import find_mark
from livetalk_core.provenance.watermark import Watermark
from livetalk_core.serve.metrics import Metrics
from livetalk_core.serve.pace import Pace
from livetalk_core.serve.video import VideoSender
from livetalk_core.types import Chunk


def sent(mark: Watermark | None, frames_THWC: torch.Tensor) -> bytes:
    """The bytes that a client gets for one piece."""
    pieces: list[bytes] = []

    async def send(data: bytes) -> None:
        pieces.append(data)

    async def at_once(work, *arguments):
        return work(*arguments)

    async def stream() -> None:
        video = VideoSender(256, 256, send, at_once, Pace(Metrics()), mark)
        running = asyncio.ensure_future(video.run())
        await video.put(Chunk(index=0, first_frame=0, frames_THWC=frames_THWC, samples=torch.zeros(640 * len(frames_THWC))))
        await video.put(None)
        await running

    asyncio.run(stream())
    return b"".join(pieces)


def test_the_clients_video_has_the_mark_and_the_frames_of_the_pool_do_not(tmp_path):
    frames = torch.randint(90, 120, (6, 256, 256, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    before = frames.clone()
    for mark in (Watermark(0xABCDEF01), None):
        (tmp_path / "a.mp4").write_bytes(sent(mark, frames))
        found = find_mark(np.stack(list(read_frames(tmp_path / "a.mp4"))))
        assert found.readable == (mark is not None) and (mark is None or found.mark_id == mark.mark_id)
    assert torch.equal(frames, before)


def test_the_option_reaches_the_limits():
    assert limits_of(parser().parse_args(["serve", "--watermark"])).watermark
    assert not limits_of(parser().parse_args(["serve"])).watermark
