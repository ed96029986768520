"""The engine: it encodes references and opens streams with loaded models."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from livetalk_core.engine.denoiser import Cuts, DiTDenoiser
from livetalk_core.engine.deviation import Deviations, FirstChunk
from livetalk_core.engine.enlarged import EnlargedVAE
from livetalk_core.engine.guidance import Guidance
from livetalk_core.engine.room import Room
from livetalk_core.engine.stream import Stream
from livetalk_core.models.audio import AudioEncoder, loudness_gain, normalize_loudness
from livetalk_core.models.dit import AudioDiT
from livetalk_core.models.enlarger import Enlarger, halve
from livetalk_core.models.image import ImageEncoder
from livetalk_core.models.patch_vae import PatchVAE
from livetalk_core.models.text import TextEncoder, Tokenizer
from livetalk_core.models.tiny_decoder import DraftVAE
from livetalk_core.models.vae import CausalVAE
from livetalk_core.models.weightless import MelEncoder, NoText, ThumbnailEncoder
from livetalk_core.parallel.vae import BandVAE, ParallelVAE
from livetalk_core.plan import StreamPlan
from livetalk_core.presets import PROMPT, Preset
from livetalk_core.stream.begin import begin_after
from livetalk_core.stream.color import match_color
from livetalk_core.stream.condition import encode_condition, first_latent
from livetalk_core.stream.flow import seeded_noise, times_of
from livetalk_core.stream.loudness import Leveler
from livetalk_core.stream.prompts import first_chunk
from livetalk_core.stream.session import DECODE_GROUPS, OnLatents, OnStep, Session
from livetalk_core.stream.window import LiveWindows, WholeWindows
from livetalk_core.types import AudioWindow, Reference, Shown, Start, StreamSettings, VideoVAE


@dataclass(frozen=True, kw_only=True)
class Models:
    """All networks of one engine. Text and picture encoders are loaded on demand, since a stream needs them only once."""

    dit: AudioDiT
    vae: CausalVAE | PatchVAE | DraftVAE
    enlarger: Enlarger | None = None
    """Only of a model that makes some sizes at half the size."""
    audio: AudioEncoder | MelEncoder
    text: Callable[[], TextEncoder | NoText]
    image: Callable[[], ImageEncoder | ThumbnailEncoder]
    tokenize: Tokenizer


class Engine:
    """Loaded models, ready to talk. Streams of one engine may run in several threads; they take turns by pieces of a chunk."""

    def __init__(self, preset: Preset, models: Models, device: torch.device, dtype: torch.dtype):
        self.preset, self.models, self.device, self.dtype = preset, models, device, dtype
        self.turn, self.encoding = threading.Lock(), threading.Lock()
        self.prompts: dict[str, Tensor] = {}
        self.room, self.streams = Room(preset, models.dit, device, dtype), weakref.WeakSet[Stream]()
        self.deviations = Deviations(models.dit, device, preset.steps)
        normalize_loudness(torch.zeros(preset.audio.sample_rate))  # imports its meter now, which takes half a second

    def plan(self, width: int, height: int) -> StreamPlan:
        """The plan of a stream of this size. ValueError for a size the models cannot make."""
        return self.preset.plan(width, height)

    @torch.no_grad()
    def reference(
        self,
        pixels_CHW: Tensor,
        prompt: str = PROMPT,
        speaker_masks_KHW: Tensor | None = None,
        image_LD: Tensor | None = None,
        text_LD: Tensor | None = None,
    ) -> Reference:
        """Encode a cropped picture [3, H, W] in [-1, 1] and a prompt for a stream of that size. Only the VAE's work delays other streams.

        `image_LD`: ready-made CLIP features [257, D]; the vision tower then does not run. `text_LD`: likewise the prompt's rows.
        """
        plan = self.plan(pixels_CHW.shape[2], pixels_CHW.shape[1])
        pixels_CHW = pixels_CHW.to(self.device, self.dtype)
        picture_frames = self.preset.dit.picture_frames(plan.chunk_frames)
        text_LD, image_LD = (
            self.text_rows(prompt) if text_LD is None else text_LD.to(self.device, self.dtype),
            self.image_rows(pixels_CHW) if image_LD is None else self.checked_rows(image_LD),
        )
        with self.turn:
            cond_CTHW = encode_condition(self.vae_for(plan, pixels_CHW), pixels_CHW, plan, picture_frames)
            return Reference(
                text_LD=text_LD,
                image_LD=image_LD,
                cond_CTHW=cond_CTHW,
                first_CTHW=first_latent(cond_CTHW, plan),
                pixels_CHW=pixels_CHW,
                speaker_masks_KHW=None if speaker_masks_KHW is None else speaker_masks_KHW.to(self.device),
            )

    def text_rows(self, prompt: str) -> Tensor:
        """umT5 rows [L, D] of a prompt; the last 16 prompts are cached. Streams run meanwhile."""
        with self.encoding, beside_streams(self.device):
            if prompt not in self.prompts:
                ids, mask = self.models.tokenize(prompt)
                encoder = self.models.text()
                place = next((weight.device for weight in encoder.parameters()), self.device)
                rows = encoder(ids.to(place), mask.to(place)).to(self.device, self.dtype)
                self.prompts = dict([*self.prompts.items(), (prompt, rows)][-16:])
            return self.prompts[prompt]

    def image_rows(self, pixels_CHW: Tensor) -> Tensor:
        """CLIP features [257, D] of a picture [3, H, W], of the size at which the DiT works. Streams run meanwhile."""
        if self.preset.enlarges(pixels_CHW.shape[2], pixels_CHW.shape[1]):
            pixels_CHW = halve(pixels_CHW)
        with self.encoding, beside_streams(self.device):
            encoder = self.models.image()
            place = next((weight.device for weight in encoder.parameters()), self.device)
            return encoder(pixels_CHW.to(place)).to(self.device, self.dtype)

    @torch.no_grad()
    def encode_rows(self, prompt: str | None, pixels_CHW: Tensor | None) -> dict[str, Tensor]:
        """Rows of a prompt and a picture for `reference`, on the CPU; None for the default prompt, or no picture."""
        rows = {"text_LD": self.text_rows(PROMPT if prompt is None else prompt).cpu()}
        if pixels_CHW is not None:
            rows["image_LD"] = self.image_rows(pixels_CHW.to(self.device, self.dtype)).cpu()
        return rows

    def checked_rows(self, image_LD: Tensor) -> Tensor:
        """Ready-made CLIP features on the engine's device; ValueError for another CLIP's width."""
        width = self.preset.dit.image_dim
        if image_LD.ndim != 2 or image_LD.shape[1] != width:
            raise ValueError(
                f"CLIP features of shape {tuple(image_LD.shape)} must be rows of {width} for {self.preset.name}; leave them out"
            )
        return image_LD.to(self.device, self.dtype)

    @torch.no_grad()
    def decode(self, latents_CTHW: Tensor, picture_CHW: Tensor | None = None) -> Iterator[Tensor]:
        """Decode normalized latents [C, t, h, w] without a stream: pieces of [3, T, H, W] in [-1, 1], 4 t - 3 frames in all.

        `picture_CHW`: the stream's reference in [-1, 1]. If it is of a size whose frames are enlarged, these are too.
        """
        vae = self.models.vae
        if picture_CHW is not None:
            picture_CHW = picture_CHW.to(self.device, self.dtype)
            vae = self.vae_for(self.plan(picture_CHW.shape[2], picture_CHW.shape[1]), picture_CHW)
        yield from vae.decode(latents_CTHW.to(self.device, self.dtype), DECODE_GROUPS)

    def vae_for(self, plan: StreamPlan, picture_CHW: Tensor) -> VideoVAE:
        """The VAE for a stream of this plan and picture. It enlarges frames where the plan's are twice those that the VAE makes."""
        vae = self.models.vae
        enlarges = plan.spatial_stride != self.preset.vae.spatial_stride
        return EnlargedVAE(vae, self.models.enlarger, picture_CHW) if enlarges else vae

    def encode_audio(self, samples_N: Tensor, loudness: bool = True) -> Tensor:
        """16 kHz sound [N] -> features [T, layers, width] float32 on the engine's device."""
        samples_N = normalize_loudness(samples_N.cpu()) if loudness else samples_N
        if self.device.type == "cuda":
            samples_N = samples_N.cpu().pin_memory()  # otherwise the host would wait for the device's queued work
        return self.models.audio(samples_N.to(self.device, non_blocking=True))

    def open(
        self,
        reference: Reference,
        settings: StreamSettings,
        people: int = 1,
        on_step: OnStep | None = None,
        on_latents: OnLatents | None = None,
        start: Start | Shown | None = None,
        rows: Mapping[str, Tensor] | None = None,
    ) -> Stream:
        """A new stream of this reference. `on_step` is called before each denoising step and may raise to stop; `on_latents` with
        each chunk's latents. `start`: make the chunks from there on only, or go on from what was shown. `rows`: ready-made rows of the
        settings' texts. NoRoom if it does not fit beside the streams that are open."""
        if people > 1 and reference.speaker_masks_KHW is None:
            raise ValueError(f"{people} speakers need speaker masks in the reference: one per person and one for the background")
        if people not in (1, 2):
            raise ValueError(f"people={people} must be 1 or 2; the model knows two speakers at most")
        plan = self.plan(reference.pixels_CHW.shape[2], reference.pixels_CHW.shape[1])
        settings = self.preset.settled(settings, plan)
        self.room.check(plan, len(self.streams), len(Guidance.of(settings).passes))
        rows = {text: self.text_rows(text) if rows is None else rows[text].to(self.device, self.dtype) for text in settings.texts}
        session = self.make_session(plan, reference, settings, rows, start, on_step=on_step, on_latents=on_latents)
        windows = self.make_windows(plan, settings, people, start.index if isinstance(start, Start) else 0)
        if isinstance(start, Shown):
            with self.turn:
                begin_after(start, session, windows, self.vae_for(plan, reference.pixels_CHW))
        measure = self.measurement(plan, reference, settings, session.denoiser, on_step)
        return Stream(session, windows, self.turn, measure, self.text_rows, self.streams)

    def make_session(
        self,
        plan: StreamPlan,
        reference: Reference,
        settings: StreamSettings,
        rows: Mapping[str, Tensor],
        start: Start | Shown | None = None,
        **calls: Callable[..., None] | None,
    ) -> Session:
        """A session of settled settings, whose texts have these rows. `calls`: the session's on_step and on_latents."""
        guidance = Guidance.of(settings, rows)
        noise, cuts = seeded_noise(plan.latent_shape, settings.seed, self.device), self.cuts(plan, len(guidance.passes))
        denoiser = DiTDenoiser(self.models.dit, times_of(settings)[:-1], cuts, guidance, settings.audio_strength)
        make, vae = Session, self.vae_for(plan, reference.pixels_CHW)
        if isinstance(vae, ParallelVAE):
            make, vae = BandSession, vae.banded(plan.latent_height, plan.latent_width)
        describe = self.describe(settings)
        return make(
            plan,
            denoiser,
            vae,
            reference,
            settings,
            noise,
            **calls,
            start=start if isinstance(start, Start) else None,
            on_denoised=denoiser.release_window,
            prompts=sorted(((first_chunk(prompt, plan), rows[prompt.text]) for prompt in settings.prompts), key=lambda due: due[0]),
            describe=describe,
            motion_apart=describe is None and self.motion_apart,
            blinks=self.preset.blinks,
        )

    @property
    def motion_apart(self) -> bool:
        """Whether the motion latents are decoded as a group of their own, as only the published VAE can."""
        vae = self.models.vae
        return isinstance(vae.vae if isinstance(vae, ParallelVAE) else vae, CausalVAE)

    def make_windows(self, plan: StreamPlan, settings: StreamSettings, people: int, first: int) -> LiveWindows | WholeWindows:
        """The audio windows of a stream, from chunk `first` on."""
        kind = WholeWindows if settings.whole_audio else LiveWindows
        levelers = [Leveler(loudness_gain) for _ in range(people)] if settings.loudness else []
        return kind(plan, lambda samples_N: self.encode_audio(samples_N, loudness=False), people, levelers, first)

    def measurement(
        self, plan: StreamPlan, reference: Reference, settings: StreamSettings, denoiser: DiTDenoiser, on_step: OnStep | None
    ) -> Callable[[AudioWindow], None]:
        """What is called with a stream's first window: it measures the error of lossy options."""
        given = {"plan": plan, "reference": reference, "settings": settings, "guidance": denoiser.guidance, "cuts": denoiser.cuts}
        return lambda window: self.deviations.measure(FirstChunk(**given, window=window, on_step=on_step))

    def describe(self, settings: StreamSettings) -> Callable[[Tensor], Tensor] | None:
        """How a frame becomes CLIP features, for a model whose condition shows the motion frames."""
        return (lambda pixels_CHW: self.image_rows(pixels_CHW.to(self.dtype))) if settings.sampler == "euler_noised" else None

    def cuts(self, plan: StreamPlan, passes: int = 1) -> Cuts:
        """The optimizations that there is room for. Every process of a group must call it at the same time."""
        return self.room.cuts(plan, passes)

    def close(self) -> None:
        """Clears cached prompts; the models are freed with the engine."""
        self.prompts = {}


@contextmanager
def beside_streams(device: torch.device) -> Iterator[None]:
    """On CUDA, work on a separate CUDA stream, so that it does not queue up before the chunks of other streams."""
    if device.type != "cuda":
        yield
        return
    beside, current = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    beside.wait_stream(current)
    with torch.cuda.stream(beside):
        yield
    beside.synchronize()


class BandSession(Session):
    """The session of a process whose group shares the VAE: each holds a band of every frame; the first process collects whole frames."""

    vae: BandVAE

    def matched(self, piece_CTHW: Tensor) -> Tensor:
        return match_color(piece_CTHW.float(), self.target, self.settings.color_strength, self.vae.stats)

    def whole_frame(self, frame_CTHW: Tensor) -> Tensor:
        return self.vae.gather_frames(frame_CTHW)

    def new_frames(self, piece_CTHW: Tensor, first: int, num_valid: int) -> Tensor:
        """Whole frames on the first process, none on the others."""
        return self.vae.collect_frames(super().new_frames(piece_CTHW, first, num_valid))
