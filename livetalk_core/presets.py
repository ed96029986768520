"""Complete configurations, as functions."""

from __future__ import annotations

from dataclasses import dataclass, replace

from livetalk_core.models.audio import AudioConfig
from livetalk_core.models.dit_config import DiTConfig
from livetalk_core.models.enlarger import TIMES
from livetalk_core.models.image import ImageConfig
from livetalk_core.models.patch_vae import PatchVAEConfig
from livetalk_core.models.small_dit import SmallDiTConfig
from livetalk_core.models.text import TextConfig
from livetalk_core.models.vae import VAEConfig
from livetalk_core.models.weightless import MelConfig, NoTextConfig, ThumbnailConfig
from livetalk_core.plan import StreamPlan
from livetalk_core.sizes import sizes_near, suits
from livetalk_core.types import StreamSettings

PROMPT = "A person is talking. Only the foreground characters are moving, the background remains static."
"""The prompt the published model is used with."""

OWN = ("steps", "shift", "last_noise", "sampler", "text_guidance", "audio_guidance", "negative_prompt")
"""Settings of a stream for which each model has a value of its own."""
LARGE_PIXELS = 627 * 960
"""Between the areas of the buckets 627 and 960."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """The sizes of all networks of a model, and its bucket of picture sizes."""

    name: str
    dit: DiTConfig
    vae: VAEConfig | PatchVAEConfig
    audio: AudioConfig | MelConfig
    text: TextConfig | NoTextConfig
    image: ImageConfig | ThumbnailConfig
    bucket: str
    made_for: tuple[str, ...] = ()
    """Buckets that it was trained on; empty: any size that it can compute."""
    enlarged: tuple[str, ...] = ()
    """Those of them whose frames are made at half the size and then enlarged (see models/enlarger.py)."""
    steps: int = 4
    shift: float = 5.0
    last_noise: float = 1.0
    """Scale of the noise before the last step. A small network does not remove all of it, which leaves specks."""
    trained: bool = True
    sampler: str = "renoise"
    """How noise becomes latents; see stream/flow.py."""
    large_shift: float | None = None
    """Shift for pictures of more than LARGE_PIXELS; None: the same."""
    text_guidance: float = 1.0
    audio_guidance: float = 1.0
    negative_prompt: str = ""
    chunk_frames: int = 33
    motion_frames: int = 5
    face_share: float = 0.45
    """Part of the picture's height, from brows to chin, that a face fills where the picture is cropped to it."""
    small_face: int = 40
    """A face of fewer pixels in the video is cropped to without being asked; of twice as many where frames are enlarged."""
    blinks: bool = False
    """Whether it has learned to shut the eyes when its condition says so (see stream/blinks.py); a model's config.json says whether
    its weights have."""

    def plan(self, width: int, height: int) -> StreamPlan:
        """The plan of a stream of this size. ValueError for a size the models cannot make."""
        return StreamPlan(
            width=width,
            height=height,
            chunk_frames=self.chunk_frames,
            motion_frames=self.motion_frames,
            audio_window=self.dit.audio_window,
            latent_channels=self.vae.z_dim,
            temporal_stride=self.vae.temporal_stride,
            spatial_stride=self.vae.spatial_stride * (TIMES if self.enlarges(width, height) else 1),
            patch_size=self.dit.patch_size,
        )

    def enlarges(self, width: int, height: int) -> bool:
        """Whether frames of this size are made at half the size and enlarged: those of these buckets, and all larger ones."""
        return bool(self.enlarged) and width * height >= min(w * h for w, h in sizes_near(self.enlarged))

    def smallest_face(self, width: int, height: int) -> int:
        """`small_face` in a video of this size."""
        return self.small_face * (TIMES if self.enlarges(width, height) else 1)

    @property
    def live_bucket(self) -> str:
        """The bucket of live streams, which must keep up with speech: frames that are not enlarged."""
        return self.without_enlarger().bucket

    def without_enlarger(self) -> Preset:
        """The model for small pictures only: as it is trained, and where the enlarger's file is missing."""
        if not self.enlarged:
            return self
        made_for = tuple(name for name in self.made_for if name not in self.enlarged)
        return replace(self, enlarged=(), made_for=made_for, bucket=made_for[0])

    def check_size(self, width: int, height: int, way_out: str) -> None:
        """ValueError, ending in `way_out`, for a size far from those the model was trained on, where the face does not talk."""
        alike = (self.without_enlarger().made_for, self.enlarged)  # between the two, frames would be made at a size that is too large
        if not self.made_for or any(buckets and suits(width, height, buckets) for buckets in alike):
            return
        known = [f"{w}x{h}" for w, h in sizes_near(self.made_for)]
        some = ", ".join(known[:6]) + (f" and {len(known) - 6} more up to {known[-1]}" if len(known) > 6 else "")
        raise ValueError(
            f"size {width}x{height} is not one that {self.name} was trained on, so the face would not talk; use {some}, {way_out}"
        )

    def settled(self, settings: StreamSettings, plan: StreamPlan | None = None) -> StreamSettings:
        """The settings, with None replaced by the model's own values for the plan's size."""
        own = {name: vars(self)[name] for name in OWN if vars(settings)[name] is None}
        if "shift" in own and plan is not None and self.large_shift is not None and plan.width * plan.height > LARGE_PIXELS:
            own["shift"] = self.large_shift
        return replace(settings, **own)


def livetalk_14b() -> Preset:
    """The published 14B model (SoulX-FlashTalk-14B)."""
    return Preset(
        name="livetalk_14b",
        dit=DiTConfig(),
        vae=VAEConfig(),
        audio=AudioConfig(width=768, layers=12, heads=12, ffn_width=3072, conv_widths=(512,) * 7, conv_kernels=(10, 3, 3, 3, 3, 2, 2)),
        text=TextConfig(vocab=256384, width=4096, attention_width=4096, heads=64, ffn_width=10240, layers=24),
        image=ImageConfig(width=1280, layers=32, heads=16, ffn_width=5120),
        bucket="416",
        made_for=("416", "627", "960"),
    )


NEGATIVE = (
    "bright tones, overexposed, static, blurred details, subtitles, style, works, paintings, images, static, overall gray, worst quality, "
    "low quality, JPEG compression residue, ugly, incomplete, extra fingers, poorly drawn hands, poorly drawn faces, deformed, disfigured, "
    "misshapen limbs, fused fingers, still picture, messy background, three legs, many people in the background, walking backwards"
)
"""The negative prompt that InfiniteTalk and MultiTalk are used with."""


def infinitetalk() -> Preset:
    """InfiniteTalk on Wan 2.1 I2V 14B, as published (MeiGen-AI/InfiniteTalk)."""
    return replace(
        livetalk_14b(),
        name="infinitetalk",
        bucket="627",
        made_for=("627", "960"),
        steps=40,
        shift=7.0,
        large_shift=11.0,
        sampler="euler",
        text_guidance=5.0,
        audio_guidance=4.0,
        negative_prompt=NEGATIVE,
        chunk_frames=81,
        motion_frames=9,
    )


def multitalk() -> Preset:
    """MultiTalk on Wan 2.1 I2V 14B, as published (MeiGen-AI/MultiTalk): each chunk's condition shows the end of the one before."""
    return replace(infinitetalk(), name="multitalk", sampler="euler_noised", motion_frames=25)


def in_4_steps(preset: Preset) -> Preset:
    """The settings published for a LoRA that distills guidance by the prompt and steps."""
    return replace(preset, name=f"{preset.name}_4step", steps=4, text_guidance=1.0, audio_guidance=2.0)


def infinitetalk_4step() -> Preset:
    return in_4_steps(infinitetalk())


def multitalk_4step() -> Preset:
    return in_4_steps(multitalk())


def nano() -> Preset:
    """A model small enough for a CPU, trained on drawn people and on photographs: it takes log-mel spectra and no prompts."""
    vae, audio, text, image = PatchVAEConfig(), MelConfig(), NoTextConfig(), ThumbnailConfig()
    return Preset(
        name="nano",
        dit=SmallDiTConfig(
            dim=256, ffn_dim=1024, num_heads=4, num_layers=6, in_dim=2 * vae.z_dim + 4, out_dim=vae.z_dim, freq_dim=128,
            text_dim=text.width, text_len=1, image_dim=image.width,
            audio_dim=audio.layers * audio.width, audio_hidden=768, audio_width=64, audio_tokens=8, predicts="change", picture_in="every",
            shifts=12,
        ),
        vae=vae,
        audio=audio,
        text=text,
        image=image,
        bucket="256",
        made_for=("128", "256"),
        enlarged=("256",),
        shift=3.0,
        last_noise=0.0,
        face_share=0.58,
        small_face=66,
        blinks=True,
    )  # fmt: skip


def tiny() -> Preset:
    """Every part of the 14B model at a very small size, with random weights, for tests."""
    return Preset(
        name="tiny",
        dit=DiTConfig(
            dim=64, ffn_dim=96, num_heads=4, num_layers=2, freq_dim=32, text_dim=32, text_len=16, image_dim=16,
            audio_dim=3 * 16, audio_hidden=24, audio_width=16, audio_tokens=4,
        ),
        vae=VAEConfig(dim=4),
        audio=AudioConfig(
            width=16, layers=3, heads=4, ffn_width=24, conv_widths=(8,) * 7, conv_kernels=(10, 3, 3, 3, 3, 2, 2),
            position_kernel=16, position_groups=4,
        ),
        text=TextConfig(vocab=384, width=32, attention_width=32, heads=4, ffn_width=48, layers=2),
        image=ImageConfig(width=16, layers=3, heads=4, ffn_width=64),
        bucket="64",
        trained=False,
    )  # fmt: skip


LARGE = {preset.__name__: preset for preset in (livetalk_14b, infinitetalk, infinitetalk_4step, multitalk, multitalk_4step)}
"""Models with the published DiT; its tensors do not tell which it is."""
BY_NAME = {"livetalk_14b": livetalk_14b, "nano": nano, "tiny": tiny}
