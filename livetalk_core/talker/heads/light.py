"""Light that falls on surfaces: a main light with soft shadows, light from all around, a light from behind, and shade in hollows.

Axes: P pixels, H W the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, grid_sample, interpolate, normalize, pad

from livetalk_core.talker.heads.raster import rasterize
from livetalk_core.talker.heads.scene import Scene

MAP = 224
"""Side of the shadow map."""
REACH = 2.0
"""Half of what it covers, decimeters."""
MIDDLE = (0.0, 6.75, 0.4)
GRAZING = 0.30
"""How much a surface mirrors at its very edge: rough skin never all."""


@dataclass(frozen=True, kw_only=True)
class Shadow:
    """Mean depth from the light and its square, blurred: how likely something is in front."""

    moments_2HW: Tensor
    right_3: Tensor
    up_3: Tensor
    toward_3: Tensor

    def light(self, points_P3: Tensor, bias: float = 0.03) -> Tensor:
        """[P] share of the main light that arrives."""
        from_middle = points_P3 - torch.tensor(MIDDLE)
        x, y = from_middle @ self.right_3 / REACH, -(from_middle @ self.up_3) / REACH
        depth = -(from_middle @ self.toward_3) - bias
        grid = torch.stack([x, y], 1).view(1, 1, -1, 2)
        mean, square = grid_sample(self.moments_2HW[None], grid, align_corners=False, padding_mode="border")[0, :, 0]
        spread = (square - mean**2).clamp(min=2e-4)
        behind = (depth - mean).clamp(min=0)
        chance = spread / (spread + behind**2)
        return ((chance - 0.25) / 0.75).clamp(0, 1)


def cast_shadow(points_N3: Tensor, faces_F3: Tensor, scene: Scene) -> Shadow:
    """Sees the sitter from the main light."""
    toward = normalize(torch.tensor(scene.key_from), dim=0)
    right = normalize(torch.linalg.cross(torch.tensor((0.0, 1.0, 0.0)), toward), dim=0)
    up = torch.linalg.cross(toward, right)
    at = points_N3 - torch.tensor(MIDDLE)
    depth = -(at @ toward)
    screen = torch.stack([(at @ right / REACH + 1) * MAP / 2, (1 - at @ up / REACH) * MAP / 2, depth + 10.0], 1)
    seen = rasterize(screen, faces_F3, MAP, MAP, torch.ones(len(faces_F3), dtype=torch.bool))
    flat = torch.full((MAP * MAP,), 4.0)
    flat[seen.pixels_P] = seen.depth_P - 10.0
    image = flat.view(1, 1, MAP, MAP)
    soft = blur(torch.cat([image, image**2], 1), 0.8 + 4.2 * scene.softness)
    return Shadow(moments_2HW=soft[0], right_3=right, up_3=up, toward_3=toward)


def blur(image_1CHW: Tensor, sigma: float) -> Tensor:
    """A Gaussian, edges held."""
    reach = max(1, int(2.5 * sigma + 0.5))
    x = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (x / max(sigma, 1e-3)) ** 2)
    kernel = kernel / kernel.sum()
    channels = image_1CHW.shape[1]
    padded = pad(image_1CHW, (reach, reach, reach, reach), mode="replicate")
    across = conv2d(padded, kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
    return conv2d(across, kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)


def hollows(depth_HW: Tensor, seen_HW: Tensor, pixel: float) -> Tensor:
    """[H, W] 0 open to 1 deep: how far a pixel lies behind its surroundings, at three scales; `pixel` is its size in decimeters."""
    small = avg_pool2d(torch.stack([depth_HW * seen_HW, seen_HW])[None], 2)
    shade = torch.zeros_like(small[:, :1])
    here = small[:, :1] / small[:, 1:].clamp(min=1e-3)
    for size, weight in ((0.04, 0.35), (0.12, 0.45), (0.35, 0.35)):
        sigma = size / (2 * pixel)
        factor = max(1, int(sigma / 2.5))
        less = avg_pool2d(small, factor) if factor > 1 else small
        soft = blur(less, sigma / factor)
        mean = soft[:, :1] / soft[:, 1:].clamp(min=1e-3)
        mean = interpolate(mean, small.shape[2:], mode="bilinear", align_corners=False) if factor > 1 else mean
        shade = shade + weight * ((here - mean) / (1.1 * size)).clamp(0, 1)
    return interpolate(shade, depth_HW.shape, mode="bilinear", align_corners=False)[0, 0].clamp(0, 1)


def from_around(scene: Scene, normal_P3: Tensor) -> Tensor:
    """[P, 3]: light from the six sides, weighed by the square of the normal."""
    right, left, above, below, front, behind = torch.tensor(scene.around)
    square = normal_P3**2
    x, y, z = (normal_P3[:, k : k + 1] > 0 for k in range(3))
    return (
        square[:, :1] * torch.where(x, right, left)
        + square[:, 1:2] * torch.where(y, above, below)
        + square[:, 2:] * torch.where(z, front, behind)
    )


def glossy(normal_P3: Tensor, view_P3: Tensor, light_3: Tensor, power: float) -> Tensor:
    """[P] a normalized highlight, sharper with `power`."""
    half = normalize(view_P3 + light_3, dim=1)
    return (half * normal_P3).sum(1).clamp(min=0) ** power * (power + 8) / 25.1


def fresnel(normal_P3: Tensor, view_P3: Tensor, straight: float) -> Tensor:
    """Schlick's curve: how much is mirrored, more at grazing angles."""
    away = (1 - (normal_P3 * view_P3).sum(1).clamp(0, 1)) ** 5
    return straight + (GRAZING - straight) * away
