"""The VAE's convolutions: causal in time, doubling and halving in space.

`past` keeps, per layer, the last frames it needs, so that a clip may pass in groups; with None the whole clip is one group.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Past = dict[nn.Module, Tensor]


class CausalConv3d(nn.Conv3d):
    """Convolution whose time padding is all in front: zeros, or the last frames of the group before."""

    def __init__(self, dim_in: int, dim_out: int, size: int | tuple[int, int, int]):
        _, height, width = (size,) * 3 if isinstance(size, int) else size
        super().__init__(dim_in, dim_out, size, padding=(0, height // 2, width // 2))

    def forward(self, x: Tensor, past: Past | None) -> Tensor:
        return convolve_causal(self, x, past, self.padding[1:])


class TimeConv(nn.Conv3d):
    """(3, 1, 1) convolution along time; the caller extends the input back."""

    def __init__(self, dim_in: int, dim_out: int, stride: int):
        super().__init__(dim_in, dim_out, (3, 1, 1), stride=(stride, 1, 1))


class DoublingConv(nn.Conv2d):
    """Twice the size (nearest), then a 3 x 3 convolution."""

    def __init__(self, dim_in: int, dim_out: int):
        super().__init__(dim_in, dim_out, 3, padding=1)
        self.quarters: list[Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.quarters is not None:
            return convolve_quarters(F.pad(x, (1, 1, 1, 1)), self.quarters, self.bias)
        return super().forward(F.interpolate(x, scale_factor=2, mode="nearest-exact"))


class HalvingConv(nn.Conv2d):
    """3 x 3 convolution of stride 2; its padding is one pixel at the right and the bottom."""

    def __init__(self, dim: int):
        super().__init__(dim, dim, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, 1, 0, 1)))


def convolve_causal(layer: nn.Conv3d, x: Tensor, past: Past | None, padding: tuple[int, int]) -> Tensor:
    """The layer on x after the frames that `past` holds for it. Before the first frame there are zeros, which take no work."""
    reach = layer.kernel_size[0] - 1
    if past is not None and reach:
        x = torch.cat([past[layer], x], dim=2) if layer in past else x
        before = past[layer].shape[2] if layer in past else 0
        past[layer] = x[:, :, -reach:].clone()
    else:
        before = 0
    early = range(before, min(reach, x.shape[2]))
    parts = [convolve(x[:, :, : i + 1], layer.weight[:, :, reach - i :], layer.bias, padding) for i in early]
    if x.shape[2] > reach:
        parts.append(convolve(x, layer.weight, layer.bias, padding))
    return torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]


def convolve(x: Tensor, weight: Tensor, bias: Tensor, padding: tuple[int, int]) -> Tensor:
    return F.conv3d(x, weight, bias, padding=(0, *padding))


# Of a 3-tap kernel after nearest doubling: what it puts on the two source pixels of the even, and of the odd, result.
EVEN, ODD = ((1.0, 0.0, 0.0), (0.0, 1.0, 1.0)), ((1.0, 1.0, 0.0), (0.0, 0.0, 1.0))


def quarter_kernels(weight_OC33: Tensor) -> list[Tensor]:
    """Four 2 x 2 kernels, for even and odd rows and columns, that do on the small picture what 3 x 3 does on the doubled one.

    They lie in memory as the weight does.
    """
    last = weight_OC33.is_contiguous(memory_format=torch.channels_last)
    weight = weight_OC33.to(torch.promote_types(weight_OC33.dtype, torch.float32))
    even, odd = (torch.tensor(taps, dtype=weight.dtype, device=weight.device) for taps in (EVEN, ODD))
    made = [torch.einsum("pi,qj,ocij->ocpq", rows, columns, weight) for rows in (even, odd) for columns in (even, odd)]
    return [kernel.to(weight_OC33.dtype, memory_format=torch.channels_last if last else torch.contiguous_format) for kernel in made]


def convolve_quarters(padded: Tensor, quarters: list[Tensor], bias: Tensor) -> Tensor:
    """Small pictures with one pixel around them -> [B, O, 2 h, 2 w]: each kernel makes every other row and column (4 taps, not 9)."""
    height, width = padded.shape[-2] - 2, padded.shape[-1] - 2
    corners = [(a, b) for a in (0, 1) for b in (0, 1)]
    parts = [F.conv2d(padded[..., a : a + height + 1, b : b + width + 1], k, bias) for (a, b), k in zip(corners, quarters, strict=True)]
    return F.pixel_shuffle(torch.stack(parts, dim=2).flatten(1, 2), 2)


def lay_channels_last(network: nn.Module) -> None:
    """Convert the weights of all convolutions once to the layout that cuDNN is fastest in; pictures follow. Names and results stay."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv3d):
            layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last_3d)
        elif isinstance(layer, nn.Conv2d):
            layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
