"""Draws glasses, a knitted cap and a headscarf. Coordinates of the head."""

from __future__ import annotations

from livetalk_core.talker.brush import BLACK, WHITE, blob, clipped, curve, fill, linear, mix, rim, skia, smooth, stroke, symmetric, times
from livetalk_core.talker.eyes import eye_size, eye_x
from livetalk_core.talker.identity import Identity
from livetalk_core.talker.skin import CHIN_Y, side_x

FRAMES = {"round": ((46, 36, 40), 3.6), "square": ((32, 32, 40), 4.6), "thin": ((190, 150, 90), 2.0)}
"""Style of the glasses -> color and thickness of the frame."""


def draw_glasses(canvas: skia.Canvas, identity: Identity) -> None:
    if identity.glasses == "none":
        return
    color, thick = FRAMES[identity.glasses]
    gap, (wide, high) = eye_x(identity), eye_size(identity)
    w, h = wide + 10.0, high + (17.0 if identity.glasses == "round" else 12.0)
    corner = h if identity.glasses == "round" else 11.0
    for side in (-1, 1):
        lens = skia.RRect.MakeRectXY(skia.Rect.MakeLTRB(side * gap - w, 3 - h, side * gap + w, 3 + h), min(corner, w), corner)
        canvas.drawRRect(
            lens,
            linear(
                (side * gap - w, -h), (side * gap + w, h), [(0, WHITE, 0.20), (0.34, WHITE, 0.06), (0.36, WHITE, 0.0), (1, WHITE, 0.05)]
            ),
        )
        canvas.save()
        canvas.translate(1.5, 3.5)
        canvas.drawRRect(lens, stroke(times(identity.skin, (150, 100, 95)), thick, 0.35))
        canvas.restore()
        canvas.drawRRect(lens, stroke(color, thick))
        canvas.drawLine(side * (gap + w), -4, side * (side_x(identity) + 1), -9, stroke(color, thick))
    bridge = curve((-gap + w - 1, -1), (-4, -9, 4, -9, gap - w + 1, -1))
    canvas.drawPath(bridge, stroke(color, thick))
    canvas.drawPath(
        curve((-gap - w * 0.7, 1 - h), (-gap - w * 0.3, -h - 0.5, -gap, -h, -gap + w * 0.5, 1 - h)), stroke(WHITE, thick * 0.3, 0.5)
    )


def draw_beanie(canvas: skia.Canvas, identity: Identity) -> None:
    color, dark = identity.accent, times(identity.accent, (150, 140, 156))
    dome = symmetric((0, -186), (70, -186, 116, -140, 112, -66), (60, -84, 30, -88, 0, -88))
    canvas.drawPath(dome, linear((-90, -150), (110, -80), [(0, mix(color, WHITE, 0.16), 1), (0.45, color, 1), (1, dark, 1)]))
    with clipped(canvas, dome):
        for i in range(-7, 8):
            canvas.drawPath(curve((i * 15, -70), (i * 16, -110, i * 12, -150, i * 5, -188)), stroke(dark, 2.4, 0.4))
        rim(canvas, dome, BLACK, 8, 0.25)
    band = symmetric((0, -112), (50, -112, 92, -102, 113, -84), (118, -70, 118, -52, 112, -42), (88, -64, 50, -74, 0, -74))
    canvas.drawPath(band, linear((-100, 0), (110, 0), [(0, mix(color, WHITE, 0.2), 1), (0.4, mix(color, WHITE, 0.06), 1), (1, dark, 1)]))
    with clipped(canvas, band):
        for i in range(-13, 14):
            canvas.drawLine(i * 8.6, -116, i * 8.8, -40, stroke(dark, 1.5, 0.45))
        rim(canvas, band, BLACK, 5, 0.3)
    blob(canvas, (0, -68), (92, 9), times(identity.skin, (120, 80, 76)), 0.5)


def draw_scarf_back(canvas: skia.Canvas, identity: Identity) -> None:
    color, dark = identity.accent, times(identity.accent, (140, 130, 148))
    cloth = symmetric(
        (0, -172),
        (80, -172, 130, -110, 128, -10),
        (128, 70, 110, 120, 120, 178),
        (150, 210, 150, 250, 150, 262),
        (80, 270, 40, 270, 0, 270),
    )
    canvas.drawPath(cloth, linear((-120, 0), (130, 0), [(0, color, 1), (0.5, dark, 1), (1, times(dark, (190, 190, 200)), 1)]))


def draw_scarf(canvas: skia.Canvas, identity: Identity, drop: float) -> None:
    """Cloth around the face with its inner edge under the chin and folds at the side."""
    color, dark, light = identity.accent, times(identity.accent, (146, 136, 154)), mix(identity.accent, WHITE, 0.22)
    chin = CHIN_Y + 4 + 9 * identity.chin + drop
    x = side_x(identity)
    outer = symmetric((0, -174), (82, -174, 130, -112, 127, -10), (126, 70, 112, 116, 108, 176), (84, 236, 40, 240, 0, 240))
    inner = symmetric(
        (0, -108), (50, -108, x - 6, -78, x - 5, -14), (x - 3, 50, x - 12, 96, 52, chin - 12), (34, chin + 4, 12, chin + 4, 0, chin + 4)
    )
    outer.addPath(inner)
    outer.setFillType(skia.PathFillType.kEvenOdd)
    canvas.drawPath(outer, linear((-110, -120), (120, 120), [(0, light, 1), (0.4, color, 1), (1, dark, 1)]))
    with clipped(canvas, outer):
        rim(canvas, inner, BLACK, 12, 0.3)
        for i in range(6):
            fold = curve((-104 + 6 * i, -60 + 30 * i), (-104 + 10 * i, 60 + 14 * i, -60 + 16 * i, 150 + 8 * i, 60 + 6 * i, 214 - 4 * i))
            canvas.drawPath(fold, stroke(dark if i % 2 else light, 5 - 0.4 * i, 0.32))
        blob(canvas, (-50, -144), (60, 22), light, 0.7, -25)
    canvas.drawPath(inner, stroke(dark, 1.6, 0.7))
    canvas.drawPath(smooth([(40, 196), (70, 208), (96, 250), (40, 262), (18, 220)], close=True), fill(mix(color, dark, 0.25)))
