"""Live video for browsers: fragmented MP4, one self-contained fragment per call. Axes: T frames, H W size, N samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction

import numpy as np
from av.audio.codeccontext import AudioCodecContext
from av.audio.frame import AudioFrame
from av.codec.context import CodecContext, Flags
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType
from torch import Tensor

from livetalk_core.media.audio import LiveResampler
from livetalk_core.media.boxes import AUDIO_ID, KEY_FRAME, OTHER_FRAME, VIDEO_ID, AudioTrack, Run, VideoTrack, fragment, init_segment
from livetalk_core.media.encode import check_frame_size, checked_frames, configure_h264, to_yuv

AAC_RATE = 48000
"""Whatever the input's rate: the AAC encoder holds back frames of 1024 samples, which are shortest in time here."""
AAC_FRAME = 1024
TICKS_PER_FRAME = 1000
SPS, PPS = 7, 8


class FragmentWriter:
    """H.264 and AAC for Media Source Extensions. `sink` gets the init segment at once, then one fragment per `write`.

    Each fragment starts with a key frame and holds all frames given; at most the last 65 ms of sound wait for the next one.
    What `sink` raises, `write` raises. A late viewer needs `init_segment` and any later fragment on.
    """

    def __init__(
        self, sink: Callable[[bytes], None], *, width: int, height: int, fps: int | Fraction = 25, sample_rate: int = 16000, crf: int = 20
    ) -> None:
        check_frame_size(width, height)
        self.width, self.height, self.fps, self.sample_rate = width, height, Fraction(fps), sample_rate
        self.num_frames = 0
        self._sink = sink
        self._sequence = 0
        self._open = True
        self._video = open_h264(width, height, self.fps, crf)
        self._sound = LiveAac(sample_rate)
        parameters = {nal[0] & 31: nal for nal in split_nals(self._video.extradata)}
        self.mime_type = f'video/mp4; codecs="avc1.{parameters[SPS][1:4].hex()}, mp4a.40.2"'
        ticks = self.fps.denominator * TICKS_PER_FRAME
        timescale = self.fps.numerator * TICKS_PER_FRAME
        track = VideoTrack(width=width, height=height, timescale=timescale, frame_ticks=ticks, sps=parameters[SPS], pps=parameters[PPS])
        self._ticks = ticks
        self.init_segment = init_segment(track, self._sound.track)
        sink(self.init_segment)

    def write(self, frames_THWC: Tensor | np.ndarray, samples_N: Tensor | np.ndarray) -> None:
        """uint8 frames [T, height, width, 3] and their mono sound, float [T * sample_rate / fps] in [-1, 1] -> one fragment."""
        assert self._open, "write after close"
        frames_THWC = checked_frames(frames_THWC, self.width, self.height)
        samples_N = np.asarray(samples_N)
        num_wanted = len(frames_THWC) * self.sample_rate / self.fps
        if len(frames_THWC) == 0 or samples_N.shape != (num_wanted,):
            raise ValueError(
                f"{len(frames_THWC)} frames with sound of shape {samples_N.shape}; give one frame or more and ({num_wanted},) samples"
            )
        sound = self._sound.push(samples_N)
        pictures = [self._encode(frame_HWC, first=k == 0) for k, frame_HWC in enumerate(frames_THWC)]
        flags = [KEY_FRAME] + [OTHER_FRAME] * (len(pictures) - 1)
        run = Run(track_id=VIDEO_ID, time=(self.num_frames - len(pictures)) * self._ticks, samples=pictures, flags=flags)
        self._send([run, sound])

    def close(self) -> None:
        """Send the sound that was held back. Further calls do nothing."""
        if self._open:
            self._open = False
            self._send([self._sound.flush()])

    def _encode(self, frame_HWC: np.ndarray, *, first: bool) -> bytes:
        frame = to_yuv(frame_HWC)
        frame.pict_type = PictureType.I if first else PictureType.NONE
        frame.pts, frame.time_base = self.num_frames, 1 / self.fps
        packets = self._video.encode(frame)
        assert len(packets) == 1 and packets[0].is_keyframe >= first, "one packet a frame, at once, and a key frame when asked"
        self.num_frames += 1
        return length_prefixed(bytes(packets[0]))

    def _send(self, runs: list[Run]) -> None:
        runs = [run for run in runs if run.samples]
        if runs:
            self._sequence += 1
            self._sink(fragment(self._sequence, runs))


class LiveAac:
    """Mono sound in, AAC frames out as soon as the encoder gives them."""

    def __init__(self, sample_rate: int) -> None:
        self._resampler = LiveResampler(sample_rate, AAC_RATE)
        self._codec = open_aac()
        self.track = AudioTrack(rate=AAC_RATE, bit_rate=self._codec.bit_rate, config=bytes(self._codec.extradata), priming=AAC_FRAME)
        self._waiting_N = np.zeros(0, np.float32)
        self._num_in = 0
        self._num_out = 0

    def push(self, samples_N: np.ndarray) -> Run:
        self._waiting_N = np.concatenate([self._waiting_N, self._resampler.push(samples_N)])
        num_ready = len(self._waiting_N) // AAC_FRAME * AAC_FRAME
        ready_N, self._waiting_N = self._waiting_N[:num_ready], self._waiting_N[num_ready:]
        return self._run(packet for frame_N in ready_N.reshape(-1, AAC_FRAME) for packet in self._encode(frame_N))

    def flush(self) -> Run:
        rest_N = np.concatenate([self._waiting_N, self._resampler.flush()])
        frames = [rest_N[at : at + AAC_FRAME] for at in range(0, len(rest_N), AAC_FRAME)]
        last = [packet for frame_N in frames for packet in self._encode(frame_N)]
        return self._run(last + self._codec.encode(None))

    def _encode(self, frame_N: np.ndarray) -> list[Packet]:
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(frame_N[None]), format="fltp", layout="mono")
        frame.sample_rate = AAC_RATE
        frame.pts, frame.time_base = self._num_in, Fraction(1, AAC_RATE)
        self._num_in += len(frame_N)
        return self._codec.encode(frame)

    def _run(self, packets: Iterable[Packet]) -> Run:
        time = self._num_out * AAC_FRAME
        samples = [bytes(packet) for packet in packets]
        self._num_out += len(samples)
        return Run(track_id=AUDIO_ID, time=time, samples=samples)


def open_h264(width: int, height: int, fps: Fraction, crf: int) -> VideoCodecContext:
    """An encoder without delay: a packet per frame, key frames where a frame asks for one."""
    codec = CodecContext.create("libx264", "w")
    configure_h264(codec, width, height, fps)
    codec.gop_size = 2**20
    codec.flags |= Flags.global_header
    codec.options = {"crf": str(crf), "preset": "veryfast", "tune": "zerolatency", "forced-idr": "1"}
    codec.open()
    return codec


def open_aac() -> AudioCodecContext:
    codec = CodecContext.create("aac", "w")
    codec.sample_rate, codec.layout, codec.format = AAC_RATE, "mono", "fltp"
    codec.time_base = Fraction(1, AAC_RATE)
    codec.bit_rate = 128_000
    codec.flags |= Flags.global_header
    codec.open()
    return codec


def split_nals(annex_b: bytes) -> list[bytes]:
    """The NAL units between start codes; a unit never ends in a zero byte (ITU-T H.264, annex B)."""
    units = (unit.rstrip(b"\0") for unit in bytes(annex_b).split(b"\0\0\1"))
    return [unit for unit in units if unit]


def length_prefixed(annex_b: bytes) -> bytes:
    return b"".join(len(nal).to_bytes(4, "big") + nal for nal in split_nals(annex_b))
