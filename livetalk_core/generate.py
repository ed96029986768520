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
from livetalk_core.job import (
    Inputs,
    Job,
    check_inputs,
    crop_of,
    cropped_to,
    face_box,
    load_masks,
    plan_for,
    read_speakers,
    side_by_side,
    with_silent,
)
from livetalk_core.media.background import BackgroundWriter
from livetalk_core.media.faces import Box
from livetalk_core.media.paste import PasteBack
from livetalk_core.media.video import Seal, VideoWriter
from livetalk_core.plan import StreamPlan
from livetalk_core.pool.pool import Pool
from livetalk_core.presets import Preset
from livetalk_core.provenance.manifest import Origin, hash_of
from livetalk_core.resume import Fingerprint, Leftover, ResumeFile, checksum, find_leftover, leftover_notes
from livetalk_core.stream.window import mix
from livetalk_core.types import AvatarStream, Chunk

__all__ = ["Inputs", "Job", "Report", "check_inputs", "generate", "side_by_side", "talk"]

OnChunk = Callable[[Chunk, int], None]
"""Called with each finished piece of a chunk and the number of frames that the video will have."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Callbacks that report progress to the caller."""

    chunk: OnChunk = lambda chunk, total: None
    note: Callable[[str], None] = lambda note: None
    """One sentence for the user."""
    resumed: Callable[[int], None] = lambda frames: None
    """Number of frames that an earlier run has made."""
    saved: Callable[[Path, int], None] = lambda path, frames: None
    """Path of the saved video, complete or partial, and its number of frames."""


def generate(engine: Engine | Pool, inputs: Inputs, on_chunk: OnChunk | None = None, report: Report = Report()) -> int:  # noqa: B008
    """Make a job's video; returns its number of frames. After Ctrl-C or an error, the frames made so far are kept as a file."""
    job, on_chunk, whole = inputs.job, on_chunk or report.chunk, inputs.picture.image
    inputs, box = with_face(engine, inputs, report)
    plan = plan_for(engine, inputs)
    if job.settings.whole_audio:
        check_room(engine.preset, inputs.duration, job.people, free_bytes(engine.device))
    pixels_CHW, note = crop_of(inputs, plan)
    if note:
        report.note(note)
    masks_KHW = load_masks(job.masks, plan.width, plan.height, job.focus) if job.masks else None
    fingerprint = fingerprint_of(inputs, engine, plan)
    left = look_for_leftover(job, fingerprint, plan, report)
    reference = engine.reference(pixels_CHW, job.prompt, masks_KHW)
    total = plan.frames_in(inputs.duration)
    mark = inputs.marking.watermark(left.mark_id if left else None)
    mark_id = None if mark is None else mark.mark_id
    with ExitStack() as stack:
        paste = PasteBack(whole, box, pixels_CHW) if job.paste_back else None
        size_WH = paste.size if paste else (plan.width, plan.height)
        seal = inputs.marking.seal(origin_of(job, engine, mark_id), job.output.name)
        writer = stack.enter_context(open_writer(job, plan, left, report, size_WH, seal))
        resume_file = ResumeFile(writer.part, fingerprint, plan.motion_latents, left.start.index if left else 0, mark_id)
        stack.callback(resume_file.remove)
        later = {"start": left.start} if left else {}
        stream = engine.open(reference, job.settings, people=job.people, on_latents=resume_file.keep, **later)
        stack.callback(stream.close)
        encoder = stack.enter_context(BackgroundWriter(writer, change=mark))
        for chunk in talk(stream, with_silent(read_speakers(job), job.people), total):
            encoder.write(paste.frames(chunk.frames_THWC) if paste else chunk.frames_THWC)
            on_chunk(chunk, total)
    return total


def with_face(engine: Engine | Pool, inputs: Inputs, report: Report) -> tuple[Inputs, Box | None]:
    """The inputs with their picture cropped to its face, and where that is; or as they are."""
    box = face_box(inputs, engine)
    if box is None:
        return inputs, None
    left, top, right, bottom = box
    what = (
        "the part around it talks" if inputs.job.paste_back else "the video shows the part around it; --crop center shows the whole picture"
    )
    report.note(f"picture: a face was found, and {what}: {right - left}x{bottom - top} pixels at {left},{top}")
    return cropped_to(inputs, box), box


@contextmanager
def open_writer(
    job: Job, plan: StreamPlan, left: Leftover | None, report: Report, size_WH: tuple[int, int], seal: Seal | None = None
) -> Iterator[VideoWriter]:
    """The video's file, beginning with the frames of an earlier run. At any exit, the frames made are saved and the path reported."""
    with ExitStack() as stack:
        sound = job.audio[0] if len(job.audio) == 1 else stack.enter_context(mixed_file(job))
        how = {"audio": sound, "audio_track": job.audio_track if len(job.audio) == 1 else None, "piece_frames": plan.new_frames}
        how |= {"width": size_WH[0], "height": size_WH[1], "overwrite": job.overwrite, "seal": seal}
        writer = VideoWriter(job.output, fps=plan.fps, **how)
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


def keep(writer: VideoWriter, left: Leftover | None, report: Report, *, partial: bool) -> None:
    """Close the video, or remove it if it is empty."""
    if writer.saved is None and (writer.num_frames == 0 or writer.failed):
        writer.abort()
        return
    path = writer.close(partial=partial)
    if path != writer.target.path:
        report.note(f"{writer.target.path} was there already or was made meanwhile, so this video is {path}")
    if writer.unsealed:
        report.note(f"{path} has no Content Credentials: {writer.unsealed}")
    if left is not None:
        left.remove()
    report.saved(path, writer.num_frames)


def look_for_leftover(job: Job, fingerprint: Fingerprint, plan: StreamPlan, report: Report) -> Leftover | None:
    """With --resume, the earlier run to resume; otherwise only report what earlier runs have left."""
    if job.resume:
        return find_leftover(job.output, fingerprint, plan.new_frames)
    for note in leftover_notes(job.output):
        report.note(note)
    return None


def origin_of(job: Job, engine: Engine | Pool, mark_id: int | None) -> Origin:
    """What the video's Content Credentials say."""
    sound = tuple(hash_of(path) for path in job.audio)
    return Origin(
        model=engine.preset.name,
        picture=hash_of(job.picture),
        sound=sound,
        prompt=job.prompt,
        mark_id=mark_id,
        composite=job.paste_back,
    )


def fingerprint_of(inputs: Inputs, engine: Engine | Pool, plan: StreamPlan) -> Fingerprint:
    """Everything that affects the video, for comparing two runs."""
    job = inputs.job
    return {
        "size": f"{plan.width}x{plan.height}",
        **{name: str(value) for name, value in asdict(job.settings).items()},
        **{name: str(vars(job)[name]) for name in ("crop", "paste_back", "audio_track", "split_channels", "engine", "prompt")},
        "device": engine.device.type,
        "picture": checksum([job.picture]),
        "sound": checksum(job.audio),
        "masks": checksum(job.masks),
        **({"watermark": "on"} if job.marks.watermark else {}),
    }


def talk(stream: AvatarStream, sound: Iterator[Tensor], num_frames: int) -> Iterator[Chunk]:
    """Push all sound, then finish; yields the pieces of the whole stream."""
    for samples_PN in sound:
        yield from stream.push(samples_PN)
    yield from stream.finish(num_frames)


@contextmanager
def mixed_file(job: Job) -> Iterator[Path]:
    """A temporary WAV that mixes several files, 48 kHz mono, for the video's sound track."""
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
    """ValueError if encoding the whole recording at once needs more memory than is free."""
    needed = float(duration) * people * preset.audio.bytes_per_second
    if needed > free:
        raise ValueError(
            f"--whole-audio of {float(duration) / 60:.0f} minutes needs about {needed / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are "
            "free; leave it out, so that each chunk hears the last 8 s, or make the video in parts"
        )


def free_bytes(device: torch.device) -> int:
    """Memory available to the audio encoder: the GPU's, or the machine's."""
    if device.type == "cuda" and torch.cuda.is_available():
        return torch.cuda.mem_get_info(device)[0]
    info = Path("/proc/meminfo")
    if info.exists():
        found = [line.split()[1] for line in info.read_text(encoding="ascii").splitlines() if line.startswith("MemAvailable")]
        return int(found[0]) * 1024
    return 1 << 62  # unknown, so nothing is refused
