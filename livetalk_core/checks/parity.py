"""Compares our numbers with the published system's: every golden file of a folder, each with an error limit.

A golden file holds `weights.*`, `in.*` and `out.*`, and its model's sizes as JSON under the metadata key `config`
(tests/golden/README.md). Models of any size may be in the folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from livetalk_core.checks.errors import max_error, relative_error
from livetalk_core.engine.denoiser import DiTDenoiser
from livetalk_core.models import weights
from livetalk_core.models.audio import AudioEncoder, audio_config_from, loudness_gain, map_audio_keys, normalize_loudness
from livetalk_core.models.convolution import fold_kernels
from livetalk_core.models.dit import AudioDiT
from livetalk_core.models.image import ImageEncoder, image_config_from, map_image_keys
from livetalk_core.models.text import TextEncoder, map_text_keys, text_config_from
from livetalk_core.models.vae import CausalVAE
from livetalk_core.plan import StreamPlan
from livetalk_core.stream.color import lab_stats, match_color
from livetalk_core.stream.condition import encode_condition, first_latent
from livetalk_core.stream.flow import flow_times
from livetalk_core.stream.loudness import Leveler
from livetalk_core.stream.session import Session
from livetalk_core.stream.window import LiveWindows
from livetalk_core.types import AudioWindow, Reference, StreamSettings

LIMITS = {"dit": 2e-5, "dit_two_speakers": 2e-5, "wav2vec": 1e-5, "umt5": 1e-5, "clip": 1e-5, "vae": 5e-5, "color": 1e-4, "stream": 1e-3}
"""Largest absolute error in float32."""
HALF_LIMITS = LIMITS | {"dit": 0.02, "dit_two_speakers": 0.15, "umt5": 0.06, "clip": 0.02, "vae": 0.06, "stream": 0.25}
"""Relative error with weights in bfloat16, about twice that of a CPU. With two speakers each token is assigned to one of them, and
rounding changes the speaker of some tokens."""
CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Result:
    """One compared tensor."""

    file: str
    what: str
    error: float
    limit: float

    @property
    def passed(self) -> bool:
        return self.error <= self.limit


class Golden:
    """A folder of golden files, read when needed. Models run on `device` with weights in `dtype`."""

    def __init__(self, folder: Path, device: torch.device = CPU, dtype: torch.dtype = torch.float32):
        if not folder.is_dir():
            raise FileNotFoundError(f"golden folder {folder} does not exist; the project's own is tests/golden")
        self.folder, self.device, self.dtype = folder, device, dtype
        self.present = sorted(path.stem for path in folder.glob("*.safetensors"))
        if not self.present:
            raise FileNotFoundError(f"golden folder {folder} has no .safetensors file; the project's own is tests/golden")
        if unknown := [name for name in self.present if name not in LIMITS]:
            raise ValueError(f"golden file {folder / unknown[0]}.safetensors has no check; rename it to one of {', '.join(LIMITS)}")

    def error(self, found: Tensor, expected: Tensor) -> float:
        """The error to compare with the limit: in float32 the largest difference, else the relative error, as single values round far."""
        return max_error(found, expected) if self.dtype == torch.float32 else relative_error(found, expected)

    def read(self, name: str) -> tuple[dict, dict[str, Tensor]]:
        """The file's config, and its tensors on the device."""
        path = self.folder / f"{name}.safetensors"
        if not path.is_file():
            raise FileNotFoundError(f"golden file {path} is missing; another file of the folder needs it")
        with safe_open(path, framework="pt") as file:
            config = json.loads((file.metadata() or {}).get("config", "{}"))
        return config, {name: tensor.to(self.device) for name, tensor in weights.read_tensors([path]).items()}

    @cached_property
    def dit(self) -> AudioDiT:
        config, tensors = self.read("dit")
        return weights.load_dit(
            weights_in(tensors), dtype=self.dtype, device=self.device, num_heads=config["num_heads"], text_len=config["text_len"]
        )

    @cached_property
    def vae(self) -> CausalVAE:
        return weights.load_vae(weights_in(self.read("vae")[1]), dtype=self.dtype, device=self.device)

    @cached_property
    def served_vae(self) -> CausalVAE:
        """The VAE as in an engine: with folded kernels."""
        vae = weights.load_vae(weights_in(self.read("vae")[1]), dtype=self.dtype, device=self.device)
        fold_kernels(vae)
        return vae

    @cached_property
    def audio(self) -> AudioEncoder:
        config, tensors = self.read("wav2vec")
        state, known = weights_in(tensors), {"heads": config["num_attention_heads"], "conv_strides": tuple(config["conv_stride"])}
        sizes = audio_config_from(weights.shapes_of(state), fps=config["fps"], sample_rate=config["sample_rate"], **known)
        return weights.build(lambda: AudioEncoder(sizes), map_audio_keys(state), what="wav2vec2", dtype=torch.float32, device=self.device)


def run_parity(folder: Path, device: torch.device = CPU, dtype: torch.dtype = torch.float32) -> Iterator[Result]:
    """Every comparison in every golden file of the folder. The published model runs in bfloat16 on a GPU."""
    golden = Golden(folder, device, dtype)
    limits = LIMITS if dtype == torch.float32 else HALF_LIMITS
    with torch.no_grad():
        for name in golden.present:
            for what, error in CHECKS[name](golden):
                yield Result(file=name, what=what, error=error, limit=limits[name])


Errors = Iterator[tuple[str, float]]


def check_dit(golden: Golden) -> Errors:
    _, tensors = golden.read("dit")
    for name in sorted(name for name in tensors if name.startswith("in.timestep")):
        suffix = name.removeprefix("in.timestep")
        yield f"velocity{suffix}", golden.error(velocity(golden.dit, tensors, tensors[name]), tensors[f"out.velocity{suffix}"])


def check_two_speakers(golden: Golden) -> Errors:
    _, tensors = golden.read("dit_two_speakers")
    found = velocity(golden.dit, tensors, tensors["in.timestep"], tensors["in.speaker_masks"])
    yield "velocity", golden.error(found, tensors["out.velocity"])


def velocity(dit: AudioDiT, tensors: dict[str, Tensor], timestep: Tensor, masks: Tensor | None = None) -> Tensor:
    context = dit.embed_context(tensors["in.text"][None], tensors["in.clip"])
    audio = dit.embed_audio(tensors["in.audio"][None].flatten(-2))
    return dit(tensors["in.latent"][None], tensors["in.condition"], dit.embed_time(timestep), context, audio, masks)[0]


def check_vae(golden: Golden) -> Errors:
    """The VAE on whole clips and in groups; both must give the published numbers."""
    _, tensors = golden.read("vae")
    for name in sorted(name for name in tensors if name.startswith("in.video")):
        frames = name.removeprefix("in.video")
        for groups in ((), (1,)):
            found = golden.vae.encode(tensors[name][0], groups)
            yield f"encode {frames} frames{in_groups(groups)}", golden.error(found, tensors[f"out.latent{frames}"])
    for groups in ((), (1,), (1, 2), (2, 1)):
        found = torch.cat(list(golden.vae.decode(tensors["in.latent"], groups)), dim=1)
        yield f"decode{in_groups(groups)}", golden.error(found, tensors["out.video"][0])
    found = torch.cat(list(golden.served_vae.decode(tensors["in.latent"], (1, 2))), dim=1)
    yield "decode folded, in groups (1, 2)", golden.error(found, tensors["out.video"][0])


def in_groups(groups: tuple[int, ...]) -> str:
    return f" in groups {groups}" if groups else ""


def check_wav2vec(golden: Golden) -> Errors:
    config, tensors = golden.read("wav2vec")
    loud_N = normalize_loudness(tensors["in.waveform"].cpu(), config["sample_rate"], config["lufs"])
    yield "loudness", golden.error(loud_N, tensors["out.loudness_normalised"])
    yield "embedding", golden.error(golden.audio(loud_N.to(golden.device)), tensors["out.embedding"])


def check_umt5(golden: Golden) -> Errors:
    _, tensors = golden.read("umt5")
    state = weights_in(tensors)
    sizes = text_config_from(weights.shapes_of(state))
    encoder = weights.build(lambda: TextEncoder(sizes), map_text_keys(state), what="umT5", dtype=golden.dtype, device=golden.device)
    yield "context", golden.error(encoder(tensors["in.ids"], tensors["in.mask"]), tensors["out.context"])


def check_clip(golden: Golden) -> Errors:
    config, tensors = golden.read("clip")
    state = weights_in(tensors)
    sizes = image_config_from(weights.shapes_of(state), heads=config["num_heads"])
    encoder = weights.build(
        lambda: ImageEncoder(sizes), map_image_keys(state, sizes.layers), what="CLIP", dtype=golden.dtype, device=golden.device
    )
    yield "features", golden.error(encoder(tensors["in.image"][0, :, -1]), tensors["out.features"][0])


def check_color(golden: Golden) -> Errors:
    _, tensors = golden.read("color")
    target = lab_stats(tensors["in.reference"][0])
    for name in sorted(name for name in tensors if name.startswith("out.strength_")):
        strength = float(name.removeprefix("out.strength_"))
        yield f"strength {strength}", golden.error(match_color(tensors["in.video"][0], target, strength), tensors[name][0])


def check_stream(golden: Golden) -> Errors:
    """The whole chunk loop with the recorded noise and its own motion latents; errors of everything that was recorded."""
    config, tensors = golden.read("stream")
    plan = stream_plan(golden, config, tensors)
    times = flow_times(config["steps"], config["shift"])
    yield "timesteps", golden.error(1000 * torch.tensor(times), tensors["out.timesteps"])
    pixels_CHW = tensors["in.reference"][0, :, 0]
    condition = encode_condition(golden.vae, pixels_CHW, plan)
    yield "condition", golden.error(condition, tensors["out.condition"][0])
    reference = Reference(
        text_LD=tensors["in.text"],
        image_LD=tensors["in.clip"][0],
        cond_CTHW=condition,
        first_CTHW=first_latent(condition, plan),
        pixels_CHW=pixels_CHW,
    )
    settings = StreamSettings(
        steps=config["steps"], shift=config["shift"], last_noise=1.0, color_strength=config["color_correction_strength"]
    )  # fmt: skip
    recorder = Recorder(
        plan, DiTDenoiser(golden.dit, times[:-1]), golden.served_vae, reference, settings, recorded_noise(tensors, config["steps"])
    )
    for window in stream_windows(golden, plan, tensors):
        yield f"chunk {window.index} audio", golden.error(window.features_PTWSD, tensors[f"out.audio.{window.index}"])
        yield f"chunk {window.index} motion", golden.error(recorder.motion_CTHW, tensors[f"in.motion_latent.{window.index}"])
        pieces = list(recorder.step(window))
        yield f"chunk {window.index} latents", golden.error(recorder.latents_CTHW, tensors[f"out.latent.{window.index}"])
        video = torch.cat(recorder.pieces, dim=1)
        yield f"chunk {window.index} frames", golden.error(video, tensors[f"out.video.{window.index}"][0])
        yield f"chunk {window.index} last frame", golden.error(video[:, -1], tensors[f"out.video.{window.index}"][0, :, -1])
        assert sum(len(piece.frames_THWC) for piece in pieces) == plan.new_frames


class Recorder(Session):
    """A session that keeps latents and color-matched frames, for comparison with the golden file."""

    def denoise(self, window: AudioWindow) -> Tensor:
        self.latents_CTHW = super().denoise(window)
        self.pieces: list[Tensor] = []
        return self.latents_CTHW

    def matched(self, piece_CTHW: Tensor) -> Tensor:
        self.pieces.append(super().matched(piece_CTHW))
        return self.pieces[-1]


def stream_plan(golden: Golden, config: dict, tensors: dict[str, Tensor]) -> StreamPlan:
    height, width = tensors["in.reference"].shape[-2:]
    return StreamPlan(
        width=width,
        height=height,
        fps=config["fps"],
        sample_rate=config["sample_rate"],
        chunk_frames=config["frames"],
        motion_frames=config["motion_frames"],
        audio_context_s=config["cached_audio_seconds"],
        audio_window=golden.dit.config.audio_window,
        latent_channels=golden.vae.config.z_dim,
        temporal_stride=golden.vae.temporal_stride,
        spatial_stride=golden.vae.spatial_stride,
        patch_size=golden.dit.config.patch_size,
    )


def stream_windows(golden: Golden, plan: StreamPlan, tensors: dict[str, Tensor]) -> Iterator[AudioWindow]:
    """The audio windows of all recorded chunks."""
    chunks = sum(name.startswith("out.video.") for name in tensors)
    windows = LiveWindows(plan, lambda samples_N: golden.audio(samples_N.to(golden.device)), levelers=[Leveler(loudness_gain)])
    yield from windows.push(tensors["in.waveform"][: chunks * plan.new_samples].cpu())


def recorded_noise(tensors: dict[str, Tensor], steps: int) -> Callable[[torch.dtype], Tensor]:
    """Returns the recorded noise in the order in which the sampler draws it: initial noise, then one after each step."""
    chunks = sum(name.startswith("out.video.") for name in tensors)
    names = iter([f"in.noise.{c}.{draw}" for c in range(chunks) for draw in ("init", *range(steps))])
    return lambda dtype: tensors[next(names)].to(dtype)


def weights_in(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("weights."): tensor for name, tensor in tensors.items() if name.startswith("weights.")}


CHECKS: dict[str, Callable[[Golden], Errors]] = {
    "dit": check_dit,
    "dit_two_speakers": check_two_speakers,
    "wav2vec": check_wav2vec,
    "umt5": check_umt5,
    "clip": check_clip,
    "vae": check_vae,
    "color": check_color,
    "stream": check_stream,
}
