"""MP4 files: frames and the original sound in, and out again, in constant memory. Axes: T frames, H W size, C channels, N samples."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from torch import Tensor

from livetalk_core.media.audio import probe_audio
from livetalk_core.media.encode import EXACT, FULL, check_frame_size, checked_frames
from livetalk_core.media.part import Part, cut_torn, remux, whole_frames
from livetalk_core.media.source import open_media
from livetalk_core.media.target import Target, check_target

__all__ = ["VideoInfo", "VideoWriter", "check_target", "probe_video", "read_frames"]

PIECE_FRAMES = 28
"""Frames encoded together: a chunk's."""

Seal = Callable[[Path, Path], None]
"""Writes a sealed copy of a finished video, such as one with credentials: first path to second. ValueError or OSError if it cannot."""


class VideoWriter:
    """An MP4 of H.264 frames and, if `audio` is given, that file's own sound as AAC. Frame k is shown at k / fps seconds.

    The file grows under a hidden name beside `path`, can be played up to its last whole piece of `piece_frames` at any time, and takes its
    name in `close`; an older file at `path` stays whole until then. `seal` makes the last change to the finished file; if it cannot, the
    video is kept without, and `unsealed` says why. As a context manager: leaving closes the file, Ctrl-C too if any frame
    is in, any other error removes it. Raises ValueError or FileNotFoundError for a path that cannot be written to. If the disk fills up it
    raises OSError, which says where the whole pieces are that were written before.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        width: int,
        height: int,
        fps: int | Fraction = 25,
        audio: str | Path | None = None,
        audio_track: int | None = None,
        overwrite: bool = False,
        crf: int = 18,
        piece_frames: int = PIECE_FRAMES,
        seal: Seal | None = None,
    ) -> None:
        check_frame_size(width, height)
        self.seal, self.unsealed = seal, ""
        self.target = Target(Path(path), overwrite)
        self.width, self.height, self.fps = width, height, Fraction(fps)
        self.saved: Path | None = None
        """Where the video is, once it is closed."""
        self.failed = False
        """Whether the disk would take no more."""
        self.part, self._file = self.target.open_part()
        size = {"width": width, "height": height, "fps": self.fps}
        try:
            with self._disk():
                sound = {"audio": audio, "audio_track": audio_track}
                self._movie = Part(self._file, **size, **sound, crf=crf, piece_frames=piece_frames)
        except BaseException:
            self.abort()
            raise

    @property
    def num_frames(self) -> int:
        return self._movie.num_frames

    def copy(self, old: Path, num_frames: int) -> None:
        """Begin with the first frames of a part that an earlier run has left."""
        with self._disk():
            self._movie.copy(old, num_frames)

    def write(self, frames_THWC: Tensor | np.ndarray) -> None:
        """Append uint8 RGB frames [T, height, width, 3] on the CPU, and the sound of the time they are shown."""
        assert not self._file.closed, "write after close"
        frames_THWC = checked_frames(frames_THWC, self.width, self.height)
        with self._disk():
            for frame_HWC in frames_THWC:
                self._movie.add(frame_HWC)

    def close(self, *, partial: bool = False) -> Path:
        """Finish the file, playable whenever this is called; returns its name. `partial`: it is less than was to be made."""
        if self._file.closed:
            return self.saved or self.target.path
        if self.num_frames == 0:
            self.abort()
            raise ValueError(f"{self.target.path}: no frames were written, so there is no video to keep; write at least one")
        with self._disk():
            self._movie.finish()
        return self._keep(partial)

    def abort(self) -> None:
        """Give up: the part file is removed, the target is left as it was."""
        if self._file.closed:
            return
        with suppress(OSError, AttributeError, av.error.FFmpegError):
            self._movie.container.close()
        self._file.close()
        self.part.unlink(missing_ok=True)

    def _keep(self, partial: bool) -> Path:
        """The finished part as an ordinary MP4 under the target's name; where there is no room for a second copy, as it is."""
        try:
            video = self._ordinary()
            try:
                video = self._sealed(video)
            finally:  # even if sealing is interrupted, the finished video takes its name
                self.saved = self.target.take(video, partial=partial)
            self.part.unlink(missing_ok=True)
        except OSError as error:
            self.saved = self._rescue(partial, error)
        self._file.close()
        return self.saved

    def _ordinary(self) -> Path:
        self.part.parent.mkdir(parents=True, exist_ok=True)
        ordinary, file = self.target.open_part()
        file.close()
        try:
            remux(self._file, ordinary)
        except BaseException:
            ordinary.unlink(missing_ok=True)
            raise
        return ordinary

    def _sealed(self, ordinary: Path) -> Path:
        """The sealed copy in place of the finished file, or that file as it is."""
        if self.seal is None:
            return ordinary
        sealed, file = self.target.open_part()
        file.close()
        try:
            self.seal(ordinary, sealed)
        except (OSError, ValueError) as error:
            self.unsealed = str(error)
            sealed.unlink(missing_ok=True)
            return ordinary
        except BaseException:
            sealed.unlink(missing_ok=True)
            raise
        ordinary.unlink()
        return sealed

    def _rescue(self, partial: bool, error: OSError) -> Path:
        """The part itself under the target's name; where that cannot be, in the folder for temporary files. OSError says which."""
        self.unsealed = error.strerror if self.seal else ""
        with suppress(OSError):
            if self.part.exists():
                return self.target.take(self.part, partial=partial)
        handle, name = tempfile.mkstemp(prefix="livetalk-", suffix=".mp4")
        self._file.seek(0)
        with os.fdopen(handle, "wb") as sink:
            shutil.copyfileobj(self._file, sink)
        self._file.close()
        raise OSError(error.errno, f"{self.target.path}: cannot be written ({error.strerror}); the video is {name}") from error

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
        """A failed write becomes one line that says what is free and where the whole pieces are that were written before."""
        try:
            yield
        except OSError as error:
            if error.errno not in errno.errorcode:
                raise  # about the sound, or FFmpeg's own
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> OSError:
        self.failed = True
        folder = self.target.real.parent
        free = f"{shutil.disk_usage(folder).free / 1e6:.1f} MB are free there" if folder.is_dir() else f"{folder} is gone"
        num_frames, kept = self._salvage()
        where = f"; {kept} has the first {num_frames} frames" if kept else ""
        return OSError(error.errno, f"{self.target.path}: writing failed after {self.num_frames} frames ({error.strerror}); {free}{where}")

    def _salvage(self) -> tuple[int, Path | None]:
        """The whole pieces of a part that cannot be written to its end, under the target's name if that is free."""
        with suppress(OSError, AttributeError, av.error.FFmpegError):
            self._movie.container.close()
        with suppress(OSError):
            cut_torn(self._file)
        num_frames = whole_frames(self.part)
        if num_frames == 0:
            self.abort()
            return 0, None
        self._file.close()
        with suppress(OSError):
            self.saved = self.target.take(self.part, partial=True)
        return num_frames, self.saved or self.part


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
