"""What each pixel's surface is like, and how it answers to light: skin, cloth, eyes, teeth, tongue, hair, glasses.

Axes: P pixels, K pixels of one material.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, normalize

from livetalk_core.talker.heads import clothes, eyeball
from livetalk_core.talker.heads.anatomy import LIDS_UPPER, LIP_LOWER, LIP_UPPER
from livetalk_core.talker.heads.extras import CLOTH, GLASSES, HAIR
from livetalk_core.talker.heads.light import Shadow, fresnel, from_around, glossy
from livetalk_core.talker.heads.raster import Seen
from livetalk_core.talker.heads.scene import Scene
from livetalk_core.talker.heads.sitter import LEFT_EYE, LOWER_TEETH, RIGHT_EYE, SKIN, TONGUE, UPPER_TEETH, Posed, Sitter
from livetalk_core.talker.heads.teeth import tooth_color
from livetalk_core.talker.heads.zones import step

INSIDE_MOUTH = 2
OFF_SURFACE = 0.05
"""Shadows are looked up this far above a surface, decimeters, so that it does not shade itself."""
WRAP = (0.22, 0.12, 0.08)
"""How far light reaches around living skin, by color."""
TONGUE_COLOR = (0.42, 0.135, 0.13)


@dataclass(kw_only=True)
class Surface:
    """One row for each pixel."""

    color_P3: Tensor
    normal_P3: Tensor
    mirror_P3: Tensor
    """The normal that mirrors: not the same on eyes."""
    view_P3: Tensor
    along_P3: Tensor
    """Direction of hair, 0 elsewhere."""
    shine_P: Tensor
    sharp_P: Tensor
    """0 a broad gloss, 1 a wet one."""
    living_P: Tensor
    """1 where light wanders in skin."""
    open_P: Tensor
    """0 to 1: how much light gets there at all (inside the mouth, under lids, deep in hair)."""
    hair_P: Tensor
    eye_P: Tensor


def shadow_casters(sitter: Sitter) -> Tensor:
    """Numbers of the triangles that throw shadows: all of the mesh, every second of hair."""
    number = torch.arange(len(sitter.material_F))
    return torch.nonzero((sitter.material_F < HAIR) | (number % 4 < 2))[:, 0]


def describe(
    sitter: Sitter, posed: Posed, bent_N3: Tensor, scene: Scene, seen: Seen, points_P3: Tensor, view_P3: Tensor, eye_3: Tensor
) -> Surface:
    """All pixels' surfaces."""
    count = len(points_P3)
    material = sitter.material_F[seen.faces_P]
    normal = normalize(seen.mix(posed.normals_N3, sitter.faces_F3), dim=1)
    surface = Surface(
        color_P3=torch.full((count, 3), 0.2), normal_P3=normal, mirror_P3=normal.clone(), view_P3=view_P3, along_P3=torch.zeros(count, 3),
        shine_P=torch.zeros(count), sharp_P=torch.zeros(count), living_P=torch.zeros(count), open_P=torch.ones(count),
        hair_P=torch.zeros(count), eye_P=torch.zeros(count),
    )  # fmt: skip
    base = seen.mix(sitter.base_N3, sitter.faces_F3)
    mouth = mouth_openness(sitter, bent_N3, posed, points_P3)
    for number, tell in ((SKIN, tell_skin), (HAIR, tell_hair), (GLASSES, tell_glasses), (CLOTH, tell_collar)):
        chosen = torch.nonzero(material == number)[:, 0]
        if len(chosen):
            tell(surface, chosen, sitter, posed, seen, base, mouth)
    tell_mouth(surface, material, sitter, base, mouth)
    for number in (LEFT_EYE, RIGHT_EYE):
        chosen = torch.nonzero(material == number)[:, 0]
        if len(chosen):
            tell_eye(surface, chosen, number, sitter, posed, scene, points_P3, eye_3)
    return surface


def mouth_openness(sitter: Sitter, bent_N3: Tensor, posed: Posed, points_P3: Tensor) -> Tensor:
    """[P] how much light reaches a place inside the mouth: less the deeper and the more the lips are shut."""
    upper, lower = (sitter.anatomy.place[point] for point in (LIP_UPPER, LIP_LOWER))
    gap = (bent_N3[upper, 1] - bent_N3[lower, 1]).clamp(min=0)
    middle = (posed.points_N3[upper] + posed.points_N3[lower]) / 2
    inward = (middle - points_P3) @ posed.turn_33[:, 2]
    height = (points_P3 - middle) @ posed.turn_33[:, 1]
    lit = torch.exp(-(inward - 0.07).clamp(min=0) / (0.11 + 0.7 * gap))
    return (0.05 + 0.95 * lit) * (0.55 + 0.45 * step(gap, 0.0, 0.12)) * (1 - 0.2 * step(height, 0.02, 0.12))


def tell_skin(surface: Surface, chosen: Tensor, sitter: Sitter, posed: Posed, seen: Seen, base_P3: Tensor, mouth_P: Tensor) -> None:
    faces = seen.faces_P[chosen]
    at = (sitter.uv_F32[faces] * seen.weights_P3[chosen, :, None]).sum(1)
    paint = grid_sample(sitter.skin.texture_CHW[None], at.view(1, 1, -1, 2), align_corners=False)[0, :, 0].T
    place = base_P3[chosen]
    normal = surface.normal_P3[chosen]
    into = clothes.below_neckline(place, sitter.person.clothes)
    cloth = (step(into, -0.004, 0.004) * (place[:, 1] < 6.25))[:, None]
    slope = paint[:, 4:7] @ posed.turn_33.T * (1 - cloth) + clothes.fold_slope(place) * cloth
    bumped = normalize(normal - slope + normal * (slope * normal).sum(1, keepdim=True), dim=1)
    surface.normal_P3[chosen] = bumped
    surface.mirror_P3[chosen] = bumped
    surface.color_P3[chosen] = paint[:, :3] * (1 - cloth) + clothes.cloth_color(place, sitter.person) * cloth
    inner = inside_mouth(sitter, seen, chosen)
    surface.shine_P[chosen] = paint[:, 3] * (1 - cloth[:, 0]) * (1 - 0.9 * inner)
    surface.sharp_P[chosen] = 0.30 * (1 - paint[:, 7]) + 0.6 * inner
    surface.living_P[chosen] = 1 - cloth[:, 0]
    collar = 1 - 0.45 * torch.exp(-(((into + 0.03) / 0.05).clamp(-9, 9) ** 2)) * (1 - cloth[:, 0]) * (place[:, 1] < 6.25)
    surface.open_P[chosen] = collar * (1 - inner + inner * mouth_P[chosen])


def inside_mouth(sitter: Sitter, seen: Seen, chosen: Tensor) -> Tensor:
    """[K] 0 to 1."""
    mask = torch.as_tensor(sitter.anatomy.masks_NC[:, INSIDE_MOUTH]).float()
    corners = sitter.faces_F3[seen.faces_P[chosen]]
    return (mask[corners] * seen.weights_P3[chosen]).sum(1)


def tell_mouth(surface: Surface, material: Tensor, sitter: Sitter, base_P3: Tensor, mouth_P: Tensor) -> None:
    for number in (UPPER_TEETH, LOWER_TEETH, TONGUE):
        chosen = torch.nonzero(material == number)[:, 0]
        place = base_P3[chosen]
        if number == TONGUE:
            surface.color_P3[chosen] = torch.tensor(TONGUE_COLOR) * (1 - 0.25 * torch.exp(-((place[:, :1] / 0.02) ** 2)))
        else:
            surface.color_P3[chosen] = tooth_color(place, number == UPPER_TEETH, sitter.person)
        surface.shine_P[chosen] = 0.35
        surface.sharp_P[chosen] = 0.8
        surface.open_P[chosen] = mouth_P[chosen] ** (1.0 if number == TONGUE else 0.6) * 0.85
        surface.living_P[chosen] = 1.0 if number == TONGUE else 0.0


def tell_hair(surface: Surface, chosen: Tensor, sitter: Sitter, posed: Posed, seen: Seen, base_P3: Tensor, mouth_P: Tensor) -> None:
    count = len(posed.points_N3) - len(sitter.extra)
    corners = sitter.faces_F3[seen.faces_P[chosen]]
    weights = seen.weights_P3[chosen, :, None]
    own = corners - count
    surface.color_P3[chosen] = (sitter.extra.color_N3[own] * weights).sum(1)
    surface.open_P[chosen] = (sitter.extra.shade_N[own] * weights[..., 0]).sum(1)
    surface.along_P3[chosen] = normalize((posed.along_N3[corners] * weights).sum(1), dim=1)
    surface.hair_P[chosen] = 1.0


def tell_glasses(surface: Surface, chosen: Tensor, sitter: Sitter, posed: Posed, seen: Seen, base_P3: Tensor, mouth_P: Tensor) -> None:
    own = sitter.faces_F3[seen.faces_P[chosen], 0] - (len(posed.points_N3) - len(sitter.extra))
    surface.color_P3[chosen] = sitter.extra.color_N3[own]
    surface.shine_P[chosen] = 1.4
    surface.sharp_P[chosen] = 0.9


def tell_collar(surface: Surface, chosen: Tensor, sitter: Sitter, posed: Posed, seen: Seen, base_P3: Tensor, mouth_P: Tensor) -> None:
    own = sitter.faces_F3[seen.faces_P[chosen], 0] - (len(posed.points_N3) - len(sitter.extra))
    surface.color_P3[chosen] = sitter.extra.color_N3[own] * clothes.weave(base_P3[chosen])


def tell_eye(
    surface: Surface, chosen: Tensor, number: int, sitter: Sitter, posed: Posed, scene: Scene, points_P3: Tensor, eye_3: Tensor
) -> None:
    name, side = (("left_eye", "Left"), ("right_eye", "Right"))[number - LEFT_EYE]
    ball = torch.as_tensor(sitter.anatomy.points_of(name))
    points = posed.points_N3[ball]
    center = points.mean(0)
    radius = float((points - center).norm(dim=1).mean()) * 1.015
    rest = torch.as_tensor(sitter.face.points_N3[ball.numpy()])
    look = looking(rest - rest.mean(0), points - center)
    brightness = float(torch.tensor(scene.key).mean())
    pupil = eyeball.pupil_size(sitter.person, brightness)
    pixels = eyeball.see_eye(points_P3[chosen], points_P3[chosen] - eye_3, center, radius, look, eyeball.iris_texture(sitter.person), pupil)
    surface.color_P3[chosen] = pixels.color_P3
    surface.normal_P3[chosen] = normalize(pixels.normal_P3 + 0.4 * posed.turn_33[:, 2], dim=1)
    surface.mirror_P3[chosen] = pixels.mirror_P3
    surface.eye_P[chosen] = 1.0
    lids = posed.points_N3[[sitter.anatomy.place[point] for point in LIDS_UPPER[side]]].mean(0)
    below = (lids - points_P3[chosen]) @ posed.turn_33[:, 1]
    aside = ((points_P3[chosen] - center) @ posed.turn_33[:, 0]).abs() / radius
    surface.open_P[chosen] = (1 - 0.72 * torch.exp(-(below.clamp(min=0) / 0.028))) * (1 - 0.55 * step(aside, 0.45, 1.05))


def looking(rest_N3: Tensor, now_N3: Tensor) -> Tensor:
    """The turn that takes an eye from rest to now."""
    u, _, v = torch.linalg.svd(rest_N3.T @ now_N3)
    return v.T @ u.T


def lit(surface: Surface, scene: Scene, shadow: Shadow, deep_P: Tensor, points_P3: Tensor) -> Tensor:
    """[P, 3]: light that a dull surface gets."""
    key, toward = torch.tensor(scene.key), shadow.toward_3
    arrives = shadow.light(points_P3 + OFF_SURFACE * surface.normal_P3)[:, None]
    facing = (surface.normal_P3 * toward).sum(1, keepdim=True)
    wrap = torch.tensor(WRAP) * surface.living_P[:, None] + 0.25 * surface.eye_P[:, None]
    direct = ((facing + wrap) / (1 + wrap)).clamp(min=0)
    around = from_around(scene, surface.normal_P3) * hollow_tint(surface, deep_P)
    rim_3 = normalize(torch.tensor(scene.rim_from), dim=0)
    rim = (surface.normal_P3 @ rim_3).clamp(min=0)[:, None] * torch.tensor(scene.rim) * 0.6
    direct_hair, hair = strand_light(surface, toward), surface.hair_P[:, None]
    direct = direct * (1 - hair) + direct_hair[:, None] * hair
    open_P1 = surface.open_P[:, None]
    soft_shadow = arrives ** (1 - 0.35 * surface.living_P[:, None] * torch.tensor((1.0, 0.3, 0.1)))
    return (key * direct * soft_shadow * open_P1**0.8 + (around + rim) * open_P1) * (1 - 0.25 * deep_P[:, None] * (1 - hair))


def hollow_tint(surface: Surface, deep_P: Tensor) -> Tensor:
    """[P, 3]: shade in hollows; in skin it is red, for light bounces there."""
    left = 1 - 0.85 * deep_P[:, None]
    return left ** (1 - 0.20 * surface.living_P[:, None] * torch.tensor((1.0, 0.25, 0.1)))


def strand_light(surface: Surface, toward_3: Tensor) -> Tensor:
    """[P] Kajiya's diffuse for a thin hair, faded on the side away from the light."""
    along = (surface.along_P3 @ toward_3).clamp(-1, 1)
    side = ((surface.normal_P3 @ toward_3) * 0.6 + 0.45).clamp(0, 1)
    return (1 - along**2).sqrt() * side


def mirrored(surface: Surface, scene: Scene, shadow: Shadow, deep_P: Tensor, points_P3: Tensor) -> Tensor:
    """[P, 3]: what surfaces mirror: gloss of skin, highlights of hair, catchlights of eyes."""
    key, toward = torch.tensor(scene.key), shadow.toward_3
    arrives = (shadow.light(points_P3 + OFF_SURFACE * surface.normal_P3) * surface.open_P)[:, None]
    normal, view = surface.mirror_P3, surface.view_P3
    broad = 12 - 5 * scene.softness
    gloss = glossy(normal, view, toward, broad) * (1 - surface.sharp_P) + 0.55 * glossy(normal, view, toward, 55 - 30 * scene.softness) * (
        0.35 + surface.sharp_P
    )
    facing = (normal @ toward).clamp(min=0).sqrt()
    skin = (surface.shine_P * gloss * facing * fresnel(normal, view, 0.035))[:, None] * key * arrives * 1.15
    away = 2 * (normal * view).sum(1, keepdim=True) * normal - view
    sheen = (
        (surface.shine_P * fresnel(normal, view, 0.03) * (1 - deep_P) * surface.open_P)[:, None]
        * from_around(scene, normalize(away, dim=1))
        * 0.75
    )
    rim = (
        (surface.shine_P * glossy(normal, view, normalize(torch.tensor(scene.rim_from), dim=0), 14))[:, None]
        * torch.tensor(scene.rim)
        * 0.06
    )
    return (
        (skin + sheen + rim) * (1 - surface.eye_P)[:, None]
        + strand_gloss(surface, scene, toward, arrives)
        + eye_mirror(surface, scene, toward, away)
    )


def strand_gloss(surface: Surface, scene: Scene, toward_3: Tensor, arrives_P1: Tensor) -> Tensor:
    """Two highlights of hair: one white toward the root, one in the hair's color toward the tip; and light through it from behind."""
    out = surface.normal_P3
    total = torch.zeros_like(surface.color_P3)
    white = torch.full((1, 3), 0.022)
    for shift, power, tint in ((-0.10, 45.0, white), (0.14, 14.0, 0.30 * surface.color_P3 / (1 + 2 * surface.color_P3))):
        along = normalize(surface.along_P3 + shift * out, dim=1)
        half = normalize(surface.view_P3 + toward_3, dim=1)
        total = total + tint * ((1 - ((along * half).sum(1)) ** 2).clamp(min=0).sqrt() ** power)[:, None]
    lit_side = ((out @ toward_3) * 0.8 + 0.3).clamp(0, 1)[:, None]
    rim = normalize(torch.tensor(scene.rim_from), dim=0)
    edge = (1 - (out * surface.view_P3).sum(1).abs()).clamp(0, 1) ** 2 * (surface.along_P3 @ rim).abs().neg().add(1)
    back = (0.05 + 0.5 * surface.color_P3) * edge[:, None] * torch.tensor(scene.rim) * ((out @ rim) > -0.3)[:, None]
    return (total * torch.tensor(scene.key) * arrives_P1 * lit_side * 2.2 + back) * surface.hair_P[:, None]


def eye_mirror(surface: Surface, scene: Scene, toward_3: Tensor, away_P3: Tensor) -> Tensor:
    """The main light and the surroundings in the cornea."""
    away = normalize(away_P3, dim=1)
    size = 0.10 + 0.26 * scene.softness
    square = scene.rig in ("window", "office", "studio") and scene.seed % 3 != 0
    spot = eyeball.catchlight(away, toward_3, size, square)[:, None] * torch.tensor(scene.key) * (0.55 if scene.softness > 0.4 else 1.4)
    dim = fresnel(surface.mirror_P3, surface.view_P3, 0.03)[:, None] * from_around(scene, away)
    return (spot * surface.open_P[:, None] + dim * surface.open_P[:, None]) * surface.eye_P[:, None]
