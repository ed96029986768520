"""A posed sitter in a scene becomes a picture in linear light, seen with two by two rays to each pixel.

Axes: P pixels that see the sitter, H W the finer picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, normalize

from livetalk_core.talker.heads import surfaces
from livetalk_core.talker.heads.extras import HAIR
from livetalk_core.talker.heads.light import blur, cast_shadow, hollows
from livetalk_core.talker.heads.raster import Seen, rasterize
from livetalk_core.talker.heads.scene import Scene
from livetalk_core.talker.heads.sitter import Posed, Sitter

FINER = 2
FACE_MIDDLE = (0.0, 7.08, 1.2)
SCATTER = ((0.026, (0.8, 0.35, 0.2)), (0.009, (1.0, 1.0, 1.0)))
"""Light wanders in skin: how far, decimeters, and how much of each color."""


@dataclass(frozen=True, kw_only=True)
class Camera:
    """Where a point is seen: x, y in pixels of the finer picture, and how far away."""

    focal: float
    center: tuple[float, float]
    eye_3: Tensor

    def project(self, points_N3: Tensor) -> Tensor:
        from_eye = points_N3 - self.eye_3
        depth = -from_eye[:, 2]
        return torch.stack(
            [self.center[0] + self.focal * from_eye[:, 0] / depth, self.center[1] - self.focal * from_eye[:, 1] / depth, depth], 1
        )


def place_camera(scene: Scene, side: int, face_height: float) -> Camera:
    """The camera of a scene, for a picture of `side` pixels."""
    middle = torch.tensor(FACE_MIDDLE)
    eye = middle + torch.tensor((0.0, 0.0, scene.distance))
    focal = scene.share * side * scene.distance / face_height
    return Camera(focal=focal, center=(side * (0.5 + scene.aim[0]), side * (0.5 - scene.aim[1])), eye_3=eye)


def expose_sitter(sitter: Sitter, posed: Posed, bent_N3: Tensor, scene: Scene, size: int) -> Tensor:
    """[4, size, size]: linear RGB of the sitter before black, and how much of each pixel it fills."""
    side = size * FINER
    camera = place_camera(scene, side, sitter.face.height)
    screen = camera.project(posed.points_N3)
    seen = rasterize(screen, sitter.faces_F3, side, side, sitter.material_F >= HAIR)
    image = torch.zeros(side * side, 4)
    image[seen.pixels_P] = torch.cat([shade(sitter, posed, bent_N3, scene, seen, camera, side), torch.ones(len(seen.pixels_P), 1)], 1)
    return image.T.reshape(4, side, side)


def shade(sitter: Sitter, posed: Posed, bent_N3: Tensor, scene: Scene, seen: Seen, camera: Camera, side: int) -> Tensor:
    """[P, 3]."""
    points = seen.mix(posed.points_N3, sitter.faces_F3)
    surface = surfaces.describe(sitter, posed, bent_N3, scene, seen, points, normalize(camera.eye_3 - points, dim=1), camera.eye_3)
    shadow = cast_shadow(posed.points_N3, sitter.faces_F3[surfaces.shadow_casters(sitter)], scene)
    depth, covered = torch.zeros(2, side * side)
    depth[seen.pixels_P], covered[seen.pixels_P] = seen.depth_P, 1.0
    pixel = sitter.face.height / (scene.share * side)
    deep = hollows(depth.view(side, side), covered.view(side, side), pixel).view(-1)[seen.pixels_P]
    light = surfaces.lit(surface, scene, shadow, deep, points)
    light = wander(light, surface.living_P, seen.pixels_P, side, pixel)
    return surface.color_P3 * light + surfaces.mirrored(surface, scene, shadow, deep, points)


def wander(light_P3: Tensor, living_P: Tensor, pixels_P: Tensor, side: int, pixel: float) -> Tensor:
    """Light that entered living skin leaves it a little farther on, red farthest."""
    image = torch.zeros(side * side, 4)
    image[pixels_P] = torch.cat([light_P3 * living_P[:, None], living_P[:, None]], 1)
    image = avg_pool2d(image.T.reshape(1, 4, side, side), 2)
    mixed = light_P3
    for far, share in SCATTER:
        soft = interpolate(blur(image, far / (2 * pixel)), scale_factor=2, mode="bilinear", align_corners=False)
        soft = soft[0].view(4, -1)[:, pixels_P].T
        spread = soft[:, :3] / soft[:, 3:].clamp(min=1e-3)
        mixed = mixed + (spread - mixed) * torch.tensor(share) * living_P[:, None]
    return mixed
