"""Draws the true mouth: lips, teeth, tongue and the dark inside.

Coordinates: (0, 0) is the middle of the lip line, y points down, design units. Parts of the lower jaw move with `jaw_drop`.
"""

from __future__ import annotations

from dataclasses import dataclass

from livetalk_core.talker.brush import Color, Point, blob, clipped, curve, fill, linear, mix, radial, skia, stroke, times
from livetalk_core.talker.identity import Identity, Mouth, Pose

CAVITY: Color = (62, 18, 24)
THROAT: Color = (26, 7, 12)
TONGUE: Color = (198, 92, 100)
ENAMEL: Color = (250, 246, 240)
MAX_DROP = 30.0
"""How far the lower lip's inner edge moves down at opening 1."""


@dataclass(frozen=True, kw_only=True)
class Lips:
    """The dimensions of one mouth shape."""

    half: float
    """Half the width between the outer corners."""
    corner_y: float
    top: float
    bottom: float
    """y of the inner edges in the middle; the gap is bottom - top."""
    upper: float
    lower: float
    """Thickness of the lips."""
    roundness: float
    grin: float
    """Visible share of the teeth, 0 to 1."""
    teeth: float
    tongue: float

    @property
    def inner(self) -> float:
        """Half the width of the gap."""
        return self.half * (0.9 - 0.12 * self.roundness)

    @property
    def gap(self) -> float:
        return self.bottom - self.top


def jaw_drop(mouth: Mouth) -> float:
    """How far the chin moves down, design units."""
    return 15.0 * mouth.opening * (1 - mouth.closure)


def measure(identity: Identity, mouth: Mouth, smile: float) -> Lips:
    """The lips' dimensions for a mouth; the gap is 0 at opening 0 or closure 1."""
    gap = mouth.opening * (1 - mouth.closure)
    press = 1 - 0.42 * mouth.closure
    full = identity.lip_fullness
    stretch = 1 + 0.2 * mouth.width - 0.36 * mouth.rounding * (1 - 0.25 * gap) + 0.16 * smile
    return Lips(
        half=(31 + 7 * identity.lip_width) * stretch,
        corner_y=-2.0 - 8.5 * smile + 8.5 * gap,
        top=-7.0 * gap - 0.6 * mouth.teeth * gap,
        bottom=MAX_DROP * gap,
        upper=(6.5 + 5 * full) * press * (1 - 0.2 * gap) * (1 + 0.28 * mouth.rounding),
        lower=(9 + 6 * full) * press * (1 - 0.16 * gap) * (1 + 0.24 * mouth.rounding) * (1 - 0.25 * mouth.teeth * (1 - gap)),
        roundness=mouth.rounding,
        grin=min(1.0, max(0.12, 0.5 + 0.5 * mouth.teeth + 0.45 * mouth.width + 0.3 * smile - 0.75 * mouth.rounding)),
        teeth=mouth.teeth,
        tongue=mouth.tongue,
    )


def gap_path(lips: Lips) -> skia.Path:
    """The edge of the opening between the lips, closed."""
    x, cy = lips.inner, lips.corner_y
    oval = max(lips.roundness, 0.7 * lips.gap / MAX_DROP)
    side, mid = 0.86 + 0.12 * oval, 0.42 + 0.13 * oval
    lift = 0.45 + 0.35 * oval
    return curve(
        (-x, cy),
        (-x * side, cy + (lips.top - cy) * lift, -x * mid, lips.top, 0, lips.top + 0.8),
        (x * mid, lips.top, x * side, cy + (lips.top - cy) * lift, x, cy),
        (x * side, cy + (lips.bottom - cy) * (lift + 0.25), x * mid, lips.bottom, 0, lips.bottom),
        (-x * mid, lips.bottom, -x * side, cy + (lips.bottom - cy) * (lift + 0.25), -x, cy),
        close=True,
    )


def upper_path(lips: Lips) -> skia.Path:
    """The upper lip, with its bow, down to a little below the gap's upper edge."""
    h, cy, y = lips.half, lips.corner_y, lips.top - lips.upper
    return curve(
        (-h, cy),
        (-h * 0.72, cy + (y - cy) * 0.42, -h * 0.42, y - 0.6, -h * 0.2, y),
        (-h * 0.12, y + 0.4, -h * 0.06, y + lips.upper * 0.24, 0, y + lips.upper * 0.24),
        (h * 0.06, y + lips.upper * 0.24, h * 0.12, y + 0.4, h * 0.2, y),
        (h * 0.42, y - 0.6, h * 0.72, cy + (y - cy) * 0.42, h, cy),
        (h * 0.6, cy + 0.5, h * 0.35, lips.top + 2.2, 0, lips.top + 2.6),
        (-h * 0.35, lips.top + 2.2, -h * 0.6, cy + 0.5, -h, cy),
        close=True,
    )


def lower_path(lips: Lips) -> skia.Path:
    """The lower lip, from just above the gap's lower edge down to its rim."""
    h, cy, y = lips.half, lips.corner_y, lips.bottom + lips.lower
    return curve(
        (-h * 0.97, cy),
        (-h * 0.86, cy + (y - cy) * 0.62, -h * 0.5, y, 0, y),
        (h * 0.5, y, h * 0.86, cy + (y - cy) * 0.62, h * 0.97, cy),
        (h * 0.6, min(cy, lips.bottom) - 0.5, h * 0.4, lips.bottom - 1.5, 0, lips.bottom - 1.5),
        (-h * 0.4, lips.bottom - 1.5, -h * 0.6, min(cy, lips.bottom) - 0.5, -h * 0.97, cy),
        close=True,
    )


def lip_color(identity: Identity) -> Color:
    """Lip color between skin tone and lipstick, by `feminine`."""
    natural = mix(times(identity.skin, (232, 172, 168)), (176, 84, 84), 0.22)
    return mix(natural, times(mix(identity.skin, (215, 90, 96), 0.62), (240, 205, 205)), 0.75 * identity.feminine)


def draw_mouth(canvas: skia.Canvas, identity: Identity, mouth: Mouth, pose: Pose) -> None:
    """A person's mouth, with the shadow under its lower lip."""
    lips = measure(identity, mouth, pose.smile)
    blob(canvas, (0, lips.bottom + lips.lower + 5), (lips.half * 0.62, 7), times(identity.skin, (196, 140, 128)), 0.55)
    draw_lips(canvas, lips, lip_color(identity))


def draw_lips(canvas: skia.Canvas, lips: Lips, color: Color) -> None:
    """The lips, and the teeth and tongue between them."""
    draw_lower(canvas, lips, color)
    draw_upper(canvas, lips, color)
    if lips.gap > 0.5:
        draw_inside(canvas, lips)
    draw_seam(canvas, lips, times(color, (120, 70, 78)))


def draw_lower(canvas: skia.Canvas, lips: Lips, color: Color) -> None:
    path, rim_y = lower_path(lips), lips.bottom + lips.lower
    dark, light = times(color, (212, 172, 176)), mix(color, (255, 236, 228), 0.34)
    canvas.drawPath(
        path,
        linear(
            (0, lips.bottom - 2),
            (0, rim_y),
            [(0, dark, 1), (0.3, color, 1), (0.5, mix(color, light, 0.5), 1), (0.78, color, 1), (1, dark, 1)],
        ),
    )
    with clipped(canvas, path):
        blob(canvas, (-lips.half * 0.16, lips.bottom + lips.lower * 0.42), (lips.half * 0.46, lips.lower * 0.3), light, 0.85)
        for side in (-1, 1):
            blob(canvas, (side * lips.half * 0.95, lips.corner_y + 3), (lips.half * 0.42, lips.lower), dark, 0.7)


def draw_upper(canvas: skia.Canvas, lips: Lips, color: Color) -> None:
    path, rim_y = upper_path(lips), lips.top - lips.upper
    dark = times(color, (206, 160, 166))
    canvas.drawPath(
        path,
        linear((0, rim_y), (0, lips.top + 2), [(0, mix(color, WARM, 0.16), 1), (0.55, times(color, (236, 214, 216)), 1), (1, dark, 1)]),
    )
    with clipped(canvas, path):
        blob(canvas, (lips.half * 0.7, lips.corner_y - 2), (lips.half * 0.5, lips.upper), dark, 0.5)


WARM: Color = (255, 226, 214)


def draw_inside(canvas: skia.Canvas, lips: Lips) -> None:
    with clipped(canvas, gap_path(lips)):
        canvas.drawPaint(linear((0, lips.top), (0, lips.bottom), [(0, THROAT, 1), (0.55, THROAT, 1), (1, CAVITY, 1)]))
        if lips.gap > 4:
            draw_tongue(canvas, lips)
        draw_teeth(canvas, lips)
        canvas.drawPaint(linear((0, lips.top), (0, lips.top + min(7, 0.3 * lips.gap)), [(0, THROAT, 0.5), (1, THROAT, 0)]))
        for side in (-1, 1):
            blob(canvas, (side * lips.inner, lips.corner_y + lips.gap * 0.3), (lips.inner * 0.42, 4 + lips.gap * 0.6), THROAT, 0.8)


def draw_tongue(canvas: skia.Canvas, lips: Lips) -> None:
    rise = lips.gap * (0.2 + 0.5 * lips.tongue)
    height = 5 + 0.42 * lips.gap
    y = lips.bottom + height * 0.62 - rise
    box = skia.Rect.MakeLTRB(-lips.inner * 0.62, y - height, lips.inner * 0.62, y + height)
    light = mix(TONGUE, (255, 190, 188), 0.35)
    canvas.drawOval(
        box, radial((-3, y - height * 0.5), lips.inner * 0.75, [(0, light, 1), (0.5, TONGUE, 1), (1, mix(TONGUE, CAVITY, 0.6), 1)])
    )
    canvas.drawLine(0, y - height * 0.75, 0, y + height, stroke(mix(TONGUE, CAVITY, 0.5), 1.4, 0.5))


def draw_teeth(canvas: skia.Canvas, lips: Lips) -> None:
    """The upper row is attached to the upper lip, the lower row to the jaw; they meet when `teeth` is 1."""
    upper = 1.5 + 8.5 * lips.grin
    draw_row(canvas, lips, lips.top - 1.5, min(lips.top + upper, lips.bottom + 1.5), arch=2.4)
    lower = 1.0 + 6.0 * max(lips.teeth, 0.55 * lips.grin)
    if lips.gap > 2.5:
        draw_row(canvas, lips, lips.bottom + 1.5, max(lips.bottom - lower, lips.top + upper + 0.8), arch=-2.0)


def draw_row(canvas: skia.Canvas, lips: Lips, root: float, edge: float, arch: float) -> None:
    """A row of teeth between `root` and `edge`; the edge curves by `arch` at the sides."""
    x = lips.inner * 0.86
    row = curve((-x, root), (-x, edge - arch, -x * 0.5, edge, 0, edge), (x * 0.5, edge, x, edge - arch, x, root), close=True)
    gum = times(ENAMEL, (232, 214, 210))
    canvas.drawPath(row, linear((0, root), (0, edge), [(0, gum, 1), (0.5, ENAMEL, 1), (1, times(ENAMEL, (238, 236, 238)), 1)]))
    for place in (-0.62, -0.36, -0.12, 0.12, 0.36, 0.62):
        canvas.drawLine(x * place, root, x * place, edge - arch * place * place, stroke((176, 158, 156), 0.55, 0.5))


def draw_seam(canvas: skia.Canvas, lips: Lips, dark: Color) -> None:
    """The line where the lips meet, or the edges of the gap, and the corners' small shadows."""
    x, cy = lips.half * 0.97, lips.corner_y
    if lips.gap > 0.5:
        canvas.drawPath(gap_path(lips), stroke(dark, 1.1, 0.75))
    weight = max(0.0, 1 - lips.gap / 6)
    if weight > 0:
        line = curve(
            (-x, cy),
            (-x * 0.62, lips.top + 2.4, -x * 0.3, lips.top - 0.8, 0, lips.top + 1.2),
            (x * 0.3, lips.top - 0.8, x * 0.62, lips.top + 2.4, x, cy),
        )
        canvas.drawPath(line, stroke(dark, 1.7, 0.85 * weight))
    for side in (-1, 1):
        corner: Point = (side * x, cy)
        blob(canvas, (corner[0], corner[1] - 0.8), (5, 3.6), dark, 0.42)
        canvas.drawCircle(*corner, 0.9, fill(dark, 0.7))
