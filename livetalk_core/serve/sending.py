"""The process that sends a pushed session: python -m livetalk_core.serve.sending URL WIDTH HEIGHT, frames from push.py on its input."""

from __future__ import annotations

import struct
import sys
from fractions import Fraction
from typing import BinaryIO

import av
import numpy as np
from av.error import FFmpegError

from livetalk_core.media.encode import check_frame_size, configure_h264, to_yuv

FORMATS = {"rtmp": "flv", "rtmps": "flv", "srt": "mpegts", "udp": "mpegts", "tcp": "mpegts"}
"""Container by the address's scheme."""
NUMBER = "<q"
FPS, FRAME_SAMPLES, SOUND_RATE, SENT_RATE = 25, 640, 16000, 48000
KEY_FRAMES = 2 * FPS


class Sending:
    """One connection to a streaming server. Raises FFmpegError when there is none."""

    def __init__(self, url: str, width: int, height: int) -> None:
        check_frame_size(width, height)
        self.container = av.open(url, "w", format=FORMATS[url.partition("://")[0]])
        self.video = self.container.add_stream("libx264", rate=FPS)
        configure_h264(self.video.codec_context, width, height, Fraction(FPS))
        self.video.codec_context.gop_size = KEY_FRAMES
        self.video.options = {"preset": "veryfast", "tune": "zerolatency"}
        self.sound = self.container.add_stream("aac", rate=SENT_RATE, layout="mono")
        self.first: int | None = None

    def write(self, number: int, frame_HWC: np.ndarray, samples_N: np.ndarray) -> None:
        """One frame and its sound; `number` is its place on the session's clock."""
        self.first = number if self.first is None else self.first
        frame = to_yuv(frame_HWC)
        frame.pts, frame.time_base = number - self.first, Fraction(1, FPS)
        sound = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples_N[None]), format="fltp", layout="mono")
        sound.sample_rate, sound.pts, sound.time_base = SOUND_RATE, (number - self.first) * FRAME_SAMPLES, Fraction(1, SOUND_RATE)
        self.container.mux([*self.video.encode(frame), *self.sound.encode(sound)])

    def close(self) -> None:
        """Send the rest and end the connection."""
        self.container.mux([*self.video.encode(None), *self.sound.encode(None)])
        self.container.close()


def send(source: BinaryIO, url: str, width: int, height: int) -> None:
    """Send frames until the input ends."""
    sending = Sending(url, width, height)
    sizes = (struct.calcsize(NUMBER), height * width * 3, FRAME_SAMPLES * 4)
    while len(message := source.read(sum(sizes))) == sum(sizes):
        frame_HWC = np.frombuffer(message, np.uint8, sizes[1], sizes[0]).reshape(height, width, 3)
        sending.write(struct.unpack_from(NUMBER, message)[0], frame_HWC, np.frombuffer(message, np.float32, FRAME_SAMPLES, sum(sizes[:2])))
    sending.close()


if __name__ == "__main__":
    try:
        send(sys.stdin.buffer, sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    except (FFmpegError, OSError, ValueError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
