"""The LiveKit door: a real AvatarRunner of livekit-agents with a stand-in room."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

pytest.importorskip("livekit.agents")
from live_engine import CountingEngine  # noqa: E402
from livekit import rtc  # noqa: E402
from livekit.agents.voice.avatar import AudioSegmentEnd, AvatarRunner, QueueAudioOutput  # noqa: E402
from made import HANG_S, pixels, speech_like  # noqa: E402

from livetalk_core.serve.livekit import LiveTalkGenerator, avatar_options  # noqa: E402
from livetalk_core.serve.session import LiveSession  # noqa: E402


class Publication:
    async def wait_for_subscription(self):
        pass


class Participant:
    def __init__(self):
        self.tracks = []

    async def publish_track(self, track, options):
        self.tracks.append(track)
        return Publication()


class Room:
    """As much of a room as a runner calls."""

    def __init__(self):
        self.local_participant = Participant()

    def isconnected(self):
        return True

    def on(self, *_):
        pass

    off = on


def session() -> LiveSession:
    engine = CountingEngine(lambda seconds: None)
    return LiveSession(engine, engine.reference(pixels())).start()


def frames(seconds: float, rate: int = 24000):
    sound = ((speech_like(seconds, rate) + 0.1) * 32767).astype(np.int16)
    return [rtc.AudioFrame(part.tobytes(), rate, 1, len(part)) for part in np.split(sound, range(rate // 50, len(sound), rate // 50))]


def test_a_generator_gives_video_all_the_time_sound_with_speech_and_the_end_of_each_segment():
    async def whole():
        live, counts = session(), {"VideoFrame": 0, "AudioFrame": 0, "AudioSegmentEnd": 0}
        generator = LiveTalkGenerator(live)
        for _ in range(2):
            for frame in frames(1.0):
                await generator.push_audio(frame)
            await generator.push_audio(AudioSegmentEnd())
        async for frame in generator:
            counts[type(frame).__name__] += 1
            if counts["AudioSegmentEnd"] == 2:
                break
        await asyncio.to_thread(live.close)
        return counts

    counts = asyncio.run(asyncio.wait_for(whole(), HANG_S))
    assert 50 <= counts["AudioFrame"] <= 52 and counts["VideoFrame"] >= counts["AudioFrame"]


def test_a_runner_plays_ten_seconds_and_a_cleared_buffer_stops_it_in_the_middle():
    async def whole():
        live, room = session(), Room()
        queue = QueueAudioOutput(sample_rate=24000)
        told = []
        queue.on("playback_finished", told.append)
        runner = AvatarRunner(room, audio_recv=queue, video_gen=LiveTalkGenerator(live), options=avatar_options(live))
        await runner.start()
        for frame in frames(10.0):
            await queue.capture_frame(frame)
        queue.flush()
        while not live.figures().speaking or runner._playback_position < 1:
            await asyncio.sleep(0.02)
        queue.clear_buffer()
        while not told:
            await asyncio.sleep(0.02)
        waiting = live.figures().waiting_speech_s
        await runner.aclose()
        await asyncio.to_thread(live.close)
        return told[0], waiting, len(room.local_participant.tracks)

    told, waiting, tracks = asyncio.run(asyncio.wait_for(whole(), HANG_S))
    assert told.interrupted and 1 <= told.playback_position < 9 and waiting == 0 and tracks == 2
