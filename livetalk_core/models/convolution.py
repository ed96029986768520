"""The VAE's convolutions: causal in time, doubling and halving in space.

`past` keeps, per layer, the last frames it needs, so that a clip may pass in groups; with None the whole clip is one group.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from livetalk_core.models.borders import WHOLE, Borders

Past = dict[nn.Module, Tensor]

HELD = 3
"""Times what is needed of a group that may be held for it, rather than copied."""


class CausalConv3d(nn.Conv3d):
    """Convolution whose time padding is all in front: zeros, or the last frames of the group before. 1 or 3 pixels wide."""

    def __init__(self, dim_in: int, dim_out: int, size: int | tuple[int, int, int]):
        _, height, width = (size,) * 3 if isinstance(size, int) else size
        super().__init__(dim_in, dim_out, size, padding=(0, height // 2, width // 2))
        self.early: list[Tensor] | None = None

    def forward(self, x: Tensor, past: Past | None, borders: Borders = WHOLE) -> Tensor:
        """The frames kept in `past` have their borders already."""
        if self.kernel_size[-1] == 1:
            return convolve_causal(self, x, past, (0, 0))
        x, padding = borders.widen(x, 1, 1)
        return convolve_causal(self, x, past, padding)


class TimeConv(nn.Conv3d):
    """(3, 1, 1) convolution along time; the caller extends the input back."""

    def __init__(self, dim_in: int, dim_out: int, stride: int):
        super().__init__(dim_in, dim_out, (3, 1, 1), stride=(stride, 1, 1))
        self.early: list[Tensor] | None = None


class DoublingConv(nn.Conv2d):
    """Twice the size (nearest), then a 3 x 3 convolution."""

    def __init__(self, dim_in: int, dim_out: int):
        super().__init__(dim_in, dim_out, 3, padding=1)
        self.quarters: Quarters | None = None

    def forward(self, x: Tensor, borders: Borders = WHOLE) -> Tensor:
        """Folded, on the small picture, whose border row is all it takes of the neighbors."""
        if self.quarters is not None:
            x, (rows, columns) = borders.widen(x, 1, 1)
            return convolve_quarters(F.pad(x, (columns, columns, rows, rows)), self.quarters)
        assert borders is WHOLE, "a band of a picture needs folded kernels"
        return super().forward(F.interpolate(x, scale_factor=2, mode="nearest-exact"))


class HalvingConv(nn.Conv2d):
    """3 x 3 convolution of stride 2; its padding is one pixel at the right and the bottom, and bands begin at even rows."""

    def __init__(self, dim: int):
        super().__init__(dim, dim, 3, stride=2)

    def forward(self, x: Tensor, borders: Borders = WHOLE) -> Tensor:
        x, (bottom, right) = borders.widen(x, 0, 1)
        return super().forward(F.pad(x, (0, right, 0, bottom)))


def convolve_causal(layer: CausalConv3d | TimeConv, x: Tensor, past: Past | None, padding: tuple[int, int]) -> Tensor:
    """The layer on x after the frames that `past` holds for it. Before the first frame there are zeros, which take no work."""
    reach, before = layer.kernel_size[0] - 1, 0
    if past is not None and layer in past:
        before = past[layer].shape[2]
        x = torch.cat([past[layer], x], dim=2)
    # The whole of x comes first: a compiler lays it out for what uses it first, and copies it where that was a part.
    rest = [convolve(x, layer.weight, layer.bias, padding)] if x.shape[2] > reach else []
    kernels = early_kernels(layer.weight) if layer.early is None else layer.early
    early = range(before, min(reach, x.shape[2]))
    parts = [convolve(x[:, :, : i + 1], kernels[i], layer.bias, padding) for i in early] + rest
    if past is not None and reach:
        past[layer] = keep_last(x, reach)
    return torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]


def keep_last(x_BCTHW: Tensor, count: int) -> Tensor:
    """Its last frames: as a view where that holds little more, else a copy, so that the others can go."""
    frames = x_BCTHW.shape[2]
    if frames <= HELD * count:
        return x_BCTHW[:, :, -count:]
    return F.pad(x_BCTHW, (0, 0, 0, 0, count - frames, 0))  # cut by a padding below zero: a compiler takes a clone for a view


def convolve(x: Tensor, weight: Tensor, bias: Tensor, padding: tuple[int, int]) -> Tensor:
    return F.conv3d(x, weight, bias, padding=(0, *padding))


def early_kernels(weight_OCTHW: Tensor) -> list[Tensor]:
    """What a kernel does on the clip's first frame, on its second, ...: its last taps, since before them there is nothing."""
    taps = weight_OCTHW.shape[2]
    return [weight_OCTHW[:, :, taps - i :] for i in range(1, taps)]


class Quarters(NamedTuple):
    """A doubling convolution as one of 2 x 2 pixels on the small picture, with a result for every corner of a doubled pixel."""

    weight: Tensor
    """[4 O, C, 2, 2]"""
    bias: Tensor
    """[4 O]"""


# Of a 3-tap kernel after nearest doubling: what it puts on the two source pixels of the even, and of the odd, result.
EVEN, ODD = ((1.0, 0.0, 0.0), (0.0, 1.0, 1.0)), ((1.0, 1.0, 0.0), (0.0, 0.0, 1.0))


def make_quarters(weight_OC33: Tensor, bias_O: Tensor) -> Quarters:
    """Kernels that do on the small picture what 3 x 3 does on the doubled one: 4 taps in place of 9. They lie in memory as the weight does.

    The odd ones come first: between two source pixels lie the odd result of the first and the even one of the second, in this order.
    """
    last = weight_OC33.is_contiguous(memory_format=torch.channels_last)
    weight = weight_OC33.to(torch.promote_types(weight_OC33.dtype, torch.float32))
    taps = torch.tensor((ODD, EVEN), dtype=weight.dtype, device=weight.device)
    made = torch.einsum("api,bqj,ocij->oabcpq", taps, taps, weight).flatten(0, 2)
    layout = torch.channels_last if last else torch.contiguous_format
    return Quarters(made.to(weight_OC33.dtype).contiguous(memory_format=layout), bias_O.repeat_interleave(4))


def convolve_quarters(padded: Tensor, quarters: Quarters) -> Tensor:
    """Small pictures with one pixel around them -> [B, O, 2 h, 2 w]. Every gap between pixels gets four results; the outermost are cut."""
    return F.pixel_shuffle(F.conv2d(padded, *quarters), 2)[..., 1:-1, 1:-1]


def fold_kernels(network: nn.Module) -> None:
    """From now on doubling layers work on the small picture, and no kernel is cut where a clip begins. For fixed weights: the kernels are
    made here, once, in the layout and on the device that the weights have."""
    for layer in network.modules():
        if isinstance(layer, DoublingConv):
            layer.quarters = make_quarters(layer.weight, layer.bias)
        elif isinstance(layer, CausalConv3d | TimeConv):
            last = layer.weight.is_contiguous(memory_format=torch.channels_last_3d)
            layout = torch.channels_last_3d if last else torch.contiguous_format
            layer.early = [kernel.contiguous(memory_format=layout) for kernel in early_kernels(layer.weight)]


def folded_kernels(network: nn.Module) -> list[Tensor]:
    """Those that `fold_kernels` has made."""
    made = []
    for layer in network.modules():
        if isinstance(layer, DoublingConv):
            made += layer.quarters or ()
        elif isinstance(layer, CausalConv3d | TimeConv):
            made += layer.early or ()
    return made


def lay_channels_last(network: nn.Module) -> None:
    """Convert the weights of all convolutions once to the layout that cuDNN is fastest in; pictures follow. Names and results stay."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv3d):
            layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last_3d)
        elif isinstance(layer, nn.Conv2d):
            layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
