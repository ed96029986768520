"""Parts of AMT-S, in the layout of its published weights (Li et al. 2023): encoders, decoders, correlation lookup, warping.

Axes: B pictures, C channels, H W size, L levels. Flows are [B, 2, H, W] in pixels, x first.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def resize(x_BCHW: Tensor, factor: float) -> Tensor:
    return F.interpolate(x_BCHW, scale_factor=factor, mode="bilinear", align_corners=False)


def warp(x_BCHW: Tensor, flow_B2HW: Tensor) -> Tensor:
    """Sample x at each pixel plus its flow; outside, the border's value."""
    height, width = flow_B2HW.shape[-2:]
    y_H, x_W = (torch.linspace(-1, 1, length, device=x_BCHW.device) for length in (height, width))
    grid_BHW2 = torch.stack(torch.meshgrid(y_H, x_W, indexing="ij")[::-1], dim=-1)[None]
    scale = torch.tensor([(width - 1) / 2, (height - 1) / 2], device=x_BCHW.device)
    moved_BHW2 = grid_BHW2 + flow_B2HW.permute(0, 2, 3, 1) / scale
    return F.grid_sample(x_BCHW, moved_BHW2, mode="bilinear", padding_mode="border", align_corners=True)


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution and PReLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2), nn.PReLU(outputs))


class SideResidual(nn.Module):
    """Residual block whose last `side` channels pass through two convolutions of their own."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.conv1, self.conv2, self.conv3, self.conv4 = (conv(n, n) for n in (channels, side, channels, side))
        self.conv5, self.prelu = nn.Conv2d(channels, channels, 3, padding=1), nn.PReLU(channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y = self.conv3(self.with_side(self.conv1(x_BCHW), self.conv2))
        return self.prelu(x_BCHW + self.conv5(self.with_side(y, self.conv4)))

    def with_side(self, y_BCHW: Tensor, layer: nn.Module) -> Tensor:
        return torch.cat([y_BCHW[:, : -self.side], layer(y_BCHW[:, -self.side :])], dim=1)


class Pyramid(nn.Module):
    """Features at 1/2, 1/4, 1/8 and 1/16 of the size."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        for level, (inputs, outputs) in enumerate(zip((3, *channels), channels, strict=False), 1):
            self.add_module(f"pyramid{level}", nn.Sequential(conv(inputs, outputs, stride=2), conv(outputs, outputs)))

    def forward(self, x_BCHW: Tensor) -> list[Tensor]:
        found = []
        for level in self.children():
            x_BCHW = level(x_BCHW)
            found.append(x_BCHW)
        return found


class FirstDecoder(nn.Module):
    """Coarsest features and the time -> both flows and features, at twice the size."""

    def __init__(self, inputs: int, outputs: int, side: int) -> None:
        super().__init__()
        self.convblock = decoder_layers(2 * inputs + 1, 2 * inputs, outputs + 4, side)

    def forward(self, a_BCHW: Tensor, b_BCHW: Tensor, time_B111: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        out = self.convblock(torch.cat([a_BCHW, b_BCHW, time_B111.expand(-1, -1, *a_BCHW.shape[-2:])], dim=1))
        return out[:, :2], out[:, 2:4], out[:, 4:]


class NextDecoder(nn.Module):
    """Features and flows -> both flows and features, at twice the size."""

    def __init__(self, inputs: int, outputs: int, side: int) -> None:
        super().__init__()
        self.convblock = decoder_layers(3 * inputs + 4, 3 * inputs, outputs + 4, side)

    def forward(self, x: Tensor, a: Tensor, b: Tensor, flow_a: Tensor, flow_b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        out = self.convblock(torch.cat([x, warp(a, flow_a), warp(b, flow_b), flow_a, flow_b], dim=1))
        return out[:, :2] + 2 * resize(flow_a, 2), out[:, 2:4] + 2 * resize(flow_b, 2), out[:, 4:]


class LastDecoder(nn.Module):
    """The same, to several flows a side, their masks and their additions to the picture."""

    def __init__(self, inputs: int, side: int, flows: int) -> None:
        super().__init__()
        self.flows = flows
        self.convblock = decoder_layers(3 * inputs + 4, 3 * inputs, 8 * flows, side)

    def forward(self, x: Tensor, a: Tensor, b: Tensor, flow_a: Tensor, flow_b: Tensor) -> tuple[Tensor, ...]:
        out = self.convblock(torch.cat([x, warp(a, flow_a), warp(b, flow_b), flow_a, flow_b], dim=1))
        n = self.flows
        change_a, change_b, mask, added = out.split([2 * n, 2 * n, n, 3 * n], dim=1)
        flow_a, flow_b = (2 * resize(flow, 2).repeat(1, n, 1, 1) for flow in (flow_a, flow_b))
        return change_a + flow_a, change_b + flow_b, mask.sigmoid(), added


def decoder_layers(inputs: int, hidden: int, outputs: int, side: int) -> nn.Sequential:
    return nn.Sequential(conv(inputs, hidden), SideResidual(hidden, side), nn.ConvTranspose2d(hidden, outputs, 4, 2, 1))


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        middle = outputs // 4
        self.conv1, self.conv3 = nn.Conv2d(inputs, middle, 1), nn.Conv2d(middle, outputs, 1)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, 1)
        self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride), nn.InstanceNorm2d(outputs)) if stride > 1 else nn.Identity()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y = x_BCHW
        for layer in (self.conv1, self.conv2, self.conv3):
            y = F.relu(F.instance_norm(layer(y)))
        return F.relu(self.downsample(x_BCHW) + y)


class MatchEncoder(nn.Module):
    """Features at 1/8 of the size, for the correlation of the two pictures."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 7, 2, 3)
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(Bottleneck(inputs, width, stride), Bottleneck(width, width, 1))
            for inputs, width, stride in ((32, 32, 1), (32, 64, 2), (64, 96, 2))
        )
        self.conv2 = nn.Conv2d(96, outputs, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = F.relu(F.instance_norm(self.conv1(x_BCHW)))
        return self.conv2(self.layer3(self.layer2(self.layer1(x_BCHW))))


class Update(nn.Module):
    """Changes to features and flows from the correlation around where the flows point."""

    def __init__(self, channels: int, planes: int, shrink: int = 1) -> None:
        super().__init__()
        self.shrink = shrink
        self.convc1 = nn.Conv2d(2 * planes, 64, 1)
        self.convf1, self.convf2 = nn.Conv2d(4, 40, 7, padding=3), nn.Conv2d(40, 20, 3, padding=1)
        self.conv = nn.Conv2d(84, 68, 3, padding=1)
        self.gru, self.feat_head, self.flow_head = two_convs(68 + 4 + channels, 76), two_convs(76, channels), two_convs(76, 4)

    def forward(self, x: Tensor, flow: Tensor, correlation: Tensor) -> tuple[Tensor, Tensor]:
        x = resize(x, 1 / self.shrink) if self.shrink > 1 else x
        seen = leaky(self.convc1(correlation))
        moved = leaky(self.convf2(leaky(self.convf1(flow))))
        joined = leaky(self.conv(torch.cat([seen, moved], dim=1)))
        out = self.gru(torch.cat([joined, flow, x], dim=1))
        change, flow_change = self.feat_head(out), self.flow_head(out)
        if self.shrink > 1:
            return resize(change, self.shrink), self.shrink * resize(flow_change, self.shrink)
        return change, flow_change


def two_convs(inputs: int, outputs: int, hidden: int = 76) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, hidden, 3, padding=1), nn.LeakyReLU(0.1), nn.Conv2d(hidden, outputs, 3, padding=1))


def leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.1)
