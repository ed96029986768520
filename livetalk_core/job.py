"""A video's inputs: files and settings, checked before any work begins."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from livetalk_core.media.audio import AudioInfo, probe_audio, read_audio, read_sides
from livetalk_core.media.faces import Box, can_find, face_part
from livetalk_core.media.image import Focus, Picture, crop_cover, crop_note, load_picture, parse_focus
from livetalk_core.media.source import check_file, plain_file
from livetalk_core.media.target import check_target
from livetalk_core.plan import StreamPlan, check_multiple
from livetalk_core.presets import PROMPT
from livetalk_core.provenance.marking import Marking, MarkOptions, open_marking
from livetalk_core.sizes import BUCKETS, choose_size, parse_size
from livetalk_core.types import AvatarEngine, StreamSettings

MOST_SPEAKERS = 2
FACE_CROPS = ("auto", "face")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One video to make. `audio` has a file per speaker; `masks` then a picture per speaker, white where they are."""

    picture: Path
    audio: tuple[Path, ...]
    output: Path
    audio_track: int | None = None
    """Audio track of the first file, from 1; None: FFmpeg's choice."""
    split_channels: bool = False
    """Whether the file's two channels are two speakers."""
    prompt: str = PROMPT
    size: str = "auto"
    """WIDTHxHEIGHT, a bucket's name, or auto: the model's own bucket, by the picture's shape."""
    any_size: bool = False
    """Allow sizes that the model was not trained on."""
    crop: str = "center"
    """Part of the picture to keep if its shape differs: center, top, or X,Y (the center of the crop as fractions); face: a square around
    the face; auto: face where it would be small, else center."""
    paste_back: bool = False
    """Put the talking face back into the whole picture."""
    masks: tuple[Path, ...] = ()
    overwrite: bool = False
    resume: bool = False
    """Resume from the frames of an interrupted run."""
    engine: str = ""
    """Text that describes the engine options that change the result; a run resumes only with the same text."""
    settings: StreamSettings = StreamSettings()
    marks: MarkOptions = MarkOptions()
    """Content Credentials and watermark."""

    @property
    def voices(self) -> int:
        return 2 if self.split_channels else len(self.audio)

    @property
    def people(self) -> int:
        """Speakers as the model sees them. One mask makes a second, silent speaker of the rest of the picture."""
        return 2 if self.masks else self.voices

    @property
    def focus(self) -> Focus:
        return parse_focus("center" if self.crop in FACE_CROPS else self.crop)

    @property
    def tracks(self) -> tuple[int | None, ...]:
        return (self.audio_track, *[None] * (len(self.audio) - 1))


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """A job's files, checked."""

    job: Job
    picture: Picture
    audio: tuple[AudioInfo, ...]
    marking: Marking
    kept: tempfile.TemporaryDirectory | None = field(default=None, repr=False)
    """Folder with copies of pipes; it is removed with this object."""

    @property
    def duration(self) -> Fraction:
        return max(info.duration for info in self.audio)

    @property
    def notes(self) -> tuple[str, ...]:
        """One sentence for each thing that was corrected or assumed in the files."""
        return (
            *(f"picture: {note}" for note in self.picture.notes),
            *(f"sound {info.path.name}: {note}" for info in self.audio for note in info.notes),
        )


def check_inputs(job: Job) -> Inputs:
    """Read and check all inputs of a job before any model is loaded. ValueError or FileNotFoundError for bad input."""
    check_target(job.output, job.overwrite)
    if job.size not in ("auto", *BUCKETS):
        for name, value in zip(("width", "height"), parse_size(job.size), strict=True):
            check_multiple(name, value, 16)
    check_crop(job)
    check_speakers(job)
    marking = open_marking(job.marks)
    job, kept = with_plain_files(job)
    picture = load_first(job.picture)
    for path in job.masks:
        if (size := load_picture(path).image.size) != picture.image.size:
            raise ValueError(f"mask {path} is {size} pixels, the picture {picture.image.size}; make the mask over the picture")
    audio = tuple(probe_audio(path, track) for path, track in zip(job.audio, job.tracks, strict=True))
    if job.split_channels:
        next(read_sides(job.audio[0], track=job.audio_track))
    return Inputs(job=job, picture=picture, audio=audio, marking=marking, kept=kept)


def load_first(path: Path) -> Picture:
    """The picture, which is named before the sound. ValueError for what is none; it says so if it is a sound or video file."""
    try:
        return load_picture(path)
    except ValueError as error:
        try:
            probe_audio(path)
        except (ValueError, OSError):
            raise error from None
        raise ValueError(f"{path}: is a sound or video file, not a picture; name the picture first, then the sound") from error


def check_crop(job: Job) -> None:
    """ValueError for a bad crop, or one that does not go with the masks or with pasting back."""
    if job.crop not in FACE_CROPS:
        parse_focus(job.crop)
    if job.masks and (job.crop == "face" or job.paste_back):
        raise ValueError("--crop face and --paste-back are for one speaker without masks; leave the masks out, or choose another crop")
    if job.paste_back and job.crop not in FACE_CROPS:
        raise ValueError(f"--paste-back needs the face to be found, and --crop {job.crop} names another place; leave one of the two out")


def check_speakers(job: Job) -> None:
    """ValueError for too many speakers, or masks that do not match them."""
    if job.split_channels and len(job.audio) != 1:
        raise ValueError(f"--split-channels takes two speakers from one file, and {len(job.audio)} are given; leave one of the two out")
    if max(job.voices, len(job.masks)) > MOST_SPEAKERS:
        raise ValueError(f"{max(job.voices, len(job.masks))} speakers are too many; the model knows {MOST_SPEAKERS} in one picture")
    if job.voices == 2 and len(job.masks) != 2:
        raise ValueError(f"{job.voices} voices and {len(job.masks)} masks do not fit; two speakers need one mask each")
    if job.voices == 1 and len(job.masks) == 2:
        raise ValueError("1 voice and 2 masks do not fit; one speaker needs one mask, or none, and two need a second sound file")


def with_plain_files(job: Job) -> tuple[Job, tempfile.TemporaryDirectory | None]:
    """The job with pipes replaced by copies, since a pipe can be read only once."""
    paths = (job.picture, *job.audio, *job.masks)
    if not any(path.exists() and not path.is_file() and not path.is_dir() for path in paths):
        return job, None
    kept = tempfile.TemporaryDirectory(prefix="livetalk-")
    plain = [plain_file(path, Path(kept.name)) for path in paths]
    count = len(job.audio)
    return replace(job, picture=plain[0], audio=tuple(plain[1 : 1 + count]), masks=tuple(plain[1 + count :])), kept


def plan_for(engine: AvatarEngine, inputs: Inputs) -> StreamPlan:
    """The plan for the job's size, or for the size of its bucket nearest to the picture's shape. ValueError for an impossible size."""
    size = inputs.job.size
    if size == "auto" or size in BUCKETS:
        size_WH = choose_size(*inputs.picture.image.size, engine.preset.bucket if size == "auto" else size)
    else:
        size_WH = parse_size(size)
    if not inputs.job.any_size:
        engine.preset.check_size(*size_WH, "or insist with --any-size")
    return engine.plan(*size_WH)


def face_box(inputs: Inputs, engine: AvatarEngine) -> Box | None:
    """The square around the face that the video is to show; None for the picture as the crop says.

    ValueError where the face is asked for and not found; ImportError where it is asked for and the detector is missing.
    """
    job, image = inputs.job, inputs.picture.image
    asked = job.crop == "face" or job.paste_back
    if job.masks or not (asked or (job.crop == "auto" and can_find())):
        return None
    plan, preset = plan_for(engine, inputs), engine.preset
    shape_WH = (1, 1) if job.size == "auto" or job.size in BUCKETS else parse_size(job.size)
    box = face_part(
        image, (plan.width, plan.height), shape_WH, preset.face_share, None if asked else preset.smallest_face(plan.width, plan.height)
    )
    if asked and box is None:
        raise ValueError(f"{job.picture}: no face was found; crop the picture to the face, and leave out --crop face and --paste-back")
    return box


def cropped_to(inputs: Inputs, box: Box) -> Inputs:
    """The inputs with the part of their picture around the face in its place."""
    picture = replace(inputs.picture, image=inputs.picture.image.crop(box))
    return replace(inputs, picture=picture, job=replace(inputs.job, crop="face"))


def crop_of(inputs: Inputs, plan: StreamPlan) -> tuple[Tensor, str | None]:
    """The cropped picture [3, H, W] in [-1, 1], and a note if much of it is cut off."""
    image, focus = inputs.picture.image, inputs.job.focus
    note = crop_note(*image.size, plan.width, plan.height, focus)
    ways = "" if note is None else "; --crop top or X,Y keeps another part, and --size another shape"
    return crop_cover(image, plan.width, plan.height, focus=focus), None if note is None else f"picture: {note}{ways}"


def load_masks(paths: tuple[Path, ...], width: int, height: int, focus: Focus) -> Tensor:
    """Speaker masks [3, H, W] from one or two pictures, white where a speaker is. ValueError for a black one."""
    people = []
    for path in paths:
        gray = crop_cover(load_picture(path).image.convert("L").convert("RGB"), width, height, focus=focus).mean(0)
        people.append((gray > 0).float())
        if not people[-1].any():
            raise ValueError(f"mask {check_file(path, 'mask')} is black in the cropped picture; paint the speaker white")
    return speaker_masks(people)


def speaker_masks(people: Sequence[Tensor]) -> Tensor:
    """One or two speakers' masks [H, W] -> [3, H, W], background last; with one, the rest is a second, silent speaker."""
    if len(people) == 1:
        return torch.stack([people[0], 1 - people[0], torch.zeros_like(people[0])])
    return torch.stack([*people, 1 - torch.stack(list(people)).amax(0)])


def read_speakers(job: Job, rate: int = 16000) -> Iterator[Tensor]:
    """The job's sound in blocks [voices, N] of a second; the shorter one is padded with silence."""
    if job.split_channels:
        return (torch.from_numpy(block_2N) for block_2N in even_blocks(read_sides(job.audio[0], rate, job.audio_track), rate))
    return side_by_side([read_audio(path, rate, track) for path, track in zip(job.audio, job.tracks, strict=True)], rate)


def with_silent(blocks: Iterator[Tensor], people: int) -> Iterator[Tensor]:
    """Pad blocks of fewer voices to [people, N] with silence."""
    return (F.pad(block_PN, (0, 0, 0, people - len(block_PN))) for block_PN in blocks)


def side_by_side(sources: Sequence[Iterator[np.ndarray]], rate: int) -> Iterator[Tensor]:
    """Combine mono sounds at `rate`, given in blocks of any length, into blocks [people, N] of a second."""
    for blocks in zip_longest(*(even_blocks(source, rate) for source in sources), fillvalue=np.zeros(0, np.float32)):
        length = max(len(block) for block in blocks)
        yield torch.from_numpy(np.stack([np.pad(block, (0, length - len(block))) for block in blocks]))


def even_blocks(source: Iterator[np.ndarray], rate: int) -> Iterator[np.ndarray]:
    """The same sound, [N] or [voices, N], in blocks of one second; the last may be shorter."""
    waiting = None
    for block in source:
        waiting = block if waiting is None else np.concatenate([waiting, block], axis=-1)
        while waiting.shape[-1] >= rate:
            yield waiting[..., :rate]
            waiting = waiting[..., rate:]
    if waiting is not None and waiting.shape[-1]:
        yield waiting
