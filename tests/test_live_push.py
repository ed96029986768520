"""A live session pushed by RTMP, to the server that FFmpeg itself can be."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

import av
import numpy as np
import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("prometheus_client")
from aiohttp.test_utils import unused_port  # noqa: E402
from made import HANG_S  # noqa: E402

from livetalk_core.serve import push  # noqa: E402
from livetalk_core.serve.player import Outlet  # noqa: E402
from livetalk_core.serve.push import Push, check_url  # noqa: E402
from livetalk_core.serve.timeline import Shot  # noqa: E402

LISTEN = """
import json, sys, av
got = {"video": [], "audio": []}
with av.open(sys.argv[1], format="flv", options={"listen": "1"}) as container:
    try:
        for packet in container.demux():
            got[packet.stream.type] += [(frame.time, getattr(frame, "samples", 0)) for frame in packet.decode()]
    except OSError:
        pass  # the other side hung up, which is how RTMP ends
print(json.dumps(got))
"""


def shot(number: int) -> Shot:
    t = np.arange(number * 640, (number + 1) * 640) / 16000
    frame = np.full((48, 64, 3), number % 256, np.uint8)
    return Shot(number=number, frame_HWC=frame, samples_N=np.sin(600 * t).astype(np.float32), speaking=True, held=False)


def test_video_and_sound_arrive_by_rtmp_with_the_time_stamps_of_one_clock(monkeypatch):
    """The first attempts may come before the other side listens, and are made again. Frames that were lost leave a gap in both."""
    monkeypatch.setattr(push, "AGAIN_S", 0.2)
    url, outlets = f"rtmp://127.0.0.1:{unused_port()}/live/key", []

    async def whole():
        server = await asyncio.create_subprocess_exec(sys.executable, "-c", LISTEN, url, stdout=subprocess.PIPE)
        outlets.append(Outlet())
        pushing = asyncio.ensure_future(Push(url).run(lambda: outlets[0], 64, 48))
        number = 0
        for number in range(100, 10**6):
            if number % 50 < 40:
                outlets[0].put(shot(number))
            await asyncio.sleep(0.002)
            if number > 100 + 2000 and outlets[0].shots.empty():
                break
        pushing.cancel()
        await asyncio.gather(pushing, return_exceptions=True)
        return json.loads((await asyncio.wait_for(server.communicate(), HANG_S))[0])

    got = asyncio.run(asyncio.wait_for(whole(), HANG_S))
    video, sound = [time for time, _ in got["video"]], got["audio"]
    length = video[-1] - video[0] + 0.04
    assert len(video) > 50 and len(video) < length * 25, "with gaps"
    assert sound[-1][0] + sound[-1][1] / 48000 - sound[0][0] == pytest.approx(length, abs=0.15)


def test_addresses_that_nothing_can_be_pushed_to_are_refused():
    for scheme in ("rtmp", "udp", "tcp"):
        assert check_url(f"{scheme}://host:9000") == f"{scheme}://host:9000"
    with pytest.raises(ValueError, match="--push http://host must begin with one of rtmp://"):
        check_url("http://host")


@pytest.mark.parametrize("has", [False, True])
def test_a_protocol_that_pyavs_build_lacks_is_refused_at_the_start(monkeypatch, has):
    """PyPI's build has no SRT; others have."""
    error = av.error.ExitError if has else av.error.ProtocolNotFoundError

    def nothing_answers(address, **options):
        raise error(1, "", address)

    monkeypatch.setattr(push.av, "open", nothing_answers)
    if has:
        assert check_url("srt://host:9000") == "srt://host:9000"
    else:
        with pytest.raises(ValueError, match="the installed PyAV cannot send srt://; use rtmp://"):
            check_url("srt://host:9000")
