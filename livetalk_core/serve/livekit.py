"""The door for LiveKit Agents: a session as the VideoGenerator of an AvatarRunner.

    session = LiveSession(engine, engine.reference(pixels_CHW)).start()
    runner = AvatarRunner(room, audio_recv=receiver, video_gen=LiveTalkGenerator(session), options=avatar_options(session))

Needs livekit-agents: pip install 'livetalk[livekit]'.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

import numpy as np

try:
    from livekit import rtc
    from livekit.agents.voice.avatar import AudioSegmentEnd, AvatarOptions, VideoGenerator
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"LiveKit needs {error.name}, which is not installed; pip install 'livetalk[livekit]'") from None

from livetalk_core.media.audio import LiveResampler
from livetalk_core.serve.player import Player
from livetalk_core.serve.session import LiveSession
from livetalk_core.serve.timeline import FPS, Shot

RATE = 16000


def avatar_options(session: LiveSession) -> AvatarOptions:
    """What an AvatarRunner must know of the session."""
    return AvatarOptions(
        video_width=session.plan.width, video_height=session.plan.height, video_fps=FPS, audio_sample_rate=RATE, audio_channels=1
    )


class LiveTalkGenerator(VideoGenerator):
    """Speech in, video and its sound out at 25 frames a second. Idle frames come without sound."""

    def __init__(self, session: LiveSession) -> None:
        self.session, self.segments = session, Segments()
        self.resampler: LiveResampler | None = None

    async def push_audio(self, frame: rtc.AudioFrame | AudioSegmentEnd) -> None:
        """Speech at any rate, or the end of a segment."""
        if isinstance(frame, AudioSegmentEnd):
            self.finish_segment()
            return
        samples_CN = np.frombuffer(frame.data, np.int16).reshape(-1, frame.num_channels).T.astype(np.float32) / 32768
        if self.resampler is None or self.resampler.sample_rate != frame.sample_rate:
            self.resampler = LiveResampler(frame.sample_rate, RATE)
        self.speak(self.resampler.push(samples_CN))

    def speak(self, samples_N: np.ndarray) -> None:
        self.session.say(samples_N)
        self.segments.pushed += len(samples_N)

    def finish_segment(self) -> None:
        if self.resampler is not None:
            self.speak(self.resampler.flush())
            self.resampler = None
        self.session.end_speech()
        self.segments.ends.append(self.segments.pushed)

    def clear_buffer(self) -> None:
        """Stop at once."""
        self.session.interrupt()
        self.segments, self.resampler = Segments(), None

    async def __aiter__(self) -> AsyncIterator[rtc.VideoFrame | rtc.AudioFrame | AudioSegmentEnd]:
        player = Player(self.session)
        outlet, playing = player.outlet(), asyncio.ensure_future(player.run())
        try:
            while True:
                taking = asyncio.ensure_future(outlet.get())
                await asyncio.wait([taking, playing], return_when=asyncio.FIRST_COMPLETED)
                if playing.done():
                    taking.cancel()
                    playing.result()
                shot = taking.result()
                yield video_frame(shot)
                if shot.speaking:
                    yield audio_frame(shot)
                for _ in range(self.segments.shown(shot)):
                    yield AudioSegmentEnd()
        finally:
            playing.cancel()


class Segments:
    """Which segments have been shown to their end, counted in samples."""

    def __init__(self) -> None:
        self.pushed = self.spoken = 0
        self.ends: deque[int] = deque()

    def shown(self, shot: Shot) -> int:
        """How many segments ended with this frame."""
        self.spoken += len(shot.samples_N) if shot.speaking else 0
        count = 0
        while self.ends and self.spoken >= self.ends[0]:
            self.ends.popleft()
            count += 1
        if not self.ends:
            self.spoken = min(self.spoken, self.pushed)  # the silence after a segment's end, up to a frame, belongs to no other
        return count


def video_frame(shot: Shot) -> rtc.VideoFrame:
    height, width = shot.frame_HWC.shape[:2]
    return rtc.VideoFrame(width, height, rtc.VideoBufferType.RGB24, np.ascontiguousarray(shot.frame_HWC).tobytes())


def audio_frame(shot: Shot) -> rtc.AudioFrame:
    data = (shot.samples_N.clip(-1, 1) * 32767).astype(np.int16).tobytes()
    return rtc.AudioFrame(data, RATE, 1, len(shot.samples_N))
