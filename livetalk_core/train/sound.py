"""Reads the sound of a video segment: the video's own track, or a sound file of the same name beside it."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
from av.container import InputContainer

from livetalk_core.media.audio import LiveResampler, read_audio
from livetalk_core.media.decode import NO_INDEX, choose_track, start_of, unpack
from livetalk_core.media.source import open_media
from livetalk_core.media.video import open_video
from livetalk_core.plan import StreamPlan
from livetalk_core.train.manifest import Segment

RATE = StreamPlan.sample_rate
AROUND_S = 2
"""Seconds of sound kept on either side of a clip, for the audio encoder."""
PREROLL_S = 1
"""Decoding starts this long before a segment, since the first packets after a seek may decode wrongly."""
REACH_S = Fraction(1, 10)
"""More than the resampler looks ahead."""
SOUNDS = (".m4a", ".wav", ".flac", ".mp3", ".aac", ".ogg", ".opus")


def read_sound(segment: Segment) -> np.ndarray:
    """The segment's sound, mono float32 16 kHz, and AROUND_S more. ValueError if there is no sound or it is damaged."""
    path, begin = sound_file(segment.path), round(segment.start_s * RATE)
    end = None if segment.end_s is None else round((segment.end_s + AROUND_S) * RATE)
    if segment.start_s > 2 * PREROLL_S:
        with open_media(path, "sound file") as container:
            if container.format.name not in NO_INDEX and (sound_N := read_from(path, container, begin, end)) is not None:
                return sound_N
    return read_whole(path, end)[begin:]


def sound_file(video: Path) -> Path:
    """The video, or if it has no sound, the sound file of its name beside it: TalkVid's downloader stores sound as .m4a."""
    with open_video(video) as container:
        if container.streams.audio:
            return video
    return next((path for suffix in SOUNDS if (path := video.with_suffix(suffix)).is_file()), video)


def read_whole(path: Path, end: int | None) -> np.ndarray:
    """The file's first `end` samples, or all."""
    blocks, num_samples = [], 0
    for block in read_audio(path):
        num_samples += len(block)
        blocks.append(block)
        if end is not None and num_samples >= end:
            break
    return np.concatenate(blocks)[:end]


def read_from(path: Path, container: InputContainer, begin: int, end: int | None) -> np.ndarray | None:
    """Samples [begin, end) by seeking; None if the file cannot seek there."""
    stream, origin = choose_track(path, container, None, []), start_of(container)
    container.seek(int((origin + Fraction(begin, RATE) - PREROLL_S) / stream.time_base), stream=stream)
    packers: dict = {}
    resampler, blocks, first = None, [], None
    for frame in container.decode(stream):
        time = frame.pts * frame.time_base - origin
        first = time if first is None else first
        if first > Fraction(begin, RATE):
            return None
        for sound in unpack(frame, packers):
            resampler = resampler or LiveResampler(sound.sample_rate, RATE)
            blocks.append(resampler.push(sound.samples_CN, sound.layout))
        if end is not None and time > Fraction(end, RATE) + REACH_S:
            break
    if resampler is None:
        return None
    skip = begin - round(first * RATE)
    return np.concatenate([*blocks, resampler.flush()])[skip : None if end is None else skip + end - begin]
