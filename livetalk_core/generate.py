"""The main job: picture and speech in, talking video out, chunk by chunk in constant memory."""

from __future__ import annotations

import tempfile
import wave
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from livetalk_core.engine.engine import Engine
from livetalk_core.media.audio import AudioInfo, probe_audio, read_audio
from livetalk_core.media.image import Picture, crop_cover, load_picture
from livetalk_core.media.video import VideoWriter, check_target
from livetalk_core.plan import StreamPlan, check_multiple
from livetalk_core.pool.pool import Pool, WorkerFailure
from livetalk_core.presets import PROMPT
from livetalk_core.sizes import BUCKETS, choose_size, parse_size
from livetalk_core.stream.window import mix
from livetalk_core.types import AvatarStream, Chunk, StreamSettings

OnChunk = Callable[[Chunk, int], None]
"""Called with each finished piece of a chunk and the number of frames that the video will have."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One video to make. `audio` has a file per speaker; `masks` then a picture per speaker, white where they are."""

    picture: Path
    audio: tuple[Path, ...]
    output: Path
    prompt: str = PROMPT
    size: str = "auto"
    """WIDTHxHEIGHT, a bucket's name, or auto: the model's own bucket, by the picture's shape."""
    masks: tuple[Path, ...] = ()
    overwrite: bool = False
    settings: StreamSettings = StreamSettings()


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """A job's files, looked through and found good."""

    job: Job
    picture: Picture
    audio: tuple[AudioInfo, ...]

    @property
    def duration(self) -> Fraction:
        return max(info.duration for info in self.audio)


def check_inputs(job: Job) -> Inputs:
    """Read all of a job's inputs before any model is loaded. ValueError or FileNotFoundError for what cannot work."""
    check_target(job.output, job.overwrite)
    if job.size not in ("auto", *BUCKETS):
        for name, value in zip(("width", "height"), parse_size(job.size), strict=True):
            check_multiple(name, value, 16)
    if len(job.masks) != (0 if len(job.audio) == 1 else len(job.audio)):
        raise ValueError(f"{len(job.audio)} sound files and {len(job.masks)} masks do not fit; two speakers need one mask each")
    picture = load_picture(job.picture)
    for path in job.masks:
        if (size := load_picture(path).image.size) != picture.image.size:
            raise ValueError(f"mask {path} is {size} pixels, the picture {picture.image.size}; make the mask over the picture")
    return Inputs(job=job, picture=picture, audio=tuple(probe_audio(path) for path in job.audio))


def generate(engine: Engine | Pool, inputs: Inputs, on_chunk: OnChunk = lambda chunk, total: None) -> int:
    """Make the video of a job; returns its number of frames. Stopped by Ctrl-C or a worker's end, the file of what was made is kept."""
    job = inputs.job
    plan = plan_for(engine, inputs)
    pixels_CHW = crop_cover(inputs.picture.image, plan.width, plan.height)
    masks_KHW = load_masks(job.masks, plan.width, plan.height) if job.masks else None
    reference = engine.reference(pixels_CHW, job.prompt, masks_KHW)
    stream = engine.open(reference, job.settings, people=len(job.audio))
    total = plan.frames_in(inputs.duration)
    with ExitStack() as stack:
        stack.callback(stream.close)
        sound = job.audio[0] if len(job.audio) == 1 else stack.enter_context(mixed_file(job.audio))
        size = {"width": plan.width, "height": plan.height}
        writer = VideoWriter(job.output, fps=plan.fps, audio=sound, overwrite=job.overwrite, **size)
        stack.enter_context(writer)
        stack.enter_context(kept_on_failure(writer))
        for chunk in talk(stream, read_speakers(job.audio), total):
            writer.write(chunk.frames_THWC)
            on_chunk(chunk, total)
    return total


@contextmanager
def kept_on_failure(writer: VideoWriter) -> Iterator[None]:
    """What was written before a worker failed stays, as a whole file."""
    try:
        yield
    except WorkerFailure:
        if writer.num_frames:
            writer.close()
        raise


def talk(stream: AvatarStream, sound: Iterator[Tensor], num_frames: int) -> Iterator[Chunk]:
    """Push sound as it comes, then finish: the chunks of the whole stream, in pieces."""
    for samples_PN in sound:
        yield from stream.push(samples_PN)
    yield from stream.finish(num_frames)


def plan_for(engine: Engine | Pool, inputs: Inputs) -> StreamPlan:
    """The job's size as a plan: its own, or the one of a bucket nearest to the picture's shape."""
    size = inputs.job.size
    if size == "auto" or size in BUCKETS:
        bucket = engine.preset.bucket if size == "auto" else size
        return engine.plan(*choose_size(*inputs.picture.image.size, bucket))
    return engine.plan(*parse_size(size))


def read_speakers(paths: tuple[Path, ...], rate: int = 16000) -> Iterator[Tensor]:
    """Blocks [people, N] of the files side by side, silence after the shorter one's end."""
    return side_by_side([read_audio(path, rate) for path in paths], rate)


def side_by_side(sources: Sequence[Iterator[np.ndarray]], rate: int) -> Iterator[Tensor]:
    """Blocks [people, N] of a second of mono sounds at `rate`, each given in blocks of any length."""
    for blocks in zip_longest(*(even_blocks(source, rate) for source in sources), fillvalue=np.zeros(0, np.float32)):
        length = max(len(block) for block in blocks)
        yield torch.from_numpy(np.stack([np.pad(block, (0, length - len(block))) for block in blocks]))


def even_blocks(source: Iterator[np.ndarray], rate: int) -> Iterator[np.ndarray]:
    """The same sound in blocks of one second; the last is shorter."""
    waiting = np.zeros(0, np.float32)
    for block in source:
        waiting = np.concatenate([waiting, block])
        while len(waiting) >= rate:
            yield waiting[:rate]
            waiting = waiting[rate:]
    if len(waiting):
        yield waiting


@contextmanager
def mixed_file(paths: tuple[Path, ...]) -> Iterator[Path]:
    """A temporary WAV of several files together, 48 kHz mono, for the video's sound track."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mixed.wav"
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(48000)
            for samples_PN in read_speakers(paths, 48000):
                file.writeframes((mix(samples_PN) * 32767).round().to(torch.int16).numpy().tobytes())
        yield path


def load_masks(paths: tuple[Path, ...], width: int, height: int) -> Tensor:
    """[people + 1, H, W]: 1 where each mask picture is white, last the rest. ValueError for an empty mask."""
    people = []
    for path in paths:
        gray = crop_cover(load_picture(path).image.convert("L").convert("RGB"), width, height).mean(0)
        people.append((gray > 0).float())
        if not people[-1].any():
            raise ValueError(f"mask {path} is black in the cropped picture; paint the speaker white")
    background = 1 - torch.stack(people).amax(0)
    return torch.stack([*people, background])
