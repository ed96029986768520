"""The door for Pipecat: a session as a processor after the text-to-speech service.

    session = LiveSession(engine, engine.reference(pixels_CHW)).start()
    Pipeline([transport.input(), ..., tts, LiveTalkProcessor(session), transport.output()])

Needs pipecat-ai: pip install 'livetalk[pipecat]'.
"""

from __future__ import annotations

import asyncio

import numpy as np

try:
    from pipecat.frames.frames import (
        CancelFrame,
        EndFrame,
        Frame,
        InterruptionFrame,
        OutputImageRawFrame,
        StartFrame,
        TTSAudioRawFrame,
        TTSStoppedFrame,
    )
    from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"Pipecat needs {error.name}, which is not installed; pip install 'livetalk[pipecat]'") from None

from livetalk_core.media.audio import LiveResampler
from livetalk_core.serve.player import Outlet, Player
from livetalk_core.serve.session import LiveSession
from livetalk_core.serve.timeline import Shot

RATE = 16000


class LiveTalkProcessor(FrameProcessor):
    """Takes the speech of a TTS service, and gives video with that speech at 25 frames a second. Idle frames come without sound."""

    def __init__(self, session: LiveSession) -> None:
        super().__init__()
        self.session = session
        self.resampler: LiveResampler | None = None
        self.tasks: list[asyncio.Task] = []

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Speech is taken; everything else passes."""
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSAudioRawFrame):
            self.speak(frame)
            return
        if isinstance(frame, TTSStoppedFrame):
            self.finish()
        elif isinstance(frame, InterruptionFrame):
            self.session.interrupt()
            self.resampler = None
        elif isinstance(frame, EndFrame | CancelFrame):
            await self.stop()
        await self.push_frame(frame, direction)
        if isinstance(frame, StartFrame):
            self.start()

    def speak(self, frame: TTSAudioRawFrame) -> None:
        samples_CN = np.frombuffer(frame.audio, np.int16).reshape(-1, frame.num_channels).T.astype(np.float32) / 32768
        if self.resampler is None or self.resampler.sample_rate != frame.sample_rate:
            self.resampler = LiveResampler(frame.sample_rate, RATE)
        self.session.say(self.resampler.push(samples_CN))

    def finish(self) -> None:
        """The utterance is complete."""
        if self.resampler is not None:
            self.session.say(self.resampler.flush())
            self.resampler = None
        self.session.end_speech()

    def start(self) -> None:
        player = Player(self.session)
        self.tasks = [self.create_task(player.run()), self.create_task(self.show(player.outlet()))]

    async def stop(self) -> None:
        for task in self.tasks:
            await self.cancel_task(task)
        self.tasks = []

    async def show(self, outlet: Outlet) -> None:
        """Push every frame on, its sound first, so that both are played together."""
        while True:
            shot = await outlet.get()
            if shot.speaking:
                await self.push_frame(audio_frame(shot))
            await self.push_frame(image_frame(shot))


def audio_frame(shot: Shot) -> TTSAudioRawFrame:
    return TTSAudioRawFrame(audio=(shot.samples_N.clip(-1, 1) * 32767).astype(np.int16).tobytes(), sample_rate=RATE, num_channels=1)


def image_frame(shot: Shot) -> OutputImageRawFrame:
    height, width = shot.frame_HWC.shape[:2]
    frame = OutputImageRawFrame(image=np.ascontiguousarray(shot.frame_HWC).tobytes(), size=(width, height), format="RGB")
    frame.sync_with_audio = shot.speaking
    return frame
