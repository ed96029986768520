"""Speech to features: wav2vec2, one feature per video frame and layer.

Axes in names: N samples, F convolution frames, T video frames, S layers, D width, C convolution channels.
Audio is normalized to -23 LUFS only: these weights were trained without zero-mean, unit-variance scaling.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

Value = TypeVar("Value")

CONV_STRIDES = (5, 2, 2, 2, 2, 2, 2)
LOUDNESS_BLOCK_S = 0.4
HEAD_DIM = 64
CONV_PREFIX = "model.feature_extractor.conv_layers."
LAYER_PREFIX = "model.encoder.layers."
PRETRAINING_KEYS = ("quantizer.", "project_hid.", "project_q.", "lm_head.", "masked_spec_embed")
WEIGHT_NORM_NAMES = {
    "encoder.pos_conv_embed.conv.weight_g": "encoder.pos_conv_embed.conv.parametrizations.weight.original0",
    "encoder.pos_conv_embed.conv.weight_v": "encoder.pos_conv_embed.conv.parametrizations.weight.original1",
}


@dataclass(frozen=True, kw_only=True)
class AudioConfig:
    """Sizes of a wav2vec2 with group norm after its first convolution and post-norm layers."""

    width: int
    layers: int
    heads: int
    ffn_width: int
    conv_widths: tuple[int, ...]
    conv_kernels: tuple[int, ...]
    conv_strides: tuple[int, ...] = CONV_STRIDES
    position_kernel: int = 128
    position_groups: int = 16
    eps: float = 1e-5
    fps: int = 25
    sample_rate: int = 16000

    @property
    def bytes_per_second(self) -> int:
        """Memory per second of audio encoded in one call: two and a half outputs of the first convolution in float32.

        For the published sizes that is 16.4 MB; 16.6 MB were measured over two minutes, on a CPU.
        """
        return round(2.5 * 4 * self.conv_widths[0] * self.sample_rate / self.conv_strides[0])

    @property
    def shortest(self) -> int:
        """Fewest samples that give a feature: enough for one convolution frame and one video frame."""
        receptive = 1
        for kernel, stride in zip(reversed(self.conv_kernels), reversed(self.conv_strides), strict=True):
            receptive = (receptive - 1) * stride + kernel
        return max(receptive, -(-self.sample_rate // self.fps))


class AudioEncoder(nn.Module):
    """wav2vec2 whose convolution features are resampled to the video frame rate before the transformer."""

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        from transformers import Wav2Vec2Config, Wav2Vec2Model

        self.config = config
        self.model = Wav2Vec2Model(
            Wav2Vec2Config(
                hidden_size=config.width,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                intermediate_size=config.ffn_width,
                conv_dim=list(config.conv_widths),
                conv_kernel=list(config.conv_kernels),
                conv_stride=list(config.conv_strides),
                num_feat_extract_layers=len(config.conv_widths),
                num_conv_pos_embeddings=config.position_kernel,
                num_conv_pos_embedding_groups=config.position_groups,
                layer_norm_eps=config.eps,
                feat_extract_norm="group",
                conv_bias=False,
                do_stable_layer_norm=False,
                hidden_dropout=0.0,
                attention_dropout=0.0,
                activation_dropout=0.0,
                feat_proj_dropout=0.0,
                layerdrop=0.0,
                mask_time_prob=0.0,
                mask_feature_prob=0.0,
                attn_implementation="sdpa",
            )
        )
        self.model.feature_extractor.register_forward_hook(self._resample)
        self.eval()

    @torch.no_grad()
    def forward(self, samples_N: Tensor) -> Tensor:
        """Mono audio [N] float32 at `sample_rate` -> features [T, S, D] with T = N fps // sample_rate, one S per layer.

        Raises ValueError for fewer than `config.shortest` samples.
        """
        if len(samples_N) < self.config.shortest:
            raise ValueError(
                f"{len(samples_N)} samples are too few for the audio encoder: it needs {self.config.shortest} or more; pad with silence"
            )
        hidden = self.model(samples_N[None], output_hidden_states=True).hidden_states
        assert len(hidden) == self.config.layers + 1, "the first entry is the input of the first layer"
        return torch.stack([layer_1TD[0] for layer_1TD in hidden[1:]], dim=1)

    def _resample(self, _module: nn.Module, inputs: tuple[Tensor, ...], features_1CF: Tensor) -> Tensor:
        """Convolution features [1, C, F] -> [1, C, T], interpolated linearly; first and last frame stay."""
        frames = inputs[0].shape[-1] * self.config.fps // self.config.sample_rate
        return nn.functional.interpolate(features_1CF, size=frames, mode="linear", align_corners=True)


def normalize_loudness(samples_N: Tensor, sample_rate: int = 16000, lufs: float = -23.0) -> Tensor:
    """Mono audio [N] on the CPU, scaled to `lufs` integrated loudness (ITU-R BS.1770), float32. Nothing is limited or clipped.

    Unchanged: audio shorter than one measuring block of 0.4 s, silence (-inf LUFS), and anything beyond +-100 LUFS.
    """
    gain = loudness_gain(samples_N, sample_rate, lufs)
    return torch.from_numpy((samples_N.numpy().astype(np.float64) * gain).astype(np.float32))


def loudness_gain(samples_N: Tensor, sample_rate: int = 16000, lufs: float = -23.0) -> float:
    """The factor that scales mono audio [N] on the CPU to `lufs`; 1 if `normalize_loudness` would not change it."""
    if len(samples_N) < LOUDNESS_BLOCK_S * sample_rate:
        return 1.0
    import pyloudnorm

    with np.errstate(divide="ignore"):
        loudness = pyloudnorm.Meter(sample_rate, block_size=LOUDNESS_BLOCK_S).integrated_loudness(samples_N.numpy())
    return 1.0 if abs(loudness) > 100 else 10.0 ** ((lufs - loudness) / 20.0)


def map_audio_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a published wav2vec2 file under AudioEncoder's names, without pretraining and CTC heads.

    Raises ValueError, naming keys, if the file is not a wav2vec2 of this kind.
    """
    mapped = rename_keys(state, audio_key)
    require_keys("wav2vec2", mapped, expected_audio_keys(mapped))
    return mapped


def audio_config_from(
    shapes: Mapping[str, tuple[int, ...]],
    *,
    heads: int | None = None,
    conv_strides: tuple[int, ...] = CONV_STRIDES,
    fps: int = 25,
    sample_rate: int = 16000,
) -> AudioConfig:
    """The config that fits the shapes of a file's tensors, given under the file's own names. Heads are 64 wide unless `heads` is given."""
    named = rename_keys(shapes, audio_key)
    require_keys("wav2vec2", named, expected_audio_keys(named))
    convs = [named[f"model.feature_extractor.conv_layers.{i}.conv.weight"] for i in range(count_blocks(named, CONV_PREFIX))]
    position = named["model.encoder.pos_conv_embed.conv.parametrizations.weight.original1"]
    ffn_width, width = named["model.encoder.layers.0.feed_forward.intermediate_dense.weight"]
    return AudioConfig(
        width=width,
        layers=count_blocks(named, LAYER_PREFIX),
        heads=heads if heads is not None else heads_of("wav2vec2", width, HEAD_DIM),
        ffn_width=ffn_width,
        conv_widths=tuple(shape[0] for shape in convs),
        conv_kernels=tuple(shape[2] for shape in convs),
        conv_strides=conv_strides,
        position_kernel=position[2],
        position_groups=width // position[1],
        fps=fps,
        sample_rate=sample_rate,
    )


def audio_key(key: str) -> str | None:
    """AudioEncoder's name for a file's key; None for heads used only in pretraining and CTC."""
    name = key.removeprefix("wav2vec2.")
    if name.startswith(PRETRAINING_KEYS):
        return None
    return "model." + WEIGHT_NORM_NAMES.get(name, name)


def expected_audio_keys(names: Collection[str]) -> list[str]:
    """All keys of an AudioEncoder with as many convolutions and layers as in `names`."""
    outer = ["feature_extractor.conv_layers.0.layer_norm", "feature_projection.layer_norm", "feature_projection.projection"]
    outer += ["encoder.layer_norm"]
    parts = [f"attention.{p}_proj" for p in ("q", "k", "v", "out")]
    parts += ["layer_norm", "final_layer_norm", "feed_forward.intermediate_dense", "feed_forward.output_dense"]
    layers = range(count_blocks(names, LAYER_PREFIX))
    modules = [f"model.{name}" for name in outer] + [f"{LAYER_PREFIX}{i}.{part}" for i in layers for part in parts]
    convs = [f"{CONV_PREFIX}{i}.conv.weight" for i in range(count_blocks(names, CONV_PREFIX))]
    position = ["model.encoder.pos_conv_embed.conv.bias", *(f"model.{name}" for name in WEIGHT_NORM_NAMES.values())]
    return [f"{module}.{kind}" for module in modules for kind in ("weight", "bias")] + convs + position


# Shared by the key maps of the three encoders.


def rename_keys(state: Mapping[str, Value], rename: Callable[[str], str | None]) -> dict[str, Value]:
    """The values under new names, without those whose new name is None."""
    return {name: value for key, value in state.items() if (name := rename(key)) is not None}


def count_blocks(names: Collection[str], prefix: str) -> int:
    """The highest block number after `prefix`, plus 1; 1 if there is none."""
    numbers = {name[len(prefix) :].split(".")[0] for name in names if name.startswith(prefix)}
    return max((int(number) + 1 for number in numbers if number.isdecimal()), default=1)


def require_keys(model: str, found: Collection[str], expected: Collection[str]) -> None:
    """ValueError, naming three keys, unless `found` and `expected` are the same set."""
    missing, unknown = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing:
        raise ValueError(f"not the weights of {model}: missing {first_three(missing)}; choose that model's file")
    if unknown:
        raise ValueError(f"not the weights of {model}: it has no {first_three(unknown)}; choose that model's file")


def first_three(names: list[str]) -> str:
    more = len(names) - 3
    return ", ".join(names[:3]) + (f" and {more} more" if more > 0 else "")


def heads_of(model: str, width: int, head_dim: int) -> int:
    """Number of attention heads for a width. ValueError if the width is not a multiple of the published head size."""
    if width % head_dim:
        raise ValueError(f"width={width} of {model} is not a multiple of its published head size {head_dim}; give heads")
    return width // head_dim
