"""Eyes: white, iris, pupil and the cornea that mirrors the light.

Axes: P pixels. The eye looks along +z of its own frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample, normalize

from livetalk_core.talker.heads.person import Person
from livetalk_core.talker.heads.zones import step

IRIS = 0.425
"""Sine of the angle between the middle of the iris and its rim."""
WHITE = (0.47, 0.42, 0.395)
BULGE = 0.75
"""How much steeper the cornea is than the ball."""


@dataclass(frozen=True, kw_only=True)
class EyePixels:
    color_P3: Tensor
    normal_P3: Tensor
    """Of the ball, for diffuse light."""
    mirror_P3: Tensor
    """Of the cornea, for what it mirrors."""


def iris_texture(person: Person, around: int = 256, out: int = 48) -> Tensor:
    """[3, out, around]: fibers from the pupil to the rim."""
    rough = torch.as_tensor(np.random.default_rng([person.seed, 31]).standard_normal((1, 2, 8, around // 2)), dtype=torch.float32)
    fibers = torch.nn.functional.interpolate(torch.cat([rough, rough[..., :1]], -1), (out, around), mode="bilinear", align_corners=True)[0]
    far = torch.linspace(0, 1, out)[:, None]
    collar = torch.exp(-(((far - 0.30) / 0.12) ** 2))
    light = torch.exp(0.38 * fibers[0]) * (0.75 + 0.55 * collar + 0.25 * far)
    base = torch.tensor(person.iris)
    warm = base * torch.tensor((1.5, 1.05, 0.6))
    mixed = base[:, None, None] + (warm - base)[:, None, None] * (collar * (0.6 + 0.4 * fibers[1])).clamp(0, 1)
    rim = 1 - 0.72 * step(far, 0.72, 1.0)
    return mixed * light * rim


def see_eye(points_P3: Tensor, rays_P3: Tensor, center_3: Tensor, radius: float, look_33: Tensor, iris: Tensor, pupil: float) -> EyePixels:
    """`points` on the mesh's eye, `rays` from the camera to them; the ball is met exactly. `look` turns +z to where the eye looks."""
    toward = center_3 - (points_P3 - rays_P3)
    direction = normalize(rays_P3, dim=1)
    near = (toward * direction).sum(1, keepdim=True)
    miss = (toward * toward).sum(1, keepdim=True) - near**2
    on = direction * (near - (radius**2 - miss).clamp(min=0).sqrt()) - toward
    normal = normalize(on, dim=1)
    own = normal @ look_33
    out = own[:, :2].norm(dim=1)
    inside = step(out, IRIS * 1.03, IRIS * 0.95) * (own[:, 2] > 0)
    view = -(direction @ look_33)
    deep = own[:, :2] / IRIS - 0.16 * view[:, :2] * (1 - (out / IRIS) ** 2).clamp(min=0)[:, None]
    color = white_color(own, out) * (1 - inside[:, None]) + iris_color(iris, deep, pupil) * inside[:, None]
    tilt = torch.cat([own[:, :2] * BULGE * step(out, IRIS * 1.15, IRIS * 0.8)[:, None], torch.zeros_like(own[:, :1])], 1)
    return EyePixels(color_P3=color, normal_P3=normal, mirror_P3=normalize(own + tilt, dim=1) @ look_33.T)


def iris_color(iris: Tensor, at_P2: Tensor, pupil: float) -> Tensor:
    far = at_P2.norm(dim=1)
    angle = torch.atan2(at_P2[:, 1], at_P2[:, 0]) / torch.pi
    along = ((far - pupil) / (1 - pupil)).clamp(0, 1) * 2 - 1
    color = grid_sample(iris[None], torch.stack([angle, along], 1).view(1, 1, -1, 2), align_corners=True)[0, :, 0].T
    return color * step(far, pupil - 0.04, pupil + 0.05)[:, None] + 0.004


def white_color(own_P3: Tensor, out_P: Tensor) -> Tensor:
    """Whiter beside the iris, red toward the corners."""
    red = step(out_P, 0.55, 0.98)
    vein = (0.5 + 0.5 * torch.sin(23 * own_P3[:, 1] + 6 * torch.sin(9 * own_P3[:, 0] + 11 * own_P3[:, 1]))) ** 8 * step(out_P, 0.55, 0.8)
    return (
        torch.tensor(WHITE) * (1 - torch.tensor((0.10, 0.42, 0.42)) * red[:, None]) * (1 - torch.tensor((0.02, 0.16, 0.15)) * vein[:, None])
    )


def catchlight(mirrored_P3: Tensor, light_3: Tensor, size: float, square: bool) -> Tensor:
    """[P] 0 to 1: a window or a lamp of `size` radians seen in the cornea."""
    helper = torch.tensor((0.0, 1.0, 0.0))
    right = normalize(torch.linalg.cross(helper, light_3), dim=0)
    up = torch.linalg.cross(light_3, right)
    x, y, z = mirrored_P3 @ right, mirrored_P3 @ up, mirrored_P3 @ light_3
    far = torch.maximum(x.abs(), y.abs()) if square else torch.hypot(x, y)
    return step(far, size * 1.15, size * 0.85) * (z > 0)


def pupil_size(person: Person, brightness: float) -> float:
    """Share of the iris: smaller in bright light."""
    own = np.random.default_rng([person.seed, 13]).uniform(-0.05, 0.05)
    return float(np.clip(0.42 - 0.06 * brightness + own, 0.24, 0.5))
