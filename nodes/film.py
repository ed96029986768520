"""Writes frames to a video file, in constant memory, or into one IMAGE. Axes: T frames, H W size, C channels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import host, marks
from .latent import PICTURE, frames_to_show
from .speech import FPS, Speech, write_sound_track

if TYPE_CHECKING:
    from torch import Tensor

    from livetalk_core.media.video import Seal
    from livetalk_core.presets import Preset

IMAGE_BYTES = 12
"""Per pixel of an IMAGE: three float32."""


@dataclass(frozen=True, kw_only=True)
class Film:
    """Frames not made yet: `pieces` yields uint8 [T, H, W, 3] as they are computed."""

    width: int
    height: int
    num_frames: int
    pieces: Callable[[], Iterator[Tensor]]
    speech: Speech | None
    seal: Seal | None = None
    """Signs the video."""


def film_of_latent(engine, latent: dict, speech: Speech | None) -> Film:
    """Frames of latents [1, C, t, h, w] in the VAE's own scale. A stream's begin with the picture's latent, which is not shown."""
    import torch

    samples, channels, stride = latent["samples"], engine.preset.vae.z_dim, engine.preset.vae.spatial_stride
    if samples.ndim != 5 or samples.shape[0] != 1 or samples.shape[1] != channels:
        raise ValueError(
            f"latent of shape {list(samples.shape)} must be [1, {channels}, t, h, w]: the engine's model has {channels} channels; "
            "connect the engine that made it"
        )
    height, width = (side * stride for side in samples.shape[3:])
    picture_CHW = enlarging_picture(latent, engine.preset, height, width)
    plan = engine.plan(width, height) if picture_CHW is None else engine.plan(*reversed(picture_CHW.shape[1:]))
    total = plan.temporal_stride * (samples.shape[2] - 1) + 1
    skip, keep = frames_to_show(latent, total, None if speech is None else speech.num_frames)
    raw_CTHW, mark = samples[0].as_subclass(torch.Tensor), marks.marking().watermark()
    shown = lambda: window_of(decode_pieces(engine, raw_CTHW, picture_CHW), skip, keep)  # noqa: E731
    pieces = lambda: with_progress(shown() if mark is None else map(mark, shown()), keep)  # noqa: E731
    seal = marks.seal_of(engine.preset.name, None, speech, mark)
    return Film(width=plan.width, height=plan.height, num_frames=keep, pieces=pieces, speech=speech, seal=seal)


def enlarging_picture(latent: dict, preset: Preset, height: int, width: int) -> Tensor | None:
    """The picture of a stream whose frames are enlarged, if the latent still has it and the size that it had."""
    picture_CHW = latent.get(PICTURE)
    fits = picture_CHW is not None and preset.enlarged and tuple(picture_CHW.shape[1:]) == (2 * height, 2 * width)
    return picture_CHW if fits else None


def decode_pieces(engine, raw_CTHW: Tensor, picture_CHW: Tensor | None) -> Iterator[Tensor]:
    import torch

    for piece_CTHW in engine.decode(engine.preset.vae.scale(raw_CTHW), picture_CHW):
        host.check_interrupt()
        yield ((piece_CTHW.float() + 1) * 127.5).clamp(0, 255).to(torch.uint8).permute(1, 2, 3, 0).cpu()


def window_of(pieces: Iterator[Tensor], skip: int, keep: int) -> Iterator[Tensor]:
    """Frames `skip` to `skip + keep` of pieces [T, ...]."""
    for piece in pieces:
        part = piece[skip : skip + keep]
        skip = max(0, skip - len(piece))
        keep -= len(part)
        if len(part):
            yield part


def with_progress(pieces: Iterator[Tensor], total: int) -> Iterator[Tensor]:
    """The same pieces [T, H, W, 3]; after each, the running node shows the frames done and the last picture."""
    done = 0
    for piece_THWC in pieces:
        done += len(piece_THWC)
        host.show_progress(done, total, piece_THWC[-1])
        yield piece_THWC


def write_video(film: Film) -> host.TempFile:
    """The film as an MP4 file, with its sound. An error or a stop leaves no file."""
    from livetalk_core.media.video import VideoWriter

    path, track = host.temp_path(".mp4"), host.temp_path(".wav")
    try:
        sound = None if film.speech is None else write_sound_track(film.speech, track)
        size = {"width": film.width, "height": film.height}
        with VideoWriter(path, fps=FPS, audio=sound, seal=film.seal, **size) as writer, closing(film.pieces()) as pieces:
            for piece_THWC in pieces:
                writer.write(piece_THWC)
        marks.tell(writer)
    finally:
        track.unlink(missing_ok=True)
    file = host.TempFile(path)
    file.seal = film.seal
    return file


def images_of(film: Film) -> Tensor:
    """All frames as an IMAGE [T, H, W, 3] float32 in [0, 1]. ValueError if the memory for it is not free."""
    import torch

    check_room(film)
    images_THWC = torch.empty(film.num_frames, film.height, film.width, 3)
    at = 0
    for piece_THWC in film.pieces():
        images_THWC[at : at + len(piece_THWC)] = piece_THWC / 255
        at += len(piece_THWC)
    assert at == film.num_frames, f"{at} frames came, {film.num_frames} were due"
    return images_THWC


def check_room(film: Film) -> None:
    needed = film.num_frames * film.width * film.height * IMAGE_BYTES
    free = host.free_memory()
    if needed > free:
        raise ValueError(
            f"{film.num_frames} frames as images need {needed / 1e9:.0f} GB, but {free / 1e9:.0f} GB are free; set output to video"
        )
