"""MP4 files: frames and the original sound in, in constant memory. Axes: T frames, H W size, C channels, N samples."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from torch import Tensor

from livetalk_core.media.audio import probe_audio
from livetalk_core.media.sound_track import SoundTrack
from livetalk_core.media.source import open_media

BT709, LIMITED, FULL = 1, 1, 2
"""FFmpeg's numbers for the color space, transfer and primaries, and for the two ranges."""
EXACT = 0x4 | 0x2000 | 0x4000 | 0x40000
"""libswscale flags: bicubic, full chroma resolution in and out, accurate rounding."""


class VideoWriter:
    """An MP4 of H.264 frames and, if `audio` is given, that file's own sound as AAC. Frame k is shown at k / fps seconds.

    The file grows under a hidden name beside `path` and takes its name in `close`; an older file at `path` stays whole until then.
    As a context manager: leaving closes the file, Ctrl-C too if any frame is in, any other error removes it.
    Raises ValueError or FileNotFoundError for a path that cannot be written to, and OSError (part file removed) if the disk is full.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        width: int,
        height: int,
        fps: int | Fraction = 25,
        audio: str | Path | None = None,
        overwrite: bool = False,
        crf: int = 18,
    ) -> None:
        self.path = check_target(Path(path), overwrite)
        check_frame_size(width, height)
        self.width, self.height, self.fps = width, height, Fraction(fps)
        self.num_frames = 0
        self._part = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex[:8]}.part")
        self._open = True
        self._container = av.open(str(self._part.resolve()), "w", format="mp4", container_options={"movflags": "faststart"})
        try:
            self._video = self._container.add_stream("libx264", rate=self.fps, options={"crf": str(crf), "preset": "fast"})
            configure_h264(self._video.codec_context, width, height, self.fps)
            self._video.codec_context.gop_size = round(2 * self.fps)
            self._sound = None if audio is None else SoundTrack(self._container, audio)
            with self._disk():
                self._container.start_encoding()
        except BaseException:
            self.abort()
            raise

    def write(self, frames_THWC: Tensor | np.ndarray) -> None:
        """Append uint8 RGB frames [T, height, width, 3] on the CPU, and the sound of the time they are shown."""
        assert self._open, "write after close"
        frames_THWC = checked_frames(frames_THWC, self.width, self.height)
        with self._disk():
            for frame_HWC in frames_THWC:
                frame = to_yuv(frame_HWC)
                frame.pts, frame.time_base = self.num_frames, 1 / self.fps
                self.num_frames += 1
                self._container.mux(self._video.encode(frame))
                if self._sound is not None:
                    self._sound.write_until(self.num_frames / self.fps)

    def close(self) -> None:
        """Finish the file, playable whenever this is called.

        Sound that outlasts the picture by less than a frame is kept to its last sample; longer sound is cut where the picture ends.
        """
        if not self._open:
            return
        if self.num_frames == 0:
            self.abort()
            raise ValueError(f"{self.path}: no frames were written, so there is no video to keep; write at least one")
        try:
            with self._disk():
                self._container.mux(self._video.encode(None))
                if self._sound is not None:
                    self._sound.finish(self.num_frames / self.fps, slack=1 / self.fps)
                self._container.close()
                os.replace(self._part, self.path)
        except BaseException:
            self.abort()
            raise
        self._open = False

    def abort(self) -> None:
        """Give up: the part file is removed, the target is left as it was."""
        if not self._open:
            return
        self._open = False
        with suppress(OSError, av.error.FFmpegError):
            self._container.close()
        self._part.unlink(missing_ok=True)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
        if kind is None or (interrupted and self.num_frames > 0):
            self.close()
        else:
            self.abort()

    @contextmanager
    def _disk(self) -> Iterator[None]:
        """A failed write becomes one line with the free space, and the part file goes."""
        try:
            yield
        except OSError as error:
            free_mb = shutil.disk_usage(self.path.parent).free / 1e6
            self.abort()
            raise OSError(
                error.errno,
                f"{self.path}: writing failed after {self.num_frames} frames ({error.strerror}); {free_mb:.1f} MB are free there",
            ) from error


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a whole decode of a video file found. Times in seconds; the audio fields are None for a silent film."""

    path: Path
    frames: int
    fps: Fraction
    width: int
    height: int
    codec: str
    duration: Fraction
    """frames / fps."""
    start: Fraction
    audio_start: Fraction | None
    audio_duration: Fraction | None
    audio_rate: int | None
    audio_channels: int | None
    audio_codec: str | None


def probe_video(path: str | Path) -> VideoInfo:
    """Decode a video file once, in constant memory. FileNotFoundError or ValueError, in one line, if it cannot be decoded to its end."""
    with open_video(path) as container:
        video = container.streams.video[0]
        width, height, fps, codec, start = video.width, video.height, video.average_rate, video.codec_context.name, start_of(video)
        sound_start = start_of(container.streams.audio[0]) if container.streams.audio else None
        num_frames = sum(1 for _ in decode_frames(Path(path), container))
    sound = None if sound_start is None else probe_audio(path)
    return VideoInfo(
        path=Path(path),
        frames=num_frames,
        fps=fps,
        width=width,
        height=height,
        codec=codec,
        duration=num_frames / fps,
        start=start,
        audio_start=sound_start,
        audio_duration=sound and sound.duration,
        audio_rate=sound and sound.sample_rate,
        audio_channels=sound and sound.channels,
        audio_codec=sound and sound.codec,
    )


def read_frames(path: str | Path) -> Iterator[np.ndarray]:
    """uint8 RGB frames [H, W, 3] in order, by the file's own color tags. Errors as in `probe_video`."""
    with open_video(path) as container:
        for frame in decode_frames(Path(path), container):
            yield frame.reformat(format="rgb24", dst_color_range=FULL, interpolation=EXACT).to_ndarray()


def open_video(path: str | Path) -> InputContainer:
    container = open_media(path, "video file")
    if not container.streams.video:
        container.close()
        raise ValueError(f"{path}: has no picture in it; give a file with a video stream")
    return container


def decode_frames(path: Path, container: InputContainer) -> Iterator[VideoFrame]:
    num_frames = 0
    try:
        for frame in container.decode(video=0):
            num_frames += 1
            yield frame
    except av.error.FFmpegError as error:
        raise ValueError(f"{path}: decoding stopped after {num_frames} frames ({error.strerror}); copy or export the file again") from error


def start_of(stream: av.stream.Stream) -> Fraction:
    return (stream.start_time or 0) * stream.time_base


def check_target(path: Path, overwrite: bool) -> Path:
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; name an .mp4 file in it")
    if path.suffix.lower() != ".mp4":
        raise ValueError(f"{path}: the video must be an .mp4 file; write {path.with_suffix('.mp4').name}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {path.parent} does not exist; create it first")
    if path.exists() and not overwrite:
        raise ValueError(f"{path}: exists already; choose another name or pass --overwrite")
    return path


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
