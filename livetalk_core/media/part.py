"""A video in the making: a fragmented MP4 that can be played up to its last whole piece whenever its process ends.

Every piece is encoded by an encoder of its own, from a key frame on, so that what follows a piece does not depend on what came before it:
a film made in two goes has the same frames as one made in one.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from av.bitstream import BitStreamFilterContext
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext

from livetalk_core.media.encode import configure_h264, to_yuv
from livetalk_core.media.sound_track import SoundTrack

FRAGMENTS = "frag_keyframe+delay_moov+default_base_moof"
"""A fragment a key frame; the head is written with the first, when the sound's priming is known."""


class Part:
    """Frames and sound on their way into an open file."""

    def __init__(
        self,
        file: BinaryIO,
        *,
        width: int,
        height: int,
        fps: Fraction,
        crf: int,
        piece_frames: int,
        audio: str | Path | None = None,
        audio_track: int | None = None,
    ) -> None:
        self.file, self.width, self.height, self.fps = file, width, height, fps
        self.options, self.piece_frames = {"crf": str(crf), "preset": "fast"}, piece_frames
        self.num_frames = 0
        self.encoder: VideoCodecContext | None = None
        self.container = av.open(file, "w", format="mp4", container_options={"movflags": FRAGMENTS})
        self.video = self.container.add_stream("libx264", rate=fps, options=self.options)
        configure_h264(self.video.codec_context, width, height, fps)
        self.sound = None if audio is None else SoundTrack(self.container, audio, audio_track)
        self.container.start_encoding()

    def add(self, frame_HWC: np.ndarray) -> None:
        """One frame, and the sound of the time it is shown."""
        if self.encoder is None:
            self.encoder = self.open_encoder()
        frame = to_yuv(frame_HWC)
        frame.pts, frame.time_base = self.num_frames, 1 / self.fps
        self.mux(self.encoder.encode(frame))
        self.num_frames += 1
        self.sound_until_now()
        if self.num_frames % self.piece_frames == 0:
            self.end_piece()

    def copy(self, old: Path, num_frames: int) -> None:
        """The first frames of an earlier part, as they are encoded there, and their sound anew. `num_frames` are whole pieces."""
        for packet in copied(old, num_frames):
            packet.pts = packet.dts = self.num_frames
            packet.time_base = 1 / self.fps
            packet.duration = 1
            self.mux([packet])
            self.num_frames += 1
            self.sound_until_now()
        assert self.num_frames == num_frames, f"{self.num_frames} frames in {old}, {num_frames} were counted"

    def finish(self) -> None:
        """The last piece, the sound to the picture's end, and the file's end.

        Sound that outlasts the picture by less than a frame is kept to its last sample; longer sound is cut where the picture ends.
        """
        self.end_piece()
        if self.sound is not None:
            self.sound.finish(self.num_frames / self.fps, slack=1 / self.fps)
        self.container.close()
        self.sync()

    def end_piece(self) -> None:
        """Nothing of the piece stays in the encoder; what is finished is on the disk even if the power goes."""
        if self.encoder is not None:
            self.mux(self.encoder.encode(None))
            self.encoder = None
            self.sync()

    def sync(self) -> None:
        with suppress(OSError):  # a file system that cannot is no worse off than without
            os.fsync(self.file.fileno())

    def sound_until_now(self) -> None:
        if self.sound is not None:
            self.sound.write_until(self.num_frames / self.fps)

    def mux(self, packets: list[Packet]) -> None:
        for packet in packets:
            packet.stream = self.video
            self.container.mux(packet)

    def open_encoder(self) -> VideoCodecContext:
        encoder = VideoCodecContext.create("libx264", "w")
        configure_h264(encoder, self.width, self.height, self.fps)
        encoder.gop_size = self.piece_frames + 1
        encoder.options = dict(self.options)
        encoder.open()
        return encoder


def cut_torn(file: BinaryIO) -> None:
    """Shorten a part to its last whole fragment: the boxes of ISO/IEC 14496-12 up to the last mdat that is all there."""
    end, at, whole = file.seek(0, os.SEEK_END), 0, 0
    while at + 8 <= end:
        file.seek(at)
        size, name = struct.unpack(">I4s", file.read(8))
        at += max(size, 8)
        if name == b"mdat" and at <= end:
            whole = at
    os.ftruncate(file.fileno(), whole)


def whole_frames(path: Path) -> int:
    """Frames in the whole fragments of a part that was left; 0 if there are none."""
    count = 0
    with suppress(av.error.FFmpegError, OSError), av.open(str(path.resolve())) as container:
        if not container.streams.video:
            return 0
        for packet in container.demux(video=0):
            count += bool(packet.size)
    return count


def copied(path: Path, num_frames: int) -> Iterator[Packet]:
    """The first packets of a part's picture, in the form in which encoders give them."""
    with av.open(str(path.resolve())) as container:
        stream = container.streams.video[0]
        form = BitStreamFilterContext("h264_mp4toannexb", stream)
        for packet in container.demux(stream):
            last = not packet.size  # asked before the filter takes the bytes
            for done in form.filter(None if last else packet):
                if num_frames > 0:
                    num_frames -= 1
                    yield done
            if last or num_frames == 0:
                return


def remux(part: BinaryIO, path: Path) -> None:
    """A finished part as an ordinary MP4 with its index in front: the same packets at the same times."""
    part.seek(0)
    with av.open(part, "r", format="mp4") as source, av.open(str(path.resolve()), "w", format="mp4", container_options=ORDINARY) as sink:
        streams = {stream.index: sink.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.size:
                packet.stream = streams[packet.stream.index]
                sink.mux(packet)


ORDINARY = {"movflags": "faststart"}
