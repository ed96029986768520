"""The one place that assembles: models built or loaded, a reference prepared, a stream opened."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from livetalk_core.checkpoints import DOWNLOADS, ModelFiles, find_files
from livetalk_core.denoiser import DiTDenoiser
from livetalk_core.models import weights
from livetalk_core.models.attention import select_kernel
from livetalk_core.models.audio import AudioEncoder, audio_config_from, map_audio_keys, normalize_loudness
from livetalk_core.models.dit import AudioDiT
from livetalk_core.models.image import ImageEncoder, image_config_from, map_image_keys
from livetalk_core.models.text import TextEncoder, Tokenizer, byte_tokenizer, load_tokenizer, map_text_keys, text_config_from
from livetalk_core.models.vae import CausalVAE, fold_upsampling
from livetalk_core.parallel.context import parallelize_dit
from livetalk_core.parallel.group import SequenceGroup, init_group
from livetalk_core.parallel.vae import parallelize_vae
from livetalk_core.plan import StreamPlan
from livetalk_core.presets import BY_NAME, PROMPT, Preset
from livetalk_core.stream.flow import flow_times, seeded_noise
from livetalk_core.stream.session import DECODE_GROUPS, OnLatents, OnStep, Session
from livetalk_core.stream.window import LiveWindows, WholeWindows
from livetalk_core.types import AudioWindow, Chunk, Reference, StreamSettings

ENCODE_GROUPS = (1, 2)
"""Latent frames of the condition encoded at a time, to bound memory."""


@dataclass(frozen=True, kw_only=True)
class Models:
    """Every network of one engine. Text and picture encoders are made when asked for, since a stream needs them once."""

    dit: AudioDiT
    vae: CausalVAE
    audio: AudioEncoder
    text: Callable[[], TextEncoder]
    image: Callable[[], ImageEncoder]
    tokenize: Tokenizer


class Engine:
    """Loaded models, ready to talk. Streams of one engine may run in several threads; they take turns by chunk."""

    def __init__(self, preset: Preset, models: Models, device: torch.device, dtype: torch.dtype):
        self.preset, self.models, self.device, self.dtype = preset, models, device, dtype
        self.turn = threading.Lock()
        self.prompts: dict[str, Tensor] = {}

    def plan(self, width: int, height: int) -> StreamPlan:
        """The plan of a stream of this size. ValueError for a size the models cannot make."""
        return StreamPlan(
            width=width,
            height=height,
            audio_window=self.preset.dit.audio_window,
            latent_channels=self.preset.vae.z_dim,
            temporal_stride=self.models.vae.temporal_stride,
            spatial_stride=self.models.vae.spatial_stride,
            patch_size=self.preset.dit.patch_size,
        )

    @torch.no_grad()
    def reference(
        self, pixels_CHW: Tensor, prompt: str = PROMPT, speaker_masks_KHW: Tensor | None = None, image_LD: Tensor | None = None
    ) -> Reference:
        """Picture [3, H, W] in [-1, 1], already cropped, and prompt, encoded for a stream of that size.

        `image_LD`: CLIP features [257, D] made elsewhere, instead of running the vision tower.
        """
        plan = self.plan(pixels_CHW.shape[2], pixels_CHW.shape[1])
        pixels_CHW = pixels_CHW.to(self.device, self.dtype)
        with self.turn:
            return Reference(
                text_LD=self.text_rows(prompt),
                image_LD=self.image_rows(pixels_CHW) if image_LD is None else self.checked_rows(image_LD),
                cond_CTHW=encode_condition(self.models.vae, pixels_CHW, plan),
                first_CTHW=self.models.vae.encode(pixels_CHW[:, None]),
                pixels_CHW=pixels_CHW,
                speaker_masks_KHW=None if speaker_masks_KHW is None else speaker_masks_KHW.to(self.device),
            )

    def text_rows(self, prompt: str) -> Tensor:
        """umT5 rows [L, D] of a prompt; the last sixteen prompts are kept."""
        if prompt not in self.prompts:
            ids, mask = self.models.tokenize(prompt)
            rows = self.models.text()(ids.to(self.device), mask.to(self.device)).to(self.dtype)
            self.prompts = dict([*self.prompts.items(), (prompt, rows)][-16:])
        return self.prompts[prompt]

    def image_rows(self, pixels_CHW: Tensor) -> Tensor:
        """CLIP features [257, D] of a picture [3, H, W]."""
        return self.models.image()(pixels_CHW).to(self.dtype)

    def checked_rows(self, image_LD: Tensor) -> Tensor:
        """CLIP features made elsewhere, on the engine's device; ValueError if another CLIP made them."""
        width = self.preset.dit.image_dim
        if image_LD.ndim != 2 or image_LD.shape[1] != width:
            raise ValueError(
                f"CLIP features of shape {tuple(image_LD.shape)} must be [257, {width}] for {self.preset.name}; leave them out"
            )
        return image_LD.to(self.device, self.dtype)

    @torch.no_grad()
    def decode(self, latents_CTHW: Tensor) -> Iterator[Tensor]:
        """Frames of normalized latents [C, t, h, w], no stream: pieces of [3, T, H, W] in [-1, 1], 4 t - 3 frames in all."""
        yield from self.models.vae.decode(latents_CTHW.to(self.device, self.dtype), DECODE_GROUPS)

    def unscale(self, latents_CTHW: Tensor) -> Tensor:
        """Normalized latents in the VAE's own scale, as other programs hold them, float32."""
        mean, std = self.latent_scale(latents_CTHW.device)
        return latents_CTHW.float() * std + mean

    def scale(self, latents_CTHW: Tensor) -> Tensor:
        """Latents in the VAE's own scale, normalized: the inverse of `unscale`."""
        mean, std = self.latent_scale(latents_CTHW.device)
        return (latents_CTHW.float() - mean) / std

    def latent_scale(self, device: torch.device) -> tuple[Tensor, Tensor]:
        config = self.preset.vae
        mean, std = (torch.tensor(values, device=device).view(-1, 1, 1, 1) for values in (config.mean, config.std))
        return mean, std

    def encode_audio(self, samples_N: Tensor, loudness: bool = True) -> Tensor:
        """16 kHz sound [N] -> features [T, layers, width] float32 on the engine's device."""
        samples_N = normalize_loudness(samples_N.cpu()) if loudness else samples_N
        return self.models.audio(samples_N.to(self.device))

    def open(
        self,
        reference: Reference,
        settings: StreamSettings,
        people: int = 1,
        on_step: OnStep | None = None,
        on_latents: OnLatents | None = None,
    ) -> Stream:
        """A new stream of this reference. `on_step` is called before each denoising step and may raise to stop; `on_latents` with
        each chunk's latents."""
        if people > 1 and reference.speaker_masks_KHW is None:
            raise ValueError(f"{people} speakers need speaker masks in the reference: one per person and one for the background")
        if people not in (1, 2):
            raise ValueError(f"people={people} must be 1 or 2; the model knows two speakers at most")
        plan = self.plan(reference.pixels_CHW.shape[2], reference.pixels_CHW.shape[1])
        noise = seeded_noise(plan.latent_shape, settings.seed, self.device)
        denoiser = DiTDenoiser(self.models.dit, flow_times(settings.steps, settings.shift)[:-1])
        session = Session(plan, denoiser, self.models.vae, reference, settings, noise, on_step, on_latents)
        kind = WholeWindows if settings.whole_audio else LiveWindows
        windows = kind(plan, lambda samples_N: self.encode_audio(samples_N, settings.loudness), people)
        return Stream(session, windows, self.turn)

    def close(self) -> None:
        """Let go of nothing but memory: the models go with the engine."""
        self.prompts = {}


class Stream:
    """One talking picture in this process."""

    def __init__(self, session: Session, windows: LiveWindows | WholeWindows, turn: threading.Lock):
        self.session, self.windows, self.turn = session, windows, turn

    def push(self, samples_PN: Tensor) -> Iterator[Chunk]:
        """Add 16 kHz sound, [people, N] or [N] float32; yields the chunks it completes."""
        yield from self.run(self.windows.push(samples_PN))

    def finish(self, num_frames: int | None = None) -> Iterator[Chunk]:
        """No more sound: yields what is left, to `num_frames` in all (default: round(25 x seconds pushed))."""
        yield from self.run(self.windows.finish(num_frames))

    def run(self, windows: Iterator[AudioWindow]) -> Iterator[Chunk]:
        while True:
            with self.turn:
                start = time.perf_counter()
                window = next(windows, None)
                if window is None:
                    return
                seconds = {"audio": time.perf_counter() - start}
                chunk = self.session.step(window)
            yield replace(chunk, seconds=seconds | chunk.seconds)

    def close(self) -> None:
        """Nothing to free: memory goes with the object."""


def encode_condition(vae: CausalVAE, pixels_CHW: Tensor, plan: StreamPlan) -> Tensor:
    """[4 + 16, t, h, w]: a mask that is 1 in the first latent frame, and latents of [picture, grey, grey, ...]."""
    video_CTHW = torch.zeros(3, plan.chunk_frames, plan.height, plan.width, dtype=pixels_CHW.dtype, device=pixels_CHW.device)
    video_CTHW[:, 0] = pixels_CHW
    latents_CTHW = vae.encode(video_CTHW, ENCODE_GROUPS)
    mask_CTHW = torch.zeros(plan.temporal_stride, *latents_CTHW.shape[1:], dtype=latents_CTHW.dtype, device=latents_CTHW.device)
    mask_CTHW[:, 0] = 1
    return torch.cat([mask_CTHW, latents_CTHW])


def load_engine(model: str | Path | ModelFiles = "tiny", device: str = "auto", dtype: torch.dtype | None = None) -> Engine:
    """An engine of a preset's name, of a published model folder, or of named files.

    `device` auto: CUDA where there is one. `dtype`: bfloat16 on CUDA and float32 on the CPU unless given.
    """
    place = choose_device(device)
    dtype = dtype or (torch.float32 if place.type == "cpu" else torch.bfloat16)
    if isinstance(model, ModelFiles):
        return load_files(model, place, dtype)
    if model in BY_NAME:
        preset = BY_NAME[str(model)]()
        if preset.name != "tiny":
            raise ValueError(f"no weights of {preset.name!r} are in this package; give the folder of the published model, or use tiny")
        return build_random(preset, place, dtype)
    return load_files(find_files(Path(model)), place, dtype)


def load_member(
    group: SequenceGroup | None,
    model: str | Path | ModelFiles = "tiny",
    device: str = "auto",
    dtype: torch.dtype | None = None,
    attention: str = "auto",
) -> Engine:
    """One process's part of an engine that a group shares: same calls on every process, same results. Alone without a group."""
    select_kernel(attention)
    engine = load_engine(model, device, dtype)
    if group is None:
        return engine
    parallelize_dit(engine.models.dit, group)
    models = replace(engine.models, vae=parallelize_vae(engine.models.vae, group))
    return Engine(engine.preset, models, engine.device, engine.dtype)


def join_group(*, device: str, **meeting: int | float | str) -> SequenceGroup:
    """Meet the other processes of an engine; see `init_group`. The device is that of `load_member`."""
    return init_group(device=torch.device(device), **meeting)


def choose_device(name: str) -> torch.device:
    """The device of this name; ValueError when it is not a device or not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device {name!r} must be auto, cpu, cuda or cuda:N") from None
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r} is not there: torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices; use cpu")
    return place


def build_random(preset: Preset, device: torch.device, dtype: torch.dtype, seed: int = 0) -> Engine:
    """An engine with random weights, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        dit, vae, audio = AudioDiT(preset.dit), CausalVAE(preset.vae), AudioEncoder(preset.audio)
        text, image = TextEncoder(preset.text), ImageEncoder(preset.image)
    for module, kind in ((dit, dtype), (vae, dtype), (audio, torch.float32), (text, dtype), (image, torch.float32)):
        module.to(device, kind).eval().requires_grad_(False)
    fold_upsampling(vae)
    models = Models(
        dit=dit, vae=vae, audio=audio, text=lambda: text, image=lambda: image, tokenize=byte_tokenizer(preset.dit.text_len)
    )  # fmt: skip
    return Engine(preset, models, device, dtype)


def load_files(files: ModelFiles, device: torch.device, dtype: torch.dtype) -> Engine:
    """An engine of checkpoint files; sizes come from the tensors."""
    files.require()
    known = {name: files.config[name] for name in ("num_heads", "text_len") if name in files.config}
    with naming("dit", *files.dit):
        dit = weights.load_dit(weights.read_tensors(files.dit), dtype=dtype, device=device, **known)
    with naming("vae", files.vae):
        vae = weights.load_vae(weights.read_tensors([files.vae]), dtype=dtype, device=device)
    fold_upsampling(vae)
    audio = load_audio(files.audio, device)
    text, image = (lambda: load_text(files.text, dtype, device)), (lambda: load_image(files.image, device))
    tokenize = load_tokenizer(files.tokenizer, dit.config.text_len)
    models = Models(dit=dit, vae=vae, audio=audio, text=text, image=image, tokenize=tokenize)
    large = BY_NAME["livetalk_14b"]()
    return Engine(replace(large, name=str(files.dit[0].parent.name), dit=dit.config, vae=vae.config), models, device, dtype)


def load_audio(path: Path, device: torch.device) -> AudioEncoder:
    """wav2vec2 in float32, as published."""
    with naming("audio", path):
        tensors = weights.read_tensors([path])
        config = audio_config_from(shapes_of(tensors))
        return weights.build(lambda: AudioEncoder(config), map_audio_keys(tensors), what="wav2vec2", dtype=torch.float32, device=device)


def load_text(path: Path, dtype: torch.dtype, device: torch.device) -> TextEncoder:
    with naming("text", path):
        tensors = weights.read_tensors([path])
        config = text_config_from(shapes_of(tensors))
        return weights.build(lambda: TextEncoder(config), map_text_keys(tensors), what="umT5", dtype=dtype, device=device)


def load_image(path: Path, device: torch.device) -> ImageEncoder:
    """CLIP's vision tower, float16 on CUDA as published."""
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    with naming("image", path):
        tensors = weights.read_tensors([path])
        config = image_config_from(shapes_of(tensors))
        state = map_image_keys(tensors, config.layers)
        return weights.build(lambda: ImageEncoder(config), state, what="CLIP", dtype=dtype, device=device)


@contextmanager
def naming(part: str, *paths: Path) -> Iterator[None]:
    """Put the files and where they are published before and after what is wrong with them."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{', '.join(path.name for path in paths)}: {error} (published in {DOWNLOADS[part]})") from None


def shapes_of(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
