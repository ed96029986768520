"""The Pipecat door: a pipeline of pipecat-ai with speech in place of a TTS service."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

pytest.importorskip("pipecat")
from live_engine import CountingEngine  # noqa: E402
from made import HANG_S, pixels, speech_like  # noqa: E402
from pipecat.frames.frames import InterruptionFrame, OutputImageRawFrame, TTSAudioRawFrame, TTSStoppedFrame  # noqa: E402
from pipecat.tests.utils import SleepFrame, run_test  # noqa: E402

from livetalk_core.serve.pipecat import LiveTalkProcessor  # noqa: E402
from livetalk_core.serve.session import LiveSession  # noqa: E402


def speech(seconds: float, rate: int = 24000):
    sound = ((speech_like(seconds, rate) + 0.1) * 32767).astype(np.int16)
    return [TTSAudioRawFrame(audio=part.tobytes(), sample_rate=rate, num_channels=1) for part in np.array_split(sound, 10)]


def play(*frames) -> list:
    """What comes out of a processor for these frames."""

    async def whole():
        engine = CountingEngine(lambda seconds: None)
        live = LiveSession(engine, engine.reference(pixels())).start()
        down, _ = await run_test(LiveTalkProcessor(live), frames_to_send=list(frames))
        await asyncio.to_thread(live.close)
        return down

    return asyncio.run(asyncio.wait_for(whole(), HANG_S))


def test_speech_comes_out_with_its_video_and_video_alone_when_it_idles():
    down = play(*speech(0.6), TTSStoppedFrame(), SleepFrame(sleep=3.0))
    sound = [frame for frame in down if isinstance(frame, TTSAudioRawFrame)]
    images = [frame for frame in down if isinstance(frame, OutputImageRawFrame)]
    assert 15 <= len(sound) <= 16 and all(frame.sample_rate == 16000 for frame in sound)
    assert len(images) > 30 and images[0].size == (48, 32) and sum(image.sync_with_audio for image in images) == len(sound)
    moving = [np.frombuffer(image.image, np.uint8)[2] == 255 for image in images]
    assert sum(moving) >= len(sound) and any(isinstance(frame, TTSStoppedFrame) for frame in down)


def test_an_interruption_empties_what_waits():
    down = play(*speech(20.0), SleepFrame(sleep=1.5), InterruptionFrame(), SleepFrame(sleep=0.5))
    assert sum(isinstance(frame, TTSAudioRawFrame) for frame in down) < 80
