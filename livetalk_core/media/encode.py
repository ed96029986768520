"""Frames as H.264 has them: sizes, color, and an encoder's settings. Axes: T frames, H W size."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from torch import Tensor

BT709, LIMITED, FULL = 1, 1, 2
"""FFmpeg's numbers for the color space, transfer and primaries, and for the two ranges."""
EXACT = 0x4 | 0x2000 | 0x4000 | 0x40000
"""libswscale flags: bicubic, full chroma resolution in and out, accurate rounding."""


def check_frame_size(width: int, height: int) -> None:
    if width < 16 or height < 16 or width % 2 or height % 2:
        raise ValueError(f"video of {width}x{height} pixels must have even sides of 16 or more: H.264 halves the color resolution")


def checked_frames(frames_THWC: Tensor | np.ndarray, width: int, height: int) -> np.ndarray:
    """As an array, if they are uint8 [T, height, width, 3]; else ValueError."""
    frames_THWC = np.asarray(frames_THWC)
    if frames_THWC.dtype != np.uint8 or frames_THWC.ndim != 4 or frames_THWC.shape[1:] != (height, width, 3):
        raise ValueError(f"frames of {frames_THWC.dtype} {frames_THWC.shape} must be uint8 (T, {height}, {width}, 3)")
    return frames_THWC


def configure_h264(codec: VideoCodecContext, width: int, height: int, fps: Fraction) -> None:
    """8-bit 4:2:0 without B-frames, tagged BT.709 limited range, as `to_yuv` makes it."""
    codec.width, codec.height, codec.pix_fmt = width, height, "yuv420p"
    codec.framerate, codec.time_base = fps, 1 / fps
    codec.max_b_frames = 0
    codec.color_primaries, codec.color_trc, codec.colorspace, codec.color_range = BT709, BT709, BT709, LIMITED


def to_yuv(frame_HWC: np.ndarray) -> VideoFrame:
    """An RGB frame as BT.709 limited-range 4:2:0."""
    frame = VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format="rgb24")
    return frame.reformat(format="yuv420p", dst_colorspace=BT709, src_color_range=FULL, dst_color_range=LIMITED, interpolation=EXACT)
