"""Locks of hair: strands between guide lines, with clumps, single hairs and a band of gloss. Coordinates of the head."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from livetalk_core.talker.brush import Color, clipped, fill, linear, mix, rim, skia, smooth, stroke, times
from livetalk_core.talker.identity import Identity
from livetalk_core.talker.skin import deep_tone, face_path

Guide = Sequence[tuple[float, float]]


def mirror(guides: Sequence[Guide]) -> list[Guide]:
    return [[(-x, y) for x, y in guide] for guide in guides]


def tones(identity: Identity) -> tuple[Color, Color, Color]:
    """(dark, base, light) of the hair."""
    base = identity.hair
    dark = times(base, (126, 112, 118))
    return dark, base, mix(base, (255, 222, 180), 0.34 if sum(base) < 500 else 0.5)


def resample(guide: Guide, count: int) -> np.ndarray:
    """`count` points along the smooth curve (Catmull-Rom) through a guide's points, spaced evenly by index."""
    points = np.asarray(guide, np.float64)
    slopes = np.gradient(points, axis=0)
    place = np.linspace(0, len(points) - 1, count)
    low = np.minimum(place.astype(int), len(points) - 2)
    t = (place - low)[:, None]
    start, end = points[low], points[low + 1]
    bend = t * (1 - t) * ((1 - t) * (slopes[low] - (end - start)) + t * ((end - start) - slopes[low + 1]))
    return start + (end - start) * t + bend


def between(guides: Sequence[Guide], place: float, count: int = 13) -> np.ndarray:
    """The strand at `place`, 0 at the first guide and 1 at the last."""
    lines = np.stack([resample(guide, count) for guide in guides])
    where = place * (len(lines) - 1)
    low = min(int(where), len(lines) - 2)
    return lines[low] + (lines[low + 1] - lines[low]) * (where - low)


def lock(
    canvas: skia.Canvas,
    identity: Identity,
    guides: Sequence[Guide],
    *,
    strands: int = 22,
    gloss: float | None = 0.3,
    cast: bool = True,
    salt: int = 0,
) -> None:
    """Fill the area between the first and last guide with hair; `gloss` is the highlight's place; `cast` shades the skin."""
    rng = np.random.default_rng([identity.seed, 40 + salt])
    dark, base, light = tones(identity)
    first, last = resample(guides[0], 13), resample(guides[-1], 13)
    middle = [between(guides, p)[-1] for p in (0.25, 0.5, 0.75)]
    start = [between(guides, p)[0] for p in (0.75, 0.5, 0.25)]
    shape = smooth(np.vstack([first, middle, last[::-1], start]), close=True)
    root, tip = first[0], first[-1]
    if cast:
        with clipped(canvas, face_path(identity, 0)):
            rim(canvas, smooth(first), deep_tone(identity), 30, 0.42, layers=10)
    canvas.drawPath(
        shape,
        linear(
            tuple(root),
            tuple(tip),
            [(0, mix(dark, base, 0.45), 1), (0.3, base, 1), (0.75, mix(base, dark, 0.25), 1), (1, mix(base, dark, 0.5), 1)],
        ),
    )
    with clipped(canvas, shape):
        clumps(canvas, guides, rng, dark, light, strands // 2)
        fine_strands(canvas, guides, rng, dark, light, strands)
        if gloss is not None:
            gloss_band(canvas, guides, rng, light, gloss, strands)
        rim(canvas, shape, dark, 7, 0.5, layers=3)


def clumps(canvas: skia.Canvas, guides: Sequence[Guide], rng: np.random.Generator, dark: Color, light: Color, count: int) -> None:
    """Tapered wedges of darker and lighter hair."""
    for _ in range(count):
        place, wide = rng.uniform(0, 0.92), rng.uniform(0.03, 0.1)
        a, b = between(guides, place), between(guides, min(1.0, place + wide))
        wedge = smooth(np.vstack([a, b[::-1][1:]]), close=True)
        canvas.drawPath(wedge, fill(dark if rng.random() < 0.58 else light, rng.uniform(0.10, 0.26)))


def fine_strands(canvas: skia.Canvas, guides: Sequence[Guide], rng: np.random.Generator, dark: Color, light: Color, count: int) -> None:
    for i in range(count):
        line = smooth(between(guides, (i + rng.uniform(0.1, 0.9)) / count))
        canvas.drawPath(line, stroke(dark if i % 2 else light, rng.uniform(0.6, 1.7), rng.uniform(0.16, 0.42)))


def gloss_band(canvas: skia.Canvas, guides: Sequence[Guide], rng: np.random.Generator, light: Color, at: float, count: int) -> None:
    """A highlight on the hair, made of short bright pieces of strands side by side."""
    shine = mix(light, (255, 244, 224), 0.35)
    for i in range(count):
        place = (i + rng.uniform(0.2, 0.8)) / count
        line = between(guides, place, 25)
        low = max(0, round(24 * (at - rng.uniform(0.07, 0.2))))
        high = min(24, round(24 * (at + rng.uniform(0.07, 0.2))))
        edge = 1 - abs(2 * place - 1) ** 2
        if high - low >= 2:
            paint = linear(tuple(line[low]), tuple(line[high]), [(0, shine, 0), (0.5, shine, 0.36 * edge), (1, shine, 0)])
            paint.setStyle(skia.Paint.kStroke_Style)
            paint.setStrokeWidth(rng.uniform(1.2, 3.6))
            canvas.drawPath(smooth(line[low : high + 1]), paint)
