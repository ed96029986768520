"""Running a server: health, metrics, warming, failed pools, the drain, the command line."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

aiohttp = pytest.importorskip("aiohttp")
pytest.importorskip("prometheus_client")
from aiohttp.test_utils import unused_port  # noqa: E402
from prometheus_client.parser import text_string_to_metric_families  # noqa: E402
from serving import LIMITS, UPGRADE, NearPool, hear, picture_file, run, say, until  # noqa: E402

from livetalk_core.cli.main import main  # noqa: E402
from livetalk_core.cli.serve import first_size, sizes_to_warm  # noqa: E402
from livetalk_core.pool.schedule import State  # noqa: E402
from livetalk_core.serve import readiness  # noqa: E402
from livetalk_core.serve.metrics import Metrics  # noqa: E402
from livetalk_core.serve.pace import Pace  # noqa: E402
from livetalk_core.serve.server import listening, run_server  # noqa: E402
from livetalk_core.serve.service import Service  # noqa: E402
from livetalk_core.types import Chunk  # noqa: E402

PICTURE = picture_file()


def samples_of(text: str) -> dict[str, float]:
    """Every sample that Prometheus reads in a text, by name and labels."""
    families = text_string_to_metric_families(text)
    return {sample.name + "".join(sample.labels.values()): sample.value for family in families for sample in family.samples}


def test_metrics_count_what_happened():
    async def visit(site):
        open_one, _ = await site.begin(PICTURE)
        socket, _ = await site.begin(PICTURE)
        await say(socket, 2.4)
        await hear(socket)
        await socket.close()
        wrong = await site.connect()
        await wrong.send_json({"steps": 99})
        await wrong.receive_json()
        await wrong.close()
        await site.get("/talk", headers=UPGRADE | {"Origin": "https://bad.example"})
        await until(lambda: site.service.admission.num_streams == 1)
        during = samples_of((await site.get("/metrics"))[1])
        await open_one.close()
        await site.service.admission.empty.wait()
        return during, samples_of((await site.get("/metrics"))[1])

    during, after = run(visit)
    assert (during["livetalk_streams0"], during["livetalk_pool_ready0"]) == (1, 1)
    assert during["livetalk_frames_total"] == 60 and during["livetalk_first_frame_seconds_count"] == 1
    assert during["livetalk_chunk_seconds_count"] == 3, "28, 28 and 4 frames"
    assert during["livetalk_streams_ended_totalfinished"] == during["livetalk_streams_ended_totalrefused"] == 1
    assert during["livetalk_refused_totalsteps"] == during["livetalk_refused_totalorigin"] == 1
    assert after["livetalk_streams0"] == 0 and after["livetalk_streams_ended_totalleft"] == 1
    assert after["livetalk_failures_total"] == after["livetalk_dropped_frames_total"] == 0


def piece(index: int, num_frames: int) -> Chunk:
    return Chunk(index=index, first_frame=0, frames_THWC=[None] * num_frames, samples=None)


def test_frames_are_late_when_their_viewer_had_to_wait_for_the_server_and_not_for_sound():
    metrics, times = Metrics(), [0.0]
    pace = Pace(metrics, lambda: times[0])

    def late():
        return samples_of(metrics.text().decode())["livetalk_late_frames_total"]

    pace.heard()
    times[0] = 1.5
    pace.sent(25)  # shown until 2.5
    times[0] = 2.4
    pace.sent(25)  # shown until 3.5
    assert late() == 0
    times[0] = 3.6
    pace.sent(10)  # late, shown until 4.0
    assert late() == 10
    pace.waited()
    times[0] = 9.0
    pace.sent(10)  # its sound came late; shown until 9.4
    times[0] = 9.3
    pace.sent(10)
    assert late() == 10
    for index, seconds in ((0, 0.2), (0, 0.3), (1, 1.0)):
        pace.worked(piece(index, 30), seconds)
    pace.end()
    found = samples_of(metrics.text().decode())
    assert found["livetalk_first_frame_seconds_sum"] == 1.5
    assert found["livetalk_chunk_seconds_sum"] == 1.5 and found["livetalk_chunk_seconds_count"] == 2
    assert found["livetalk_dropped_frames_total"] == 90 - 80


def test_health_and_places_wait_until_every_size_is_warm(monkeypatch):
    """The server listens meanwhile, and says that it is starting."""
    pool, go, warmed, port = NearPool(), threading.Event(), [], unused_port()

    def warm_up(warming, size):
        assert go.wait(60)
        warmed.append((warming, size))
        return 0.0

    monkeypatch.setattr(readiness, "warm_up", warm_up)

    async def whole():
        service = Service([pool], LIMITS, warm_sizes=((64, 64), (80, 48)))
        server = listening(service, "127.0.0.1", port)
        opening = asyncio.create_task(server.__aenter__())
        async with aiohttp.ClientSession() as session:

            async def get(path):
                async with session.get(f"http://127.0.0.1:{port}{path}", headers=UPGRADE) as response:
                    return response.status, await response.json()

            await until(lambda: pool.starts == 1)
            cold = await get("/health"), await get("/talk")
            go.set()
            await opening
            warm = await get("/health")
            await server.__aexit__(None, None, None)
        return cold, warm

    cold, warm = asyncio.run(whole())
    assert cold == ((503, {"status": "starting"}), (503, {"error": "the model is being started; try again in a while"}))
    assert warm == (200, {"status": "ready"}) and warmed == [(pool, "64x64"), (pool, "80x48")]


def test_a_model_that_cannot_be_warmed_ends_the_start():
    class Broken(NearPool):
        def start(self):
            raise FileNotFoundError("model folder none does not exist")

    async def whole():
        async with listening(Service([Broken()], LIMITS, warm_sizes=((64, 64),)), "127.0.0.1", 0):
            raise AssertionError("it is not ready")

    with pytest.raises(FileNotFoundError, match="model folder none"):
        asyncio.run(whole())


def test_a_failed_pool_takes_no_streams_and_is_started_and_warmed_again(monkeypatch):
    monkeypatch.setattr(readiness, "WATCH_S", 0.001)
    monkeypatch.setattr(readiness, "warm_up", lambda pool, size: warmed.append(size) or 0.0)
    warmed, pool = [], NearPool()

    async def visit(site):
        site.service.readiness.sizes = ((64, 64),)
        pool.state = State(kind="failed", text="rank 0 failed; the log is in /tmp/secret", rank=0)
        states = await site.get("/health"), await site.get("/state")
        await until(lambda: pool.starts > started)
        await until(lambda: site.service.readiness.is_ready(pool))
        return states, await site.get("/health")

    started = pool.starts
    ((_, _), (_, state)), after = run(visit, [pool])
    assert after[0] == 200 and warmed == ["64x64"]
    assert "/tmp" not in state and set(json.loads(state)["pools"][0]) == {"kind", "ready", "sessions"}


async def drained(drain_s: float, second_signal: bool, finish: bool):
    """A server with one open stream gets SIGTERM: what the stream, a newcomer and /health are told, and the pool."""
    pool, port = NearPool(), unused_port()
    service = Service([pool], LIMITS)
    serving = asyncio.create_task(run_server(service, "127.0.0.1", port, drain_s=drain_s))
    async with aiohttp.ClientSession() as session:
        await until(lambda: signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL)
        socket = None
        while socket is None:
            try:
                socket = await session.ws_connect(f"ws://127.0.0.1:{port}/talk", max_msg_size=0)
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.01)
        await socket.send_str("{}")
        await socket.send_bytes(PICTURE)
        assert "mime" in await socket.receive_json()
        os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: service.admission.draining)
        told = []
        for path in ("/health", "/talk") if drain_s > 1 else ():
            async with session.get(f"http://127.0.0.1:{port}{path}", headers=UPGRADE) as response:
                told.append((response.status, await response.json()))
        if second_signal:
            os.kill(os.getpid(), signal.SIGTERM)
        if finish:
            await say(socket, 2.4)
        last = (await hear(socket))[1]
        await socket.close()
    await serving
    return told, last, pool


@pytest.mark.parametrize(
    "drain_s, second_signal, finish, last",
    [
        (1000.0, False, True, {"ended": True}),
        (0.01, False, False, {"error": "this server is shutting down; open a new stream elsewhere"}),
        (1000.0, True, False, {"error": "this server is shutting down; open a new stream elsewhere"}),
    ],
)
def test_sigterm_lets_streams_finish_and_takes_no_new_ones(monkeypatch, drain_s, second_signal, finish, last):
    found, line, pool = asyncio.run(drained(drain_s, second_signal, finish))
    assert line == last and pool.state.kind == "closed" and not pool.streams
    if found:
        assert found == [(503, {"status": "draining"}), (503, {"error": "this server takes no new streams; try another"})]


def test_a_connection_without_a_request_is_closed():
    """Half a request too."""

    async def visit(site):
        ends = []
        for data in (b"", b"GET /talk HTTP/1.1\r\nHost: local"):
            reader, writer = await asyncio.open_connection("127.0.0.1", int(site.web.rsplit(":", 1)[1]))
            writer.write(data)
            ends.append(await reader.read())
            writer.close()
        return ends

    assert run(visit, limits=replace(LIMITS, first_s=0.05)) == [b"", b""]


def test_what_cannot_be_served_is_refused_before_a_model_is_loaded(capsys):
    for words, message in (
        (["--max-steps", "0"], "max_steps=0 must be 1 or more"),
        (["--token", "two words"], "the token must be printable ASCII"),
        (["--tls-key", "key.pem"], "--tls-key needs --tls-cert"),
        (["--pools", "0"], "pools=0 must be 1 or more"),
    ):
        assert main(["serve", "--model", "no such folder", *words]) == 2
        assert message in capsys.readouterr().err


def test_all_sizes_are_warmed_the_largest_first():
    limits = replace(LIMITS, size="48x32")
    assert sizes_to_warm(limits, "64") == ((64, 64), (80, 48), (48, 80), (48, 32))


def test_a_live_page_on_a_cpu_waits_for_the_size_that_is_asked_for_alone():
    assert first_size(LIMITS, "128") == ((48, 32),)
    for size in ("auto", "128"):
        assert first_size(replace(LIMITS, size=size), "128") == ((128, 128),)
    assert set(first_size(LIMITS, "128")) < set(sizes_to_warm(LIMITS, "128"))


@pytest.mark.slow
def test_the_command_serves_a_stream_and_leaves_at_sigterm(tmp_path):
    words = ["serve", "--model", "tiny", "--workers", "1", "--port", "0", "--size", "48x32", "--max-steps", "2"]
    environment = os.environ | {"LIVETALK_TOKEN": "secret", "TMPDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-m", "livetalk_core.cli", *words], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        address = process.stdout.readline().split()[-1]

        async def visit():
            async with aiohttp.ClientSession() as session:
                socket = await session.ws_connect(address + "?token=secret", max_msg_size=0)
                await socket.send_str("{}")
                await socket.send_bytes(PICTURE)
                place = await socket.receive_json()
                process.send_signal(signal.SIGTERM)
                await say(socket, 1.2)
                return place, await hear(socket)

        place, (video, last) = asyncio.run(visit())
        assert (place["width"], place["height"], last) == (48, 32, {"ended": True}) and len(video) > 1000
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
