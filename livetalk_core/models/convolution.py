"""The VAE's convolutions: causal in time, doubling and halving in space.

`past` caches, per layer, the last frames it needs, so that a clip can be processed in groups. None: the whole clip is one group.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from livetalk_core.models.borders import WHOLE, Borders

Past = dict[nn.Module, Tensor]

MAX_VIEW_RATIO = 3
"""Cached frames stay a view of their group if the group is at most this many times as long; otherwise they are copied."""


class CausalConv3d(nn.Conv3d):
    """Convolution padded in time at the front only: with zeros, or with the last frames of the previous group. 1 or 3 pixels wide."""

    def __init__(self, dim_in: int, dim_out: int, size: int | tuple[int, int, int]):
        _, height, width = (size,) * 3 if isinstance(size, int) else size
        super().__init__(dim_in, dim_out, size, padding=(0, height // 2, width // 2))
        self.early: list[Tensor] | None = None

    def forward(self, x: Tensor, past: Past | None, borders: Borders = WHOLE) -> Tensor:
        """Cached frames already include their halo, so groups exchange nothing twice."""
        if self.kernel_size[-1] == 1:
            return convolve_causal(self, x, past, (0, 0))
        x, padding = borders.add_halo(x, 1, 1)
        return convolve_causal(self, x, past, padding)


class TimeConv(nn.Conv3d):
    """(3, 1, 1) convolution along time; the caller prepends earlier frames."""

    def __init__(self, dim_in: int, dim_out: int, stride: int):
        super().__init__(dim_in, dim_out, (3, 1, 1), stride=(stride, 1, 1))
        self.early: list[Tensor] | None = None


class DoublingConv(nn.Conv2d):
    """Nearest-neighbor upsampling by 2, then a 3 x 3 convolution."""

    def __init__(self, dim_in: int, dim_out: int):
        super().__init__(dim_in, dim_out, 3, padding=1)
        self.subpixel: SubpixelKernel | None = None

    def forward(self, x: Tensor, borders: Borders = WHOLE) -> Tensor:
        """With folded kernels it runs on the small picture, and a halo of one row is enough."""
        if self.subpixel is not None:
            x, (rows, columns) = borders.add_halo(x, 1, 1)
            return convolve_subpixel(F.pad(x, (columns, columns, rows, rows)), self.subpixel)
        assert borders is WHOLE, "a band of a picture needs folded kernels"
        return super().forward(F.interpolate(x, scale_factor=2, mode="nearest-exact"))


class HalvingConv(nn.Conv2d):
    """3 x 3 convolution of stride 2, padded by one pixel at the right and the bottom. Bands must begin at even rows."""

    def __init__(self, dim: int):
        super().__init__(dim, dim, 3, stride=2)

    def forward(self, x: Tensor, borders: Borders = WHOLE) -> Tensor:
        x, (bottom, right) = borders.add_halo(x, 0, 1)
        return super().forward(F.pad(x, (0, right, 0, bottom)))


def convolve_causal(layer: CausalConv3d | TimeConv, x: Tensor, past: Past | None, padding: tuple[int, int]) -> Tensor:
    """Apply the layer to x with its cached frames in front. The zeros before the first frame are skipped, not computed."""
    reach, before = layer.kernel_size[0] - 1, 0
    if past is not None and layer in past:
        before = past[layer].shape[2]
        x = torch.cat([past[layer], x], dim=2)
    # The convolution of all of x comes first: a compiler chooses x's layout for its first use, and would copy x if that used a slice.
    rest = [convolve(x, layer.weight, layer.bias, padding)] if x.shape[2] > reach else []
    kernels = early_kernels(layer.weight) if layer.early is None else layer.early
    early = range(before, min(reach, x.shape[2]))
    parts = [convolve(x[:, :, : i + 1], kernels[i], layer.bias, padding) for i in early] + rest
    if past is not None and reach:
        past[layer] = keep_last(x, reach)
    return torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]


def keep_last(x_BCTHW: Tensor, count: int) -> Tensor:
    """The last `count` frames: a view if that keeps little extra memory alive, else a copy."""
    frames = x_BCTHW.shape[2]
    if frames <= MAX_VIEW_RATIO * count:
        return x_BCTHW[:, :, -count:]
    return F.pad(x_BCTHW, (0, 0, 0, 0, count - frames, 0))  # negative padding: a compiler would turn slice and clone into a view


def convolve(x: Tensor, weight: Tensor, bias: Tensor, padding: tuple[int, int]) -> Tensor:
    return F.conv3d(x, weight, bias, padding=(0, *padding))


def early_kernels(weight_OCTHW: Tensor) -> list[Tensor]:
    """The kernels for the clip's first frame, second frame, ...: only the last taps, because there are no frames before."""
    taps = weight_OCTHW.shape[2]
    return [weight_OCTHW[:, :, taps - i :] for i in range(1, taps)]


class SubpixelKernel(NamedTuple):
    """Upsampling and 3 x 3 convolution as one 2 x 2 convolution on the small picture, with four results per gap between pixels."""

    weight: Tensor
    """[4 O, C, 2, 2]"""
    bias: Tensor
    """[4 O]"""


# How the three taps of a kernel fall on two source pixels after nearest upsampling, for an even and for an odd result.
EVEN, ODD = ((1.0, 0.0, 0.0), (0.0, 1.0, 1.0)), ((1.0, 1.0, 0.0), (0.0, 0.0, 1.0))


def make_subpixel(weight_OC33: Tensor, bias_O: Tensor) -> SubpixelKernel:
    """Kernels with 4 taps that do on the small picture what 9 taps do on the upsampled one. They have the weight's memory format.

    Odd results come first: between two source pixels lie the odd result of the first and then the even result of the second.
    """
    last = weight_OC33.is_contiguous(memory_format=torch.channels_last)
    weight = weight_OC33.to(torch.promote_types(weight_OC33.dtype, torch.float32))
    taps = torch.tensor((ODD, EVEN), dtype=weight.dtype, device=weight.device)
    made = torch.einsum("api,bqj,ocij->oabcpq", taps, taps, weight).flatten(0, 2)
    layout = torch.channels_last if last else torch.contiguous_format
    return SubpixelKernel(made.to(weight_OC33.dtype).contiguous(memory_format=layout), bias_O.repeat_interleave(4))


def convolve_subpixel(padded: Tensor, subpixel: SubpixelKernel) -> Tensor:
    """Small pictures padded by one pixel -> [B, O, 2 h, 2 w]. Every gap between pixels gives four results; the outermost are cut off."""
    return F.pixel_shuffle(F.conv2d(padded, *subpixel), 2)[..., 1:-1, 1:-1]


def fold_kernels(network: nn.Module) -> None:
    """Precompute the subpixel kernels of upsampling layers and the shortened kernels for a clip's first frames.

    Only for weights that no longer change. The kernels get the weights' memory format and device.
    """
    for layer in network.modules():
        if isinstance(layer, DoublingConv):
            layer.subpixel = make_subpixel(layer.weight, layer.bias)
        elif isinstance(layer, CausalConv3d | TimeConv):
            last = layer.weight.is_contiguous(memory_format=torch.channels_last_3d)
            layout = torch.channels_last_3d if last else torch.contiguous_format
            layer.early = [kernel.contiguous(memory_format=layout) for kernel in early_kernels(layer.weight)]


def folded_kernels(network: nn.Module) -> list[Tensor]:
    """The kernels that `fold_kernels` has precomputed."""
    made = []
    for layer in network.modules():
        if isinstance(layer, DoublingConv):
            made += layer.subpixel or ()
        elif isinstance(layer, CausalConv3d | TimeConv):
            made += layer.early or ()
    return made


def lay_channels_last(network: nn.Module) -> None:
    """Convert the weights of all convolutions to channels-last, which cuDNN is fastest with; activations follow. Results do not change."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv3d):
            layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last_3d)
        elif isinstance(layer, nn.Conv2d):
            layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
