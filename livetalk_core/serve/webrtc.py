"""A live session over WebRTC: one video and one audio track whose time stamps come from the session's clock."""

from __future__ import annotations

import importlib.util
from fractions import Fraction

import numpy as np
from av import AudioFrame, VideoFrame

from livetalk_core.serve.player import Outlet, Player
from livetalk_core.serve.refusal import Refused
from livetalk_core.serve.timeline import FPS, FRAME_SAMPLES

VIDEO_RATE = 90000
SOUND_RATE = 16000


def can_webrtc() -> bool:
    return importlib.util.find_spec("aiortc") is not None


class WebRTC:
    """One viewer's connection."""

    def __init__(self, player: Player) -> None:
        if not can_webrtc():
            raise Refused("webrtc", "WebRTC needs aiortc on the server: pip install 'livetalk[live]'; the video comes as MP4 without it")
        from aiortc import RTCConfiguration, RTCPeerConnection

        self.player = player
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))  # the default asks a server of Google's

    async def answer(self, offer: str) -> str:
        """The answer to a browser's offer, both SDP. Refused for an offer that cannot be read."""
        from aiortc import RTCSessionDescription

        try:
            await self.connection.setRemoteDescription(RTCSessionDescription(offer, "offer"))
            for track in tracks(self.player):
                self.connection.addTrack(track)
            await self.connection.setLocalDescription(await self.connection.createAnswer())
        except Exception as error:  # aiortc raises many kinds for bad SDP
            raise Refused("webrtc", f"the offer is not one that can be answered ({type(error).__name__}); use MP4") from None
        return self.connection.localDescription.sdp

    async def close(self) -> None:
        await self.connection.close()


def tracks(player: Player) -> tuple[object, object]:
    """A video and an audio track of a session. Each begins with the frame of the moment when it is first read."""
    from aiortc import AudioStreamTrack, VideoStreamTrack

    class Pictures(VideoStreamTrack):
        outlet: Outlet | None = None

        async def recv(self) -> VideoFrame:
            self.outlet = self.outlet or player.outlet()
            shot = await self.outlet.get()
            frame = VideoFrame.from_ndarray(shot.frame_HWC, format="rgb24")
            frame.pts, frame.time_base = shot.number * VIDEO_RATE // FPS, Fraction(1, VIDEO_RATE)
            return frame

    class Sounds(AudioStreamTrack):
        """Half a frame's sound at a time, 20 ms, as browsers expect."""

        outlet: Outlet | None = None
        second_half: AudioFrame | None = None

        async def recv(self) -> AudioFrame:
            if self.second_half is not None:
                half, self.second_half = self.second_half, None
                return half
            self.outlet = self.outlet or player.outlet()
            shot = await self.outlet.get()
            first_N, second_N = np.split(shot.samples_N, 2)
            self.second_half = sound_frame(second_N, shot.number * FRAME_SAMPLES + len(first_N))
            return sound_frame(first_N, shot.number * FRAME_SAMPLES)

    return Pictures(), Sounds()


def sound_frame(samples_N: np.ndarray, position: int) -> AudioFrame:
    """Samples [N] in [-1, 1] as 16-bit mono; `position`: samples before them."""
    frame = AudioFrame.from_ndarray((samples_N[None].clip(-1, 1) * 32767).astype(np.int16), format="s16", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = SOUND_RATE, position, Fraction(1, SOUND_RATE)
    return frame
