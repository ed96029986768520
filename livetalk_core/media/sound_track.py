"""A file's own sound as the AAC track of a video, pulled along as the video grows. Axes: N samples, C channels."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.container import OutputContainer

from livetalk_core.media.decode import Sound, decode

AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
AAC_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 7: "7.1", 8: "7.1"}


class SoundTrack:
    """At its own rate and channels where AAC has them; else at the nearest rate, and as stereo above eight channels."""

    def __init__(self, container: OutputContainer, path: str | Path, track: int | None = None) -> None:
        pieces = decode(path, track)
        first = next(pieces)
        self.rate = min(AAC_RATES, key=lambda rate: abs(rate - first.sample_rate))
        self.layout = AAC_LAYOUTS.get(first.samples_CN.shape[0], "stereo")
        self._container = container
        self._stream = container.add_stream("aac", rate=self.rate, layout=self.layout)
        self._num_channels = self._stream.codec_context.layout.nb_channels
        self._stream.codec_context.bit_rate = self._num_channels * min(128_000, 4 * self.rate)
        self._source = self._converted(chain([first], pieces))
        self._waiting_NC = np.zeros((0, self._num_channels), np.float32)
        self._num_written = 0
        self._ended = False

    def write_until(self, time_s: Fraction) -> None:
        """Encode the sound before `time_s`, as far as there is any."""
        num_wanted = int(time_s * self.rate) - self._num_written
        self._pull(num_wanted)
        self._encode(self._waiting_NC[:num_wanted])
        self._waiting_NC = self._waiting_NC[num_wanted:]

    def finish(self, time_s: Fraction, slack: Fraction) -> None:
        """Encode to `time_s`, or to the end of the sound if that is less than `slack` seconds later."""
        num_last = int((time_s + slack) * self.rate) - self._num_written
        self._pull(num_last + 1)
        if len(self._waiting_NC) <= num_last:
            self._encode(self._waiting_NC)
        else:
            self.write_until(time_s)
        self._container.mux(self._stream.encode(None))

    def _pull(self, num_wanted: int) -> None:
        while len(self._waiting_NC) < num_wanted and (piece_NC := next(self._source, None)) is not None:
            self._waiting_NC = np.concatenate([self._waiting_NC, piece_NC])

    def _encode(self, samples_NC: np.ndarray) -> None:
        if len(samples_NC) == 0:
            return
        frame = packed_frame(samples_NC, self.layout, self.rate)
        frame.pts, frame.time_base = self._num_written, Fraction(1, self.rate)
        self._num_written += len(samples_NC)
        self._container.mux(self._stream.encode(frame))

    def _converted(self, pieces: Iterator[Sound]) -> Iterator[np.ndarray]:
        """[N, C] at the track's rate and channel order."""
        convert = av.AudioResampler(format="flt", layout=self.layout, rate=self.rate)
        for sound in pieces:
            named = not sound.layout.endswith(" channels") and sound.samples_CN.shape[0] <= 8
            frame = packed_frame(sound.samples_CN.T, sound.layout if named else self.layout, sound.sample_rate)
            for piece in convert.resample(frame):
                yield piece.to_ndarray().reshape(-1, self._num_channels)
        for piece in convert.resample(None):
            yield piece.to_ndarray().reshape(-1, self._num_channels)


def packed_frame(samples_NC: np.ndarray, layout: str, rate: int) -> AudioFrame:
    frame = AudioFrame.from_ndarray(np.ascontiguousarray(samples_NC, np.float32).reshape(1, -1), format="flt", layout=layout)
    frame.sample_rate = rate
    return frame
