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
from livetalk_core.serve.player import Player
from livetalk_core.serve.timeline import Shot
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


class Session:
    """Shows one frame again and again."""

    def __init__(self, frame_HWC: np.ndarray) -> None:
        self.frame_HWC, self.number = frame_HWC, 0

    def tick(self) -> Shot:
        self.number += 1
        return Shot(number=self.number - 1, frame_HWC=self.frame_HWC, samples_N=np.zeros(640), speaking=False, held=False)


def test_every_reader_of_a_live_session_gets_marked_frames_and_the_session_keeps_its_own():
    frame_HWC = np.random.default_rng(0).integers(90, 120, (256, 256, 3), dtype=np.uint8)
    before = frame_HWC.copy()

    async def watch(mark: Watermark | None) -> np.ndarray:
        player = Player(Session(frame_HWC), mark)
        outlets = player.outlet(), player.outlet()
        running = asyncio.ensure_future(player.run())
        first, other = [await outlet.get() for outlet in outlets]
        running.cancel()
        assert np.array_equal(first.frame_HWC, other.frame_HWC) and first.number == 0
        return first.frame_HWC

    assert find_mark([asyncio.run(watch(Watermark(77)))]).mark_id == 77
    assert np.array_equal(asyncio.run(watch(None)), before) and np.array_equal(frame_HWC, before)


def test_the_option_reaches_the_limits():
    assert limits_of(parser().parse_args(["serve", "--watermark"])).watermark
    assert not limits_of(parser().parse_args(["serve"])).watermark
