"""Validation videos of a network in training."""

from __future__ import annotations

import tempfile
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from livetalk_core.media.video import VideoWriter
from livetalk_core.models.enlarger import double
from livetalk_core.parallel.train import is_first
from livetalk_core.stream.flow import seeded_noise
from livetalk_core.stream.session import Session, to_uint8
from livetalk_core.train.enlarging import EnlargedFilm
from livetalk_core.train.films import Film
from livetalk_core.train.learner import Learner
from livetalk_core.train.net import NetDenoiser
from livetalk_core.train.sample import Sample, to_signed
from livetalk_core.types import StreamSettings, VideoVAE

SHOWN_FRAMES = 33
"""Frames of the film in a VAE's validation video."""


def show_talk(learner: Learner, vae: VideoVAE, sample: Sample, chunks: int, settings: StreamSettings, path: Path) -> None:
    """Write a stream made from a sample's sound and reference, with EMA weights if there are any. Every process calls it; one writes."""
    noise = seeded_noise(sample.plan.latent_shape, settings.seed, sample.latents_KCTHW.device)
    frames, sound = [], []
    with averaged(learner), torch.compiler.set_stance("force_eager"):
        session = Session(sample.plan, NetDenoiser(learner.net), vae, sample.reference, settings, noise)
        for index in range(min(chunks, sample.chunks)):
            for chunk in session.step(sample.window(index)):
                frames.append(chunk.frames_THWC)
                sound.append(chunk.samples)
    if is_first():
        write_film(path, torch.cat(frames), torch.cat(sound))


@torch.no_grad()
def show_reconstruction(learner: Learner, film: Film, device: torch.device, path: Path) -> None:
    """Write the start of a film beside the VAE's reconstruction of it."""
    video_1CTHW = to_signed(film.read("frames")[:SHOWN_FRAMES])[None].to(device)
    with averaged(learner):
        again_1CTHW = learner.net(video_1CTHW, 0.0).clamp(-1, 1)
    if is_first():
        write_film(path, to_uint8(torch.cat([video_1CTHW, again_1CTHW], dim=-1)[0]).cpu(), None)


@torch.no_grad()
def show_enlarged(learner: Learner, film: EnlargedFilm, device: torch.device, folder: Path, step: int) -> None:
    """Write a film's chunk, doubled without a network, enlarged, and true, side by side."""
    small_TCHW, large_TCHW, picture_CHW = (tensor.to(device) for tensor in film.whole())
    with averaged(learner):
        made_TCHW = torch.cat([learner.net(frame[None], picture_CHW[None]).frames_BCHW for frame in small_TCHW])
    if is_first():
        beside = torch.cat([double(small_TCHW), made_TCHW.float().clamp(-1, 1), large_TCHW], dim=-1)
        write_film(folder / f"step-{step:08d}.mp4", to_uint8(beside.transpose(0, 1)).cpu(), None)


@contextmanager
def averaged(learner: Learner) -> Iterator[nn.Module]:
    """Inside this context the network has its EMA weights, if it keeps any."""
    if learner.ema is not None:
        learner.ema.swap()
    try:
        yield learner.net
    finally:
        if learner.ema is not None:
            learner.ema.swap()


def write_film(path: Path, frames_THWC: Tensor, sound_N: Tensor | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = frames_THWC.shape[1:3]
    with tempfile.TemporaryDirectory() as folder:
        audio = None
        if sound_N is not None:
            audio = Path(folder) / "sound.wav"
            write_wav(audio, sound_N)
        with VideoWriter(path, width=width, height=height, audio=audio, overwrite=True) as writer:
            writer.write(frames_THWC)


def write_wav(path: Path, sound_N: Tensor) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes((sound_N.cpu().clamp(-1, 1) * 32767).round().to(torch.int16).numpy().tobytes())
