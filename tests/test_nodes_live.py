"""Live channels: nobody waits for a viewer, late and returning viewers get what they need, what is sent plays."""

import asyncio
import io
import sys
from types import SimpleNamespace

import av
import pytest
import torch
from made import HANG_S

from livetalk_core.types import Chunk


class Socket:
    """A WebSocket that keeps what it is sent; `stuck` ones never finish sending."""

    def __init__(self, stuck: bool = False, closes_after: int = 10**9) -> None:
        self.texts, self.data, self.closed, self.stuck, self.left = [], [], False, stuck, closes_after

    async def send_json(self, value) -> None:
        self.texts.append(value)

    async def send_bytes(self, data: bytes) -> None:
        if self.stuck:
            await asyncio.Event().wait()
        self.data.append(data)
        self.left -= 1
        self.closed = self.closed or self.left <= 0

    async def close(self) -> None:
        self.closed = True

    def __aiter__(self):
        return self

    async def __anext__(self):
        await asyncio.Event().wait()


def chunk(index: int) -> Chunk:
    frames = torch.full((28, 32, 48, 3), 8 * index % 250, dtype=torch.uint8)
    return Chunk(index=index, first_frame=28 * index, frames_THWC=frames, samples=torch.zeros(28 * 640))


@pytest.fixture
def live(nodes):
    return nodes.live


@pytest.fixture
def channel(live):
    return live.open_channel("7", "w", 84)


def frames_in(data: list[bytes]) -> int:
    with av.open(io.BytesIO(b"".join(data))) as container:
        return sum(1 for _ in container.decode(video=0))


async def watch(live, channel, socket, after=0, during=lambda: None):
    """Serve one viewer while `during` publishes, and wait until it is done."""
    task = asyncio.create_task(live.serve(socket, channel, after))
    await asyncio.sleep(0.01)
    await asyncio.to_thread(during)
    await asyncio.wait_for(task, HANG_S)


def test_what_is_sent_plays_from_the_first_frame_to_the_last(live, channel):
    broadcast, told, socket = live.Broadcast(channel, lambda opened: told.append(opened.describe())), [], Socket()
    broadcast.send(chunk(0))

    def rest():
        broadcast.send(chunk(1))
        broadcast.send(chunk(2))
        broadcast.close()

    asyncio.run(watch(live, channel, socket, during=rest))
    assert frames_in(socket.data) == 84
    assert told[0]["node"] == "7" and told[0]["mime"].startswith("video/mp4; codecs=") and len(told) == 1
    assert socket.texts[0] == {"mime": channel.mime} and socket.texts[-1] == {"ended": True}
    stats = socket.texts[3]
    assert (stats["frames"], stats["total"]) == (56, 84) and stats["ttff_s"] >= 0 and stats["fps"] * stats["rtf"] == pytest.approx(25)


def test_a_late_viewer_gets_the_start_and_the_last_fragments(live, channel):
    broadcast, socket = live.Broadcast(channel, lambda opened: None), Socket()
    for index in range(live.HISTORY + 5):
        broadcast.send(chunk(index))
    broadcast.close()
    asyncio.run(watch(live, channel, socket))
    numbers = [text["number"] for text in socket.texts[1:-1]]
    assert numbers == [0, *range(broadcast.channel.num_published - live.HISTORY, broadcast.channel.num_published)]
    assert frames_in(socket.data) == 28 * (live.HISTORY - 1), "and the fragment with the last sound"


def test_a_returning_viewer_gets_only_what_it_has_not_seen(live, channel):
    broadcast, first, second = live.Broadcast(channel, lambda opened: None), Socket(closes_after=3), Socket()
    broadcast.send(chunk(0))
    asyncio.run(watch(live, channel, first, during=lambda: broadcast.send(chunk(1))))
    seen = [text["number"] for text in first.texts[1:]]
    broadcast.send(chunk(2))
    broadcast.close()
    asyncio.run(watch(live, channel, second, after=seen[-1]))
    assert seen == [0, 1, 2] and [text["number"] for text in second.texts[1:3]] == [0, 3]
    assert frames_in(first.data + second.data[1:]) == 84


def test_a_stuck_viewer_costs_bounded_memory_and_no_one_any_time(live, channel):
    async def both():
        stuck, good = Socket(stuck=True), Socket()
        channel.publish(b"start", {})
        tasks = [asyncio.create_task(live.serve(socket, channel, 0)) for socket in (stuck, good)]
        await asyncio.sleep(0.01)
        for _ in range(10 * live.QUEUE):
            channel.publish(b"x" * 100, {})
            await asyncio.sleep(0)
        channel.end()
        await asyncio.wait_for(tasks[1], HANG_S)
        longest = max(len(viewer.waiting) for viewer in channel.viewers)
        tasks[0].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return good, longest

    good, longest = asyncio.run(both())
    assert len(good.data) == 1 + 10 * live.QUEUE
    assert longest == live.QUEUE and not channel.viewers


def test_old_channels_go_and_their_viewers_are_let_off(live):
    first = live.open_channel("1", "", 1)
    for _ in range(live.MAX_CHANNELS):
        live.open_channel("2", "", 1)
    assert first.ended and first.id not in live.CHANNELS and len(live.CHANNELS) == live.MAX_CHANNELS


class Source:
    """A stream whose video takes two pieces; `stops` raises after the first."""

    num_frames, width, height, speech, note = 56, 48, 32, None, "steps=2 differ by 3 %"
    picture = torch.zeros(32, 48, 3)

    def __init__(self, folder, stops: bool = False) -> None:
        self.folder, self.stops, self.runs, self.file = folder, stops, 0, None

    def write(self, watch):
        if self.file is None:
            self.runs += 1
            watch(chunk(0))
            if self.stops:
                raise KeyboardInterrupt
            watch(chunk(1))
            (self.folder / "made.mp4").write_bytes(b"")
            self.file = sys.modules["livetalk_pack.nodes"].host.TempFile(self.folder / "made.mp4")
        return self.file


def test_the_preview_runs_the_stream_whatever_its_links_and_later_shows_the_file(nodes, live, tmp_path):
    source = Source(tmp_path)
    for links in ({}, {"9": {"inputs": {"stream": ["4", 0]}}}):
        prompt = SimpleNamespace(get_original_prompt=lambda links=links: links)
        nodes.LivePreview.hidden = SimpleNamespace(unique_id="4", dynprompt=prompt, extra_pnginfo=None)
        out = nodes.LivePreview.execute(source)
        assert out.args == (source,) and out.ui["livetalk_video"][0]["filename"] == "made.mp4"
    assert source.runs == 1
    assert [opened.num_published for opened in live.CHANNELS.values()] == [4, 0], "start, chunks, the last sound; then the file alone"
    assert [opened.describe()["file"]["filename"] for opened in live.CHANNELS.values()] == ["made.mp4"] * 2
    del out, source
    assert not (tmp_path / "made.mp4").exists() and [opened.describe()["file"] for opened in live.CHANNELS.values()] == [None] * 2


def test_the_finished_video_keeps_its_statistics_for_pages_that_come_later(nodes, live, tmp_path):
    source = Source(tmp_path)
    nodes.LivePreview.hidden = SimpleNamespace(unique_id="4", extra_pnginfo=None)
    shown = [nodes.LivePreview.execute(source).ui["livetalk_video"][0]["pace"] for _ in range(2)]
    listed = [opened.describe()["file"]["pace"] for opened in live.CHANNELS.values()]
    assert shown[0]["frames"] == shown[0]["total"] == 56 and shown[0]["note"] == source.note and shown[0]["fps"] > 0
    assert shown[1] == shown[0] and listed == shown, "the second run read the file and kept what was measured"


@pytest.mark.parametrize("kind, own", [("LiveTalkGenerate", True), ("LiveTalkModelLoader", True), ("LiveTalkParallelVAEDecode", False)])
def test_what_a_running_node_says_stands_in_its_own_line_where_it_has_one(nodes, host, monkeypatch, kind, own):
    told, server = [], nodes.host.prompt_server()
    running = (1, "id", {"4": {"class_type": kind, "inputs": {}}}, {"extra_pnginfo": {"workflow": {"id": "w"}}}, ["4"])
    monkeypatch.setattr(server, "prompt_queue", SimpleNamespace(get_current_queue_volatile=lambda: ([running], [])), raising=False)
    monkeypatch.setattr(server, "send_sync", lambda event, data: told.append((event, data)))
    nodes.host.show_text("Loading nano")
    assert told == ([("livetalk.text", {"node": "4", "workflow": "w", "text": "Loading nano"})] if own else [])
    assert host.lines == ([] if own else ["Loading nano"])


def test_a_stopped_preview_ends_its_channel(nodes, live, tmp_path):
    nodes.LivePreview.hidden = SimpleNamespace(unique_id="4", extra_pnginfo=None)
    with pytest.raises(KeyboardInterrupt):
        nodes.LivePreview.execute(Source(tmp_path, stops=True))
    assert [(opened.ended, opened.num_published) for opened in live.CHANNELS.values()] == [(True, 3)]


def test_the_cache_keys_of_stream_and_preview_hold_no_links(nodes):
    for node in (nodes.StreamingBidirectionalSampler, nodes.LivePreview):
        assert "dynprompt" not in getattr(node.define_schema(), "hidden", [])
