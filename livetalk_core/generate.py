"""The main job: picture and speech in, talking video out, chunk by chunk in constant memory."""

from __future__ import annotations

import tempfile
import wave
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from livetalk_core.engine.engine import Engine
from livetalk_core.job import Inputs, Job, check_inputs, crop_of, load_masks, plan_for, read_speakers, side_by_side, with_silent
from livetalk_core.media.video import VideoWriter
from livetalk_core.plan import StreamPlan
from livetalk_core.pool.pool import Pool
from livetalk_core.presets import Preset
from livetalk_core.resume import Left, Likeness, Trail, checksum, find_left, leftovers
from livetalk_core.stream.window import mix
from livetalk_core.types import AvatarStream, Chunk

__all__ = ["Inputs", "Job", "Report", "check_inputs", "generate", "side_by_side", "talk"]

OnChunk = Callable[[Chunk, int], None]
"""Called with each finished piece of a chunk and the number of frames that the video will have."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the one who asked for a video is told meanwhile."""

    chunk: OnChunk = lambda chunk, total: None
    note: Callable[[str], None] = lambda note: None
    """One sentence on what was decided or found."""
    resumed: Callable[[int], None] = lambda frames: None
    """So many frames were made before."""
    saved: Callable[[Path, int], None] = lambda path, frames: None
    """The video, or what was made of it, is there, and has so many frames."""


def generate(engine: Engine | Pool, inputs: Inputs, on_chunk: OnChunk | None = None, report: Report = Report()) -> int:  # noqa: B008
    """Make the video of a job; returns its number of frames. Stopped by Ctrl-C or an error, the file of what was made is kept."""
    job, on_chunk = inputs.job, on_chunk or report.chunk
    plan = plan_for(engine, inputs)
    if job.settings.whole_audio:
        check_room(engine.preset, inputs.duration, job.people, free_bytes(engine.device))
    pixels_CHW, note = crop_of(inputs, plan)
    if note:
        report.note(note)
    masks_KHW = load_masks(job.masks, plan.width, plan.height, job.focus) if job.masks else None
    likeness = likeness_of(inputs, engine, plan)
    left = look_for_left(job, likeness, plan, report)
    reference = engine.reference(pixels_CHW, job.prompt, masks_KHW)
    total = plan.frames_in(inputs.duration)
    with ExitStack() as stack:
        writer = stack.enter_context(open_writer(job, plan, left, report))
        trail = Trail(writer.part, likeness, plan.motion_latents, left.start.index if left else 0)
        stack.callback(trail.remove)
        later = {"start": left.start} if left else {}
        stream = engine.open(reference, job.settings, people=job.people, on_latents=trail.keep, **later)
        stack.callback(stream.close)
        for chunk in talk(stream, with_silent(read_speakers(job), job.people), total):
            writer.write(chunk.frames_THWC)
            on_chunk(chunk, total)
    return total


@contextmanager
def open_writer(job: Job, plan: StreamPlan, left: Left | None, report: Report) -> Iterator[VideoWriter]:
    """The video's file, begun with what is left of an earlier run. However this ends, what was made is saved, and told where."""
    with ExitStack() as stack:
        sound = job.audio[0] if len(job.audio) == 1 else stack.enter_context(mixed_file(job))
        how = {"audio": sound, "audio_track": job.audio_track if len(job.audio) == 1 else None, "piece_frames": plan.new_frames}
        writer = VideoWriter(job.output, width=plan.width, height=plan.height, fps=plan.fps, overwrite=job.overwrite, **how)
        try:
            if left is not None:
                writer.copy(left.part, left.num_frames)
                report.resumed(left.num_frames)
            yield writer
        except KeyboardInterrupt:
            keep(writer, left, report, partial=False)
            raise
        except BaseException:
            keep(writer, left, report, partial=True)
            raise
        keep(writer, left, report, partial=False)


def keep(writer: VideoWriter, left: Left | None, report: Report, *, partial: bool) -> None:
    """Close the video; with nothing in it, remove it."""
    if writer.saved is None and (writer.num_frames == 0 or writer.failed):
        writer.abort()
        return
    path = writer.close(partial=partial)
    if path != writer.target.path:
        report.note(f"{writer.target.path} was there already or was made meanwhile, so this video is {path}")
    if left is not None:
        left.remove()
    report.saved(path, writer.num_frames)


def look_for_left(job: Job, likeness: Likeness, plan: StreamPlan, report: Report) -> Left | None:
    """What to go on from, if that is asked for; else what lies about is told."""
    if job.resume:
        return find_left(job.output, likeness, plan.new_frames)
    for note in leftovers(job.output):
        report.note(note)
    return None


def likeness_of(inputs: Inputs, engine: Engine | Pool, plan: StreamPlan) -> Likeness:
    """Everything that makes two videos different."""
    job = inputs.job
    return {
        "size": f"{plan.width}x{plan.height}",
        **{name: str(value) for name, value in asdict(job.settings).items()},
        **{name: str(vars(job)[name]) for name in ("crop", "audio_track", "split_channels", "engine", "prompt")},
        "device": engine.device.type,
        "picture": checksum([job.picture]),
        "sound": checksum(job.audio),
        "masks": checksum(job.masks),
    }


def talk(stream: AvatarStream, sound: Iterator[Tensor], num_frames: int) -> Iterator[Chunk]:
    """Push sound as it comes, then finish: the chunks of the whole stream, in pieces."""
    for samples_PN in sound:
        yield from stream.push(samples_PN)
    yield from stream.finish(num_frames)


@contextmanager
def mixed_file(job: Job) -> Iterator[Path]:
    """A temporary WAV of several files together, 48 kHz mono, for the video's sound track."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mixed.wav"
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(48000)
            for samples_PN in read_speakers(job, 48000):
                file.writeframes((mix(samples_PN) * 32767).round().to(torch.int16).numpy().tobytes())
        yield path


def check_room(preset: Preset, duration: Fraction, people: int, free: int) -> None:
    """ValueError if hearing the whole recording at once needs more memory than is free."""
    needed = float(duration) * people * preset.audio.bytes_per_second
    if needed > free:
        raise ValueError(
            f"--whole-audio of {float(duration) / 60:.0f} minutes needs about {needed / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are "
            "free; leave it out, so that each chunk hears the last 8 s, or make the video in parts"
        )


def free_bytes(device: torch.device) -> int:
    """Memory that the audio encoder can have: the GPU's, or what the machine has free."""
    if device.type == "cuda" and torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    info = Path("/proc/meminfo")
    if info.exists():
        found = [line.split()[1] for line in info.read_text(encoding="ascii").splitlines() if line.startswith("MemAvailable")]
        return int(found[0]) * 1024
    return 1 << 62  # not known here, so nothing is refused
