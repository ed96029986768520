"""S3FD, the face detector in front of SyncNet, in the layout of its published weights (Zhang et al. 2017).

Axes: C channels, H W size, P places where a face may be. Boxes are (left, top, right, bottom).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

MEAN = (123.0, 117.0, 104.0)
"""Red, green, blue."""
SIDES, STEPS = (16, 32, 64, 128, 256, 512), (4, 8, 16, 32, 64, 128)
"""Pixels of a face at each scale, and between the places where it is looked for."""
SCALE, LEAST_SCORE = 0.25, 0.9
"""As SyncNet's pipeline sets them: pictures are searched at a quarter of their size."""
LEAST_SIDE = 32
"""Pixels that the network's poolings need; smaller pictures are searched at that size."""
OVERLAPS = (0.3, 0.1)
VGG = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)
"""Channels of VGG-16's convolutions; 0 is a pooling."""
CUTS = (16, 23, 30)
"""Layers after which features are taken."""


class ScaledUnit(nn.Module):
    """Unit vectors over channels, times a learned scale."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x_CHW: Tensor) -> Tensor:
        return x_CHW / (x_CHW.norm(dim=-3, keepdim=True) + 1e-10) * self.weight[:, None, None]


class S3FD(nn.Module):
    """Pictures [1, 3, H, W], RGB less MEAN -> boxes [P, 4] as fractions, and scores [P] from 0 to 1."""

    def __init__(self) -> None:
        super().__init__()
        self.vgg = nn.ModuleList(vgg_layers())
        self.L2Norm3_3, self.L2Norm4_3, self.L2Norm5_3 = ScaledUnit(256), ScaledUnit(512), ScaledUnit(512)
        shapes = ((1024, 256, 1, 1), (256, 512, 3, 2), (512, 128, 1, 1), (128, 256, 3, 2))
        self.extras = nn.ModuleList(nn.Conv2d(i, o, kernel, stride, kernel // 2) for i, o, kernel, stride in shapes)
        widths = (256, 512, 512, 1024, 512, 256)
        self.loc = nn.ModuleList(nn.Conv2d(width, 4, 3, padding=1) for width in widths)
        self.conf = nn.ModuleList(nn.Conv2d(width, 2 if level else 4, 3, padding=1) for level, width in enumerate(widths))

    def forward(self, x_13HW: Tensor) -> tuple[Tensor, Tensor]:
        height, width = x_13HW.shape[-2:]
        boxes, scores = [], []
        for level, x in enumerate(self.features(x_13HW)):
            chances = self.conf[level](x)
            if level == 0:  # three kinds of background at the finest scale; the likeliest counts
                chances = torch.cat([chances[:, :3].amax(1, keepdim=True), chances[:, 3:]], dim=1)
            scores.append(chances.softmax(1)[0, 1].flatten())
            moves_P4 = self.loc[level](x)[0].flatten(1).T
            boxes.append(decode(moves_P4, places(*x.shape[-2:], level, height, width, x.device)))
        return torch.cat(boxes), torch.cat(scores)

    def features(self, x: Tensor) -> list[Tensor]:
        found, norms = [], dict(zip(CUTS, (self.L2Norm3_3, self.L2Norm4_3, self.L2Norm5_3), strict=True))
        for number, each in enumerate(self.vgg, 1):
            x = each(x)
            if number in norms:
                found.append(norms[number](x))
        found.append(x)
        for number, each in enumerate(self.extras):
            x = F.relu(each(x))
            if number % 2:
                found.append(x)
        return found


def vgg_layers() -> list[nn.Module]:
    """VGG-16 with its first dense layers as convolutions, layer by layer as the weights are numbered."""
    layers, inputs, pools = [], 3, 0
    for width in VGG:
        if width:
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
            inputs = width
        else:
            pools += 1
            layers.append(nn.MaxPool2d(2, 2, ceil_mode=pools == 3))
    return [*layers, nn.Conv2d(512, 1024, 3, padding=6, dilation=6), nn.ReLU(), nn.Conv2d(1024, 1024, 1), nn.ReLU()]


def places(rows: int, columns: int, level: int, height: int, width: int, device: torch.device) -> Tensor:
    """[P, 4]: center x and y, width and height of each place of a scale, as fractions of the picture."""
    y, x = torch.meshgrid(torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij")
    centers = torch.stack([(x + 0.5) * STEPS[level] / width, (y + 0.5) * STEPS[level] / height], dim=-1).flatten(0, 1)
    return torch.cat([centers, torch.tensor([SIDES[level] / width, SIDES[level] / height], device=device).expand_as(centers)], dim=1)


def decode(moves_P4: Tensor, places_P4: Tensor) -> Tensor:
    """Boxes that the network's moves make of the places."""
    center = places_P4[:, :2] + 0.1 * moves_P4[:, :2] * places_P4[:, 2:]
    size = places_P4[:, 2:] * (0.2 * moves_P4[:, 2:]).exp()
    return torch.cat([center - size / 2, center + size / 2], dim=1)


@torch.no_grad()
def detect_faces(model: S3FD, frame_HWC: np.ndarray, device: torch.device, scale: float = SCALE, least: float = LEAST_SCORE) -> np.ndarray:
    """Boxes [faces, 4] in pixels of a uint8 frame, the surest first."""
    height, width = frame_HWC.shape[:2]
    picture = torch.from_numpy(frame_HWC).to(device).permute(2, 0, 1)[None].float()
    scale = max(scale, LEAST_SIDE / min(height, width))
    size = (round(height * scale), round(width * scale))
    small = F.interpolate(picture, size=size, mode="bilinear", align_corners=False).add(0.5).floor()  # halves up, as OpenCV
    boxes_P4, scores_P = model(small - torch.tensor(MEAN, device=device)[:, None, None])
    sure = scores_P > least
    order = scores_P[sure].argsort(descending=True)
    boxes = (boxes_P4[sure][order].cpu() * torch.tensor([width, height, width, height])).double().numpy()
    for overlap in OVERLAPS:
        boxes = suppress(boxes, overlap)
    return boxes


def suppress(boxes_N4: np.ndarray, overlap: float) -> np.ndarray:
    """Leave out boxes that overlap a better one by more than this; the best come first."""
    kept: list[np.ndarray] = []
    for box in boxes_N4:
        if all(intersection_over_union(box, other) <= overlap for other in kept):
            kept.append(box)
    return np.array(kept).reshape(-1, 4)


def intersection_over_union(a_4: np.ndarray, b_4: np.ndarray) -> float:
    width, height = (max(0.0, min(a_4[i + 2], b_4[i + 2]) - max(a_4[i], b_4[i])) for i in (0, 1))
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a_4, b_4))
    return width * height / (areas - width * height) if width * height else 0.0


def load_s3fd(state: Mapping[str, Tensor]) -> S3FD:
    """S3FD with published weights. ValueError for others."""
    model = S3FD()
    try:
        model.load_state_dict(dict(state))
    except RuntimeError as error:
        raise ValueError(f"these are no weights of S3FD ({str(error).splitlines()[-1].strip()}); take sfd_face.pth") from None
    return model.eval()
