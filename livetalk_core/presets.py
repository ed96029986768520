"""Complete configurations, as functions."""

from __future__ import annotations

from dataclasses import dataclass, replace

from livetalk_core.models.audio import AudioConfig
from livetalk_core.models.dit_config import DiTConfig
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
    steps: int = 4
    shift: float = 5.0
    last_noise: float = 1.0
    """Scale of the noise before the last step. A small network does not remove all of it, which leaves specks."""
    trained: bool = True

    def plan(self, width: int, height: int) -> StreamPlan:
        """The plan of a stream of this size. ValueError for a size the models cannot make."""
        return StreamPlan(
            width=width,
            height=height,
            audio_window=self.dit.audio_window,
            latent_channels=self.vae.z_dim,
            temporal_stride=self.vae.temporal_stride,
            spatial_stride=self.vae.spatial_stride,
            patch_size=self.dit.patch_size,
        )

    def check_size(self, width: int, height: int, way_out: str) -> None:
        """ValueError, ending in `way_out`, for a size far from those the model was trained on, where the face does not talk."""
        if not self.made_for or suits(width, height, self.made_for):
            return
        known = [f"{w}x{h}" for w, h in sizes_near(self.made_for)]
        some = ", ".join(known[:6]) + (f" and {len(known) - 6} more up to {known[-1]}" if len(known) > 6 else "")
        raise ValueError(
            f"size {width}x{height} is not one that {self.name} was trained on, so the face would not talk; use {some}, {way_out}"
        )

    def settled(self, settings: StreamSettings) -> StreamSettings:
        """The settings, with None replaced by the model's own values."""
        own = {name: getattr(self, name) for name in ("shift", "last_noise") if getattr(settings, name) is None}
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


def nano() -> Preset:
    """A model small enough for a CPU, trained on drawn people: it takes log-mel spectra and no prompts."""
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
        bucket="128",
        made_for=("128",),
        shift=3.0,
        last_noise=0.0,
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


BY_NAME = {"livetalk_14b": livetalk_14b, "nano": nano, "tiny": tiny}
