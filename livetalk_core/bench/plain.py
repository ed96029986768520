"""The VAE with none of its savings: zeros before the first frame worked through, doubled pictures convolved with whole kernels."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from livetalk_core.models.borders import WHOLE, Borders
from livetalk_core.models.convolution import CausalConv3d, DoublingConv
from livetalk_core.models.vae import CausalVAE, Upsample


def make_plain(vae: CausalVAE) -> None:
    """From now on `vae` takes whole clips in one group, with the published system's work and the same result."""
    for layer in vae.modules():
        if isinstance(layer, DoublingConv):
            layer.quarters = None
        elif isinstance(layer, CausalConv3d):
            layer.forward = partial(convolve_padded, layer)
        elif isinstance(layer, Upsample) and layer.time_conv is not None:
            layer.double_frames = partial(double_padded, layer)


def convolve_padded(layer: nn.Conv3d, x: Tensor, past: None, borders: Borders = WHOLE) -> Tensor:
    """[B, C, T, H, W] with zeros in front, all of them convolved."""
    assert past is None, "the plain form takes the whole clip in one group"
    before = layer.kernel_size[0] - 1
    return F.conv3d(F.pad(x, (0, 0, 0, 0, before, 0)), layer.weight, layer.bias, padding=(0, *layer.padding[1:]))


def double_padded(layer: Upsample, x: Tensor, past: None) -> Tensor:
    """The first frame, and twice the others."""
    if x.shape[2] == 1:
        return x
    halves = convolve_padded(layer.time_conv, x[:, :, 1:], past).unflatten(1, (2, -1))
    return torch.cat([x[:, :, :1], halves.permute(0, 2, 3, 1, 4, 5).flatten(2, 3)], dim=2)
