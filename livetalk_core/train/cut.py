"""Cuts a segment of a video file into clips: 25 frames a second, one size, 16 kHz sound, and a reference picture from near the clip.

Frames are decoded and resized one by one, so memory holds one clip and its surroundings, however long the video is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, count

import numpy as np
import torch
from av import time_base as TIME_BASE
from av.container import InputContainer
from av.video.frame import VideoFrame
from PIL import Image
from torch import Tensor

from livetalk_core.media.image import crop_cover
from livetalk_core.media.video import EXACT, FULL, decode_frames, open_video
from livetalk_core.plan import StreamPlan
from livetalk_core.train.draws import Draws
from livetalk_core.train.manifest import Box, Segment
from livetalk_core.train.sample import Clip
from livetalk_core.train.sound import AROUND_S, PREROLL_S, read_sound

FPS, SAMPLES_PER_FRAME = StreamPlan.fps, StreamPlan.sample_rate // StreamPlan.fps
REFERENCE_REACH = 33
"""The reference is up to this many frames outside its clip: farther away the person may look different, inside its pose is copied."""
SILENT_RMS = 1e-3

Choose = Callable[[int, int], tuple[int, int]]
"""(width, height) of a video -> (width, height) of its bucket."""


def cut_clips(segment: Segment, chunks: int, choose: Choose, plan_of: Callable[[int, int], StreamPlan], seed: int = 0) -> Iterator[Clip]:
    """The clips of a segment, each up to `chunks` chunks long. ValueError for a file that is broken, too short, or silent."""
    plan = plan_of(*choose(*picture_size(segment)))
    sound_N = read_sound(segment)
    longest, made = plan.motion_frames + chunks * plan.new_frames, 0
    for first, frames in cut_runs(resized_frames(segment, plan.width, plan.height), longest + 2 * REFERENCE_REACH):
        length = clip_length(len(frames) - 1, longest, plan)
        start = min(REFERENCE_REACH, (len(frames) - length) // 2) if length else 0
        clip = None if not length else make_clip(segment, frames, sound_N, first, start, length, seed)
        if clip is not None and is_audible(clip, length):
            made += 1
            yield clip
    if not made:
        raise ValueError(f"{segment.path}: silent, or shorter than {plan.chunk_frames + 1} frames at 25 a second; leave it out")


def make_clip(segment: Segment, frames: list[np.ndarray], sound_N: np.ndarray, first: int, start: int, length: int, seed: int) -> Clip:
    """The clip `start` frames into a run that begins at frame `first` of the segment."""
    stop, begin = start + length, first + start
    outside = [*range(max(0, start - REFERENCE_REACH), start), *range(stop, min(len(frames), stop + REFERENCE_REACH))]
    lead = min(begin, AROUND_S * FPS)
    heard = sound_N[(begin - lead) * SAMPLES_PER_FRAME : (begin + length + AROUND_S * FPS) * SAMPLES_PER_FRAME]
    missing = max(0, (lead + length) * SAMPLES_PER_FRAME - len(heard))
    key = f"{segment.key}@{begin}"
    return Clip(
        key=key,
        frames_THWC=torch.from_numpy(np.stack(frames[start:stop])),
        sound_N=torch.from_numpy(np.pad(heard, (0, missing))),
        lead=lead,
        reference_HWC=torch.from_numpy(frames[outside[Draws.of(seed, key).choice("reference", len(outside))]]),
        caption=segment.caption,
    )


def clip_length(available: int, longest: int, plan: StreamPlan) -> int:
    """Frames of the longest clip of whole chunks that fits; 0 when not even one chunk does."""
    if available < plan.chunk_frames:
        return 0
    return min(longest, plan.motion_frames + (available - plan.motion_frames) // plan.new_frames * plan.new_frames)


def cut_runs(frames: Iterator[np.ndarray], length: int) -> Iterator[tuple[int, list[np.ndarray]]]:
    """Group frames into runs of `length`: (number of the first frame, frames). The last run may be shorter."""
    run: list[np.ndarray] = []
    for number in count():
        frame = next(frames, None)
        if frame is None or len(run) == length:
            if run:
                yield number - len(run), run
            run = []
        if frame is None:
            return
        run.append(frame)


def resized_frames(segment: Segment, width: int, height: int) -> Iterator[np.ndarray]:
    """Frames uint8 [H, W, 3] at 25 a second: the segment's box, scaled and cropped to the size."""
    last, shown = None, None
    for moment in frames_at_25(segment):
        if moment is not last:
            rgb = moment.reformat(format="rgb24", dst_color_range=FULL, interpolation=EXACT).to_ndarray()
            picture_CHW = crop_cover(Image.fromarray(rgb).crop(pixels_of(segment.box, *rgb.shape[1::-1])), width, height)
            shown = ((picture_CHW + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
            last = moment
        yield shown


def frames_at_25(segment: Segment) -> Iterator[VideoFrame]:
    """For each 25th of a second, the file's frame shown at its middle."""
    with open_video(segment.path) as container:
        start, frames = frames_before(segment, container)
        number, before, duration = 0, None, 1 / float(container.streams.video[0].average_rate or FPS)
        for frame in frames:
            at = frame.time - start - segment.start_s
            while before is not None and (number + 0.5) / FPS < at and not is_over(segment, number):
                yield before
                number += 1
            before = frame if at + duration > 0 else None
            if is_over(segment, number):
                return
        end = frame.time - start - segment.start_s + duration
        while (number + 0.5) / FPS < end and not is_over(segment, number):
            yield before
            number += 1


def frames_before(segment: Segment, container: InputContainer) -> tuple[float, Iterator[VideoFrame]]:
    """(time of the file's first frame, frames from a key frame before the segment on). ValueError for a file without frames."""
    frames = decode_frames(segment.path, container)
    first = next(frames, None)
    if first is None:
        raise ValueError(f"{segment.path}: has no frames that can be decoded; copy or export the file again")
    if segment.start_s <= 2 * PREROLL_S:
        return first.time, chain([first], frames)
    frames.close()
    for from_s in (segment.start_s - PREROLL_S, 0.0):
        container.seek(round((first.time + from_s) * TIME_BASE))
        frames = decode_frames(segment.path, container)
        frame = next(frames, None)
        if frame is not None and frame.time - first.time <= segment.start_s:
            return first.time, chain([frame], frames)
    raise ValueError(f"{segment.path}: has no frame before {segment.start_s} s; copy or export the file again")


def is_over(segment: Segment, number: int) -> bool:
    return segment.end_s is not None and segment.start_s + (number + 1) / FPS > segment.end_s + 1e-6


def picture_size(segment: Segment) -> tuple[int, int]:
    """(width, height) of the segment's box in pixels."""
    with open_video(segment.path) as container:
        left, top, right, bottom = pixels_of(segment.box, container.streams.video[0].width, container.streams.video[0].height)
    return right - left, bottom - top


def pixels_of(box: Box, width: int, height: int) -> Box:
    """(left, top, right, bottom) of a box as fractions of the picture -> in pixels."""
    return tuple(round(part * side) for part, side in zip(box, (width, height, width, height), strict=True))


def is_audible(clip: Clip, length: int) -> bool:
    """Whether the sound of the clip's own frames is louder than silence."""
    own_N: Tensor = clip.sound_N[clip.lead * SAMPLES_PER_FRAME :][: length * SAMPLES_PER_FRAME]
    return float(own_N.square().mean().sqrt()) > SILENT_RMS
