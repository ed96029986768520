"""A person's skin as textures: color, how it shines, and how it is bumped; painted once where each texel lies on the face.

Axes: P texels that lie on the body, H W the texture.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d

from livetalk_core.talker.heads import zones
from livetalk_core.talker.heads.anatomy import MASKS, Anatomy
from livetalk_core.talker.heads.noise import layers, make_block, noise
from livetalk_core.talker.heads.person import Person
from livetalk_core.talker.heads.raster import rasterize
from livetalk_core.talker.heads.zones import step

SIZE = 1024
TONES = torch.tensor(
    [(0.66, 0.45, 0.36), (0.55, 0.345, 0.255), (0.43, 0.245, 0.165), (0.30, 0.16, 0.10), (0.175, 0.088, 0.052), (0.078, 0.040, 0.026)]
)
"""Linear RGB from the palest to the darkest skin."""
BLOOD = torch.tensor((1.08, 0.78, 0.77))
BUMP = 0.012
"""Bumps' height scale, decimeters."""


@dataclass(frozen=True, kw_only=True)
class Skin:
    """Channels: 3 color, 1 shine, 3 slope of the bumps in space, 1 how much it is skin (and not hair roots or lips)."""

    texture_CHW: Tensor


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """Where each covered texel lies on the mesh at rest."""

    pixels_P: Tensor
    places_P3: Tensor
    masks_PC: Tensor


@lru_cache(maxsize=1)
def lay_canvas(anatomy: Anatomy) -> Canvas:
    """Made once for a mesh."""
    skin = anatomy.faces_of("skin")
    quads, uv_quads = anatomy.faces_F4[skin].astype(np.int64), anatomy.uv_faces_F4[skin].astype(np.int64)
    faces, uv_faces = (torch.as_tensor(np.concatenate([q[:, :3], q[:, [0, 2, 3]]])) for q in (quads, uv_quads))
    uv_M2 = torch.as_tensor(anatomy.uvs_M2)
    screen_M3 = torch.stack([uv_M2[:, 0] * SIZE, (1 - uv_M2[:, 1]) * SIZE, torch.ones(len(uv_M2))], 1)
    two_sided = torch.ones(len(faces), dtype=torch.bool)
    seen = rasterize(screen_M3, uv_faces, SIZE, SIZE, two_sided)
    masks = torch.as_tensor(anatomy.masks_CHW).float().div(255).flatten(1).T
    return Canvas(
        pixels_P=seen.pixels_P,
        places_P3=seen.mix(torch.as_tensor(anatomy.points_N3), faces),
        masks_PC=masks[seen.pixels_P],
    )


@lru_cache(maxsize=1)
def skin_block() -> Tensor:
    return make_block(5)


def paint_skin(anatomy: Anatomy, person: Person) -> Skin:
    """The textures of a person."""
    canvas = lay_canvas(anatomy)
    rng = np.random.default_rng([person.seed, 77])
    shift = torch.as_tensor(rng.uniform(0, 50, 3).astype(np.float32))
    places, own = canvas.places_P3, canvas.places_P3 + shift
    mask = dict(zip(MASKS, canvas.masks_PC.unbind(1), strict=True))
    color = base_color(person, places, own)
    color = paint_age(color, person, places, own)
    color = paint_spots(color, person, places, own, rng)
    color = paint_hair_roots(color, person, places, own)
    color = paint_lips(color, person, places, own, mask["lips"])
    color = paint_eyes(color, person, places, mask["eyelids"])
    inner = mask["inside_mouth"][:, None]
    color = color * (1 - inner) + torch.tensor((0.20, 0.040, 0.036)) * inner
    shine = paint_shine(person, places, own, mask["lips"], mask["inside_mouth"])
    slope = bump_slope(person, places, own, mask["lips"])
    flat = torch.cat([color.clamp(0.003, 0.95), shine[:, None], slope, 1 - mask["lips"][:, None]], 1)
    return Skin(texture_CHW=spread(flat, canvas.pixels_P))


def tone(person: Person) -> Tensor:
    """Linear RGB of the bare skin."""
    at = person.melanin**0.8 * (len(TONES) - 1)
    low = min(int(at), len(TONES) - 2)
    return TONES[low] + (TONES[low + 1] - TONES[low]) * (at - low)


def base_color(person: Person, places: Tensor, own: Tensor) -> Tensor:
    """Blotches of blood and melanin; red cheeks, nose, ears and chin; dark under the eyes."""
    block = skin_block()
    blotch = layers(block, own, 5.0, 4)
    fine = layers(block, own, 40.0, 3)
    red = 0.55 * zones.spot(places, (0.46, 6.98, 1.25), 0.30) + 0.75 * zones.spot(places, (0.0, 6.95, 1.62), 0.18)
    red = red + 0.3 * zones.spot(places, (0.0, 6.33, 1.5), 0.2) + 0.7 * step(places[:, 0].abs(), 0.74, 0.85) + 0.18 * blotch[:, 0]
    red = (red + 0.12) * (0.35 + 0.9 * person.redness) * (1 - 0.55 * person.melanin)
    color = tone(person) * (1 + red[:, None].clamp(-0.5, 1.1) * (BLOOD - 1))
    color = color * torch.exp(0.035 * blotch[:, 1:2] + 0.045 * fine[:, :1] + 0.03 * fine[:, 1:2])
    under = zones.spot(places, (0.29, 7.13, 1.36), 0.13) * (0.10 + 0.16 * person.roughness)
    pale = zones.spot(places, (0.0, 7.75, 1.5), 0.35) * 0.05
    return color * (1 - under[:, None] * torch.tensor((0.8, 1.0, 0.75))) * (1 + pale[:, None])


def paint_age(color: Tensor, person: Person, places: Tensor, own: Tensor) -> Tensor:
    """Age spots, uneven tone and the darkness of wrinkles."""
    old = float(np.clip((person.age - 35) / 45, 0, 1))
    if old == 0:
        return color
    spots = step(noise(skin_block(), own, 13.0, 3)[:, 0] + 0.4 * noise(skin_block(), own, 26.0, 2)[:, 1], 1.25, 1.7) * old
    lines = wrinkles(person, places, own)
    return color * (1 - 0.12 * spots[:, None] * torch.tensor((0.7, 0.95, 1.0))) * (1 - 0.30 * lines[:, None] * torch.tensor((0.75, 1, 1)))


def wrinkles(person: Person, places: Tensor, own: Tensor) -> Tensor:
    """0 to about 1 in the furrows: forehead, crow's feet, from nose to mouth, under the eyes."""
    old = float(np.clip((person.age - 28) / 50, 0, 1))
    x, y, z = places[:, 0].abs(), places[:, 1], places[:, 2]
    wave = 0.10 * noise(skin_block(), own, 3.0, 1)[:, 0] + 0.05 * noise(skin_block(), own, 9.0, 4)[:, 0]
    broken = step(noise(skin_block(), own, 5.0, 2)[:, 1], -0.9, 0.5)
    forehead = furrow((y + 0.35 * wave + 0.08 * x) * 13.0) * step(y, 7.56, 7.68) * step(y, 8.02, 7.9) * step(x, 0.62, 0.4) * broken
    angle = torch.atan2(y - 7.27, (x - 0.42).clamp(min=1e-3))
    far = torch.hypot(x - 0.42, y - 7.27)
    feet = furrow(angle * 4.2 + wave) * step(far, 0.07, 0.12) * step(far, 0.27, 0.14) * (x > 0.45) * (z > 0.6)
    bags = furrow((torch.hypot(x - 0.3, 1.5 * (y - 7.32)) + 0.15 * wave) * 12.0) * zones.spot(places, (0.3, 7.1, 1.37), 0.12)
    fold = (
        torch.exp(-(((x - (0.22 + 0.28 * (6.88 - y)) + 0.1 * wave) / 0.018) ** 2)) * step(y, 6.52, 6.62) * step(y, 6.95, 6.85) * (z > 1.1)
    )
    return old * (0.8 * forehead + 0.75 * feet + 0.5 * bags + 0.55 * fold)


def furrow(phase: Tensor) -> Tensor:
    """Narrow lines at whole numbers."""
    return torch.exp(-(((torch.remainder(phase, 1.0) - 0.5) / 0.10) ** 2))


def paint_spots(color: Tensor, person: Person, places: Tensor, own: Tensor, rng: np.random.Generator) -> Tensor:
    """Freckles over nose and cheeks, and a few moles and blemishes anywhere."""
    if person.freckles:
        zone = (zones.spot(places, (0.3, 7.0, 1.4), 0.42) + 0.7 * zones.spot(places, (0.0, 7.0, 1.6), 0.3) + 0.25).clamp(max=1)
        dots = step(noise(skin_block(), own, 24.0, 6)[:, 0] + 0.5 * noise(skin_block(), own, 47.0, 7)[:, 1], 0.95, 1.45)
        color = color * (1 - 0.42 * person.freckles * (dots * zone)[:, None] * torch.tensor((0.55, 0.85, 1.0)))
    for _ in range(int(rng.integers(1, 6))):
        turn, up, size = rng.uniform(-1.1, 1.1), rng.uniform(-1.0, 0.5), rng.uniform(0.006, 0.013)
        center = torch.tensor((0.75 * np.sin(turn), 7.15 + 0.8 * up, 0.75 + 0.75 * np.cos(turn)), dtype=torch.float32)
        on_face = places[(places - center).pow(2).sum(1).argmin()]
        dot = step((places - on_face).pow(2).sum(1).sqrt(), size * 1.3, size * 0.5)[:, None]
        tint = torch.tensor((0.55, 0.45, 0.42)) if rng.random() < 0.5 else torch.tensor((0.95, 0.68, 0.66))
        color = color * (1 - dot * (1 - tint))
    return color


def paint_hair_roots(color: Tensor, person: Person, places: Tensor, own: Tensor) -> Tensor:
    """Stubble, the shade under brows and hair: what hairs too short for the mesh look like."""
    dark = torch.tensor(person.hair) * 0.5 / (1 + 2 * max(person.hair))
    grain = noise(skin_block(), own, 90.0, 11)[:, 0] + 0.7 * noise(skin_block(), own, 140.0, 12)[:, 1]
    dots = step(grain, 0.0, 0.9)
    brow = zones.brow(places, person.brow) * (0.18 + 0.40 * person.brow) * (0.6 + 0.4 * dots)
    color = color + (dark - color) * brow[:, None]
    shade = {"none": 0.10 if person.masculine > 0.5 and person.age > 17 else 0.0, "stubble": 0.62}.get(person.beard, 0.55)
    where = {"moustache": zones.moustache, "goatee": zones.goatee}.get(person.beard, zones.beard)(places)
    rough = shade * where * (0.35 + 0.65 * dots)
    color = color + (dark - color) * rough.clamp(0, 0.9)[:, None]
    receding = 1.0 if person.hair_cut == "receding" else 0.0
    root = step(zones.above_hairline(places, person.hairline, receding) + 3.0 * grain, -2.0, 7.0)
    root = root * {"bald": 0.22, "buzz": 0.85}.get(person.hair_cut, 1.0)
    cover = 0.55 + 0.45 * dots if person.hair_cut in ("bald", "buzz") else step(root, 0.0, 0.5)
    return color + (dark - color) * (root * cover)[:, None]


def paint_lips(color: Tensor, person: Person, places: Tensor, own: Tensor, lips: Tensor) -> Tensor:
    """Lips are skin with more blood; lipstick covers them."""
    hue = torch.tensor((0.98, 0.50 + 0.1 * person.lip_hue, 0.54)) if person.melanin < 0.6 else torch.tensor((0.98, 0.72, 0.76))
    natural = tone(person) * hue * (0.92 - 0.12 * person.melanin)
    stick = torch.tensor((0.42, 0.055 + 0.06 * person.lip_hue, 0.075 + 0.05 * person.lip_hue))
    lip = natural + (stick - natural) * 0.75 * person.makeup
    crease = noise(skin_block(), own * torch.tensor((1.0, 0.25, 0.4)), 55.0, 5)[:, :1]
    lip = lip * (1 + 0.08 * crease) * (1 + 0.05 * noise(skin_block(), own, 10.0, 2)[:, 1:2])
    x, y, z = places[:, 0].abs(), places[:, 1], places[:, 2]
    seam = torch.exp(-(((y - 6.606) / 0.009) ** 2)) * (x < 0.27) * (z > 1.36)
    upper = step(y, 6.60, 6.64)
    lip = lip * (1 - 0.16 * upper[:, None]) * (1 - 0.55 * seam[:, None])
    edge = (lips * (0.80 + 0.2 * person.makeup))[:, None]
    return color + (lip - color) * edge


def paint_eyes(color: Tensor, person: Person, places: Tensor, lids: Tensor) -> Tensor:
    """Lids a little darker and redder, red inner corners, dark lash roots, eye shadow."""
    x, y, z = places[:, 0].abs(), places[:, 1], places[:, 2]
    oval = ((x - 0.313) / 0.162) ** 2 + ((y - 7.285) / 0.062) ** 2
    rim = step((oval - 1.0).abs(), 0.55, 0.1) * (z > 1.15)
    upper = step(y, 7.27, 7.31)
    dark = rim * upper * (0.35 + 0.45 * person.makeup)
    wet = step(oval, 1.05, 0.8) * (z > 1.1) * (z < 1.42)
    shade = zones.spot(places, (0.33, 7.40, 1.38), 0.10) * (0.12 + 0.25 * person.makeup)
    color = color * (1 - shade[:, None] * torch.tensor((0.75, 1.0, 0.95)))
    color = color * (1 - 0.72 * dark[:, None])
    pink = torch.tensor((0.50, 0.22, 0.19)) * (0.55 + 0.45 * (1 - person.melanin))
    return color + (pink - color) * (0.55 * wet * (1 - 0.6 * upper))[:, None]


def paint_shine(person: Person, places: Tensor, own: Tensor, lips: Tensor, inner: Tensor) -> Tensor:
    """How strongly the surface reflects, 0 to about 1.5: most on nose, forehead and lips, broken by pores."""
    oily = 0.55 * zones.spot(places, (0.0, 7.0, 1.6), 0.26) + 0.45 * zones.spot(places, (0.0, 7.75, 1.48), 0.4)
    oily = oily + 0.3 * zones.spot(places, (0.42, 7.1, 1.3), 0.22) + 0.25 * zones.spot(places, (0.0, 6.32, 1.5), 0.16)
    pores = noise(skin_block(), own, 60.0, 8)[:, 0]
    shine = (0.38 + oily) * (1.25 - 0.9 * person.roughness) * (1 + 0.22 * pores)
    shine = shine * (
        1 - 0.9 * step(zones.above_hairline(places, person.hairline), 0.0, 4.0) * (person.hair_cut not in ("bald", "receding"))
    )
    return (shine + (0.6 - shine) * lips + 0.8 * inner).clamp(0.03, 2)


def bump_slope(person: Person, places: Tensor, own: Tensor, lips: Tensor) -> Tensor:
    """[P, 3]: the gradient of the bumps' height in space, by differences."""
    tiny = 0.004
    here = height(person, places, own, lips)
    slopes = []
    for axis in range(3):
        shift = torch.zeros(3)
        shift[axis] = tiny
        slopes.append((height(person, places + shift, own + shift, lips) - here) / tiny)
    return (BUMP * torch.stack(slopes, 1)).clamp(-1.2, 1.2)


def height(person: Person, places: Tensor, own: Tensor, lips: Tensor) -> Tensor:
    """Pores, coarse unevenness, lip creases and wrinkles, in BUMPs."""
    block = skin_block()
    pores = 0.16 * noise(block, own, 70.0, 9)[:, 0] + 0.22 * noise(block, own, 33.0, 10)[:, 1]
    coarse = 0.04 * noise(block, own, 12.0, 3)[:, 2] * (0.5 + person.age / 60)
    crease = 0.35 * noise(block, own * torch.tensor((1.0, 0.22, 0.4)), 48.0, 5)[:, 0]
    skin = (0.25 + 0.45 * person.roughness) * pores + coarse - 1.5 * wrinkles(person, places, own)
    return skin + (crease - skin) * lips


def spread(values_PC: Tensor, pixels_P: Tensor, rounds: int = 4) -> Tensor:
    """[C, SIZE, SIZE]: the texels in place, and what lies about them filled from their neighbors, so that seams do not show."""
    whole = torch.zeros(SIZE * SIZE, values_PC.shape[1] + 1)
    whole[pixels_P] = torch.cat([values_PC, torch.ones(len(values_PC), 1)], 1)
    image = whole.T.reshape(1, -1, SIZE, SIZE)
    for _ in range(rounds):
        mean = avg_pool2d(image, 3, 1, 1)
        filled = mean / mean[:, -1:].clamp(min=1e-4)
        image = torch.where(image[:, -1:] > 0, image, filled * (max_pool2d(image[:, -1:], 3, 1, 1) > 0))
    return image[0, :-1].contiguous()
