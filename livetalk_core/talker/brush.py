"""Drawing primitives on skia's CPU canvas: colors, gradients, soft blobs and smooth paths.

The only file that imports skia. Lengths are design units: a picture of any size in pixels is 512 units wide.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

try:
    import skia
except ImportError as missing:
    raise ImportError(
        f"drawing faces needs skia-python ({missing}); install the train extra, and on a bare Linux the packages libegl1 and libgl1"
    ) from missing

Color = tuple[float, float, float]
Point = tuple[float, float]

WHITE: Color = (255.0, 255.0, 255.0)
BLACK: Color = (0.0, 0.0, 0.0)
SOFT = (1.0, 0.8, 0.46, 0.16, 0.0)
"""Opacity of a blob at 0, 1/4 .. 1 of its radius: close to a Gaussian and cheaper than a blur."""


def mix(a: Color, b: Color, amount: float) -> Color:
    """Linear interpolation: `a` at amount 0, `b` at 1."""
    return tuple(x + (y - x) * amount for x, y in zip(a, b, strict=True))


def times(a: Color, b: Color) -> Color:
    """Multiply two colors, with 255 as 1, for example to tint a color by a shadow."""
    return tuple(x * y / 255.0 for x, y in zip(a, b, strict=True))


def argb(color: Color, alpha: float = 1.0) -> int:
    red, green, blue = (min(255, max(0, round(c))) for c in color)
    return min(255, max(0, round(alpha * 255))) << 24 | red << 16 | green << 8 | blue


def fill(color: Color, alpha: float = 1.0) -> skia.Paint:
    return skia.Paint(AntiAlias=True, Color=argb(color, alpha))


def stroke(color: Color, width: float, alpha: float = 1.0) -> skia.Paint:
    return skia.Paint(
        AntiAlias=True,
        Color=argb(color, alpha),
        Style=skia.Paint.kStroke_Style,
        StrokeWidth=width,
        StrokeCap=skia.Paint.kRound_Cap,
        StrokeJoin=skia.Paint.kRound_Join,
    )


Stops = Sequence[tuple[float, Color, float]]
"""Gradient stops: (position 0 to 1, color, opacity)."""


def linear(start: Point, end: Point, stops: Stops) -> skia.Paint:
    shader = skia.GradientShader.MakeLinear(
        points=[start, end], colors=[argb(c, a) for _, c, a in stops], positions=[float(p) for p, _, _ in stops]
    )
    return skia.Paint(AntiAlias=True, Shader=shader, Dither=True)


def radial(center: Point, radius: float, stops: Stops) -> skia.Paint:
    shader = skia.GradientShader.MakeRadial(
        center=center, radius=radius, colors=[argb(c, a) for _, c, a in stops], positions=[float(p) for p, _, _ in stops]
    )
    return skia.Paint(AntiAlias=True, Shader=shader, Dither=True)


def blob(canvas: skia.Canvas, at: Point, radii: Point, color: Color, alpha: float, turn_deg: float = 0.0) -> None:
    """A soft ellipse, most opaque at its center and transparent at its edge."""
    canvas.save()
    canvas.translate(*at)
    canvas.rotate(turn_deg)
    canvas.scale(*radii)
    canvas.drawCircle(0, 0, 1, radial((0, 0), 1, [(i / 4, color, alpha * a) for i, a in enumerate(SOFT)]))
    canvas.restore()


def rim(canvas: skia.Canvas, path: skia.Path, color: Color, width: float, alpha: float, layers: int = 4) -> None:
    """A soft band along a path's edge, made of overlapping strokes. Clip to the path first to keep it inside."""
    for layer in range(layers):
        canvas.drawPath(path, stroke(color, width * (layer + 1) / layers, alpha / layers))


def curve(start: Point, *cubics: Sequence[float], close: bool = False) -> skia.Path:
    """A path of cubic Bezier pieces, each (c1x, c1y, c2x, c2y, x, y)."""
    path = skia.Path()
    path.moveTo(*start)
    for cubic in cubics:
        path.cubicTo(*cubic)
    if close:
        path.close()
    return path


def symmetric(start: Point, *cubics: Sequence[float]) -> skia.Path:
    """A closed symmetric path, given its right half, which starts and ends on the axis x = 0."""
    path = curve(start, *cubics)
    ends = [start, *[(c[4], c[5]) for c in cubics]]
    for cubic, end in zip(reversed(cubics), reversed(ends[:-1]), strict=True):
        path.cubicTo(-cubic[2], cubic[3], -cubic[0], cubic[1], -end[0], end[1])
    path.close()
    return path


def smooth(points: Sequence[Point] | np.ndarray, close: bool = False, tension: float = 1 / 6) -> skia.Path:
    """A path through all the points (Catmull-Rom as Bezier pieces)."""
    knots = np.asarray(points, np.float64)
    before = np.roll(knots, 1, 0) if close else np.vstack([knots[:1], knots[:-1]])
    after = np.roll(knots, -1, 0) if close else np.vstack([knots[1:], knots[-1:]])
    slope = (after - before) * tension
    path = skia.Path()
    path.moveTo(*knots[0])
    count = len(knots) if close else len(knots) - 1
    for i in range(count):
        j = (i + 1) % len(knots)
        path.cubicTo(*(knots[i] + slope[i]), *(knots[j] - slope[j]), *knots[j])
    if close:
        path.close()
    return path


@contextmanager
def clipped(canvas: skia.Canvas, path: skia.Path) -> Iterator[None]:
    """Inside this context drawing is clipped to the path."""
    canvas.save()
    canvas.clipPath(path, doAntiAlias=True)
    yield
    canvas.restore()


@contextmanager
def moved(canvas: skia.Canvas, dx: float, dy: float) -> Iterator[None]:
    canvas.save()
    canvas.translate(dx, dy)
    yield
    canvas.restore()
