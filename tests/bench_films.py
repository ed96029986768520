"""Small videos for the benchmark's tests: losslessly coded frames, with or without sound."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from livetalk_core.evaluate.talkbench.clips import BenchClip
from livetalk_core.evaluate.talkbench.measure import Shown


def write_film(path: Path, frames_THWC: np.ndarray, sound_N: np.ndarray | None = None, fps: int = 25) -> Path:
    """Frames as they are (FFV1, RGB), and 16-bit sound at 16 kHz."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("ffv1", rate=fps)
        video.height, video.width = frames_THWC.shape[1:3]
        video.pix_fmt = "bgr0"
        track = container.add_stream("pcm_s16le", rate=16000, layout="mono") if sound_N is not None else None
        for frame in frames_THWC:
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")))
        container.mux(video.encode())
        if track is not None:
            frame = av.AudioFrame.from_ndarray(sound_N[None].astype(np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = 16000, Fraction(1, 16000), 0
            container.mux(track.encode(frame))
            container.mux(track.encode())
    return path


def shown(video: Path, sound: Path | None = None, true: Path | None = None) -> Shown:
    """A video as a measure gets it."""
    clip = BenchClip(set="short", name=video.stem, picture=None, sound=sound or video, video=true or video)
    return Shown(video=video, clip=clip)
