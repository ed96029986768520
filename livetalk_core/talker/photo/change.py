"""Makes many people of few pictures: other proportions, colors, light and backgrounds.

Axes: N points, H W pixels.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from livetalk_core.talker.photo.fitted import Portrait, background_of
from livetalk_core.talker.photo.mesh import HeadFrame
from livetalk_core.talker.photo.warp import FRACTION_BITS, fixed

KNOTS = 5
"""The face's proportions change by as many random shifts in each direction, smoothed."""
OWN_BACKGROUND, CLOTHS = 0.4, 0.3
"""Shares of the clips with the picture's own background and with flags and curtains."""


def reshaped(rng: np.random.Generator, portrait: Portrait) -> Portrait:
    """The picture with its proportions changed, person and background alike."""
    import cv2

    side = portrait.pixels_HWC.shape[0]
    height = HeadFrame.of(portrait.points_N3).height
    coarse = rng.normal(0, 0.022 * height, (KNOTS, KNOTS, 2)).astype(np.float32)
    coarse[[0, -1]] *= 0.3
    shift = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    y, x = np.mgrid[:side, :side].astype(np.float32)
    there = (x + shift[..., 0], y + shift[..., 1])
    layers = np.dstack([portrait.pixels_HWC, portrait.person_HW])
    moved = cv2.remap(layers, *there, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    points = portrait.points_N3.copy()
    for _ in range(3):  # the shift is given where pixels go to; the points need where they come from
        at = points[:, :2].round().astype(int).clip(0, side - 1)
        points[:, :2] = portrait.points_N3[:, :2] - shift[at[:, 1], at[:, 0]]
    return replace(portrait, pixels_HWC=moved[..., :3], person_HW=moved[..., 3], points_N3=points)


def recolored(rng: np.random.Generator, portrait: Portrait) -> Portrait:
    """Other exposure, contrast, warmth and saturation; light from a side; sometimes gray; grain."""
    pixels = portrait.pixels_HWC / 255
    side = pixels.shape[0]
    pixels = pixels ** float(np.exp(rng.normal(0, 0.22)))
    pixels = (pixels - 0.45) * float(rng.uniform(0.8, 1.2)) + 0.45 + float(rng.normal(0, 0.03))
    pixels = pixels * (1 + rng.normal(0, 0.06, 3))
    gray = pixels.mean(2, keepdims=True)
    pixels = gray + (pixels - gray) * (0.0 if rng.random() < 0.06 else float(rng.uniform(0.65, 1.35)))
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.3)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    light = 1 + strength * (np.cos(angle) * x + np.sin(angle) * y)[..., None]
    grain = rng.normal(0, rng.uniform(0, 0.02), pixels.shape)
    return replace(portrait, pixels_HWC=(255 * (pixels * light + grain)).clip(0, 255).astype(np.float32))


def some_background(rng: np.random.Generator, portrait: Portrait) -> np.ndarray:
    """float32 [H, W, 3]: the picture's own background; cloths; or a plain wall or soft shapes."""
    kind, side = rng.random(), portrait.pixels_HWC.shape[0]
    if kind < OWN_BACKGROUND:
        return background_of(portrait)
    made = cloths(rng, side) if kind < OWN_BACKGROUND + CLOTHS else soft_shapes(rng, side)
    return (made + rng.normal(0, rng.uniform(0, 5), made.shape)).clip(0, 255).astype(np.float32)


def cloths(rng: np.random.Generator, side: int) -> np.ndarray:
    """[side, side, 3] flags and curtains: slanted strips of strong colors, some of them striped, more or less out of focus.

    Their edges keep still beside a head that moves. Those of a flag in the picture may not: it may have been taken for the person.
    """
    import cv2

    y, x = np.mgrid[:side, :side][..., None] / side
    canvas = np.full((side, side, 3), rng.uniform(0, 255, 3), np.float32)
    for _ in range(int(rng.integers(2, 7))):
        left, wide, slant = rng.uniform(-0.2, 1.0), rng.uniform(0.06, 0.45), rng.normal(0, 0.12)
        cover = np.zeros((side, side), np.float32)
        strip = np.array([[left, 0], [left + wide, 0], [left + wide + slant, 1], [left + slant, 1]]) * side
        cv2.fillPoly(cover, [fixed(strip)], 1.0, cv2.LINE_AA, FRACTION_BITS)
        one, two = rng.uniform(0, 255, (2, 3))
        share = 0.5
        if rng.random() < 0.5:
            share = np.clip(0.5 + 4 * np.sin(2 * np.pi * (rng.uniform(2, 12) * y + rng.uniform(-12, 12) * x)), 0, 1)
        canvas += (one + (two - one) * share - canvas) * cover[..., None]
    return cv2.GaussianBlur(canvas, (0, 0), side / 256 * float(np.exp(rng.uniform(-1, 2))))


def soft_shapes(rng: np.random.Generator, side: int) -> np.ndarray:
    """[side, side, 3] a plain wall, or soft shapes of few to many colors."""
    import cv2

    fineness = int(rng.choice([2, 3, 5, 9, 17, 33]))
    colors = rng.uniform(0, 1, (fineness, fineness, 3)) ** rng.uniform(0.6, 1.8)
    colors = colors.mean((0, 1)) + (colors - colors.mean((0, 1))) * rng.uniform(0.2, 1 if fineness < 5 else 0.4)
    kind = cv2.INTER_NEAREST if rng.random() < 0.15 else cv2.INTER_CUBIC
    return 255 * cv2.resize(colors.astype(np.float32), (side, side), interpolation=kind)
