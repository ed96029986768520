"""Draws the bare head: shaded skin, ears, nose, wrinkles, beard. Coordinates of the head (y = 0 at the eyes)."""

from __future__ import annotations

import numpy as np

from livetalk_core.talker.brush import WHITE, Color, blob, clipped, curve, fill, linear, mix, radial, rim, skia, stroke, symmetric, times
from livetalk_core.talker.eyes import eye_x
from livetalk_core.talker.identity import Identity

CHIN_Y = 146.0
MOUTH_Y = 97.0
EAR_X = 99.0


def side_x(identity: Identity) -> float:
    """Half the width of the face at the cheekbones."""
    return 91.0 + 9.0 * identity.face_width


def face_path(identity: Identity, drop: float) -> skia.Path:
    """The outline of the face with the chin lowered by `drop`."""
    x = side_x(identity)
    square = 0.55 * identity.jaw + 0.45 * (1 - identity.feminine)
    jaw, point = x * (0.80 + 0.11 * square), 15.0 + 28.0 * square
    chin = CHIN_Y - 5 + 9 * identity.chin + drop
    return symmetric(
        (0, -142),
        (60, -142, x - 1, -108, x, -34),
        (x + 1, 12, x - 1, 42, jaw, 78 + drop * 0.4),
        (jaw - 8, 103 + drop * 0.8, point + 15, chin - 4, point * 0.6, chin - 0.5),
        (point * 0.3, chin, 8, chin, 0, chin),
    )


def shadow_tone(identity: Identity) -> Color:
    return times(identity.skin, (216, 166, 156))


def deep_tone(identity: Identity) -> Color:
    return times(identity.skin, (158, 98, 90))


def light_tone(identity: Identity) -> Color:
    return mix(identity.skin, (255, 244, 226), 0.5 if sum(identity.skin) > 480 else 0.3)


def draw_ear(canvas: skia.Canvas, identity: Identity, side: int) -> None:
    x = side * (side_x(identity) - 2)
    ear = curve(
        (x - side * 6, -12),
        (x + side * 4, -26, x + side * 20, -22, x + side * 18, 4),
        (x + side * 16, 22, x + side * 14, 44, x + side * 2, 50),
        (x - side * 6, 52, x - side * 8, 40, x - side * 8, 30),
        close=True,
    )
    deep = deep_tone(identity)
    canvas.drawPath(
        ear, linear((x, 0), (x + side * 20, 0), [(0, shadow_tone(identity), 1), (1, mix(identity.skin, (232, 120, 100), 0.12), 1)])
    )
    fold = curve(
        (x + side * 1, -8),
        (x + side * 10, -16, x + side * 14, -6, x + side * 10, 10),
        (x + side * 8, 20, x + side * 8, 30, x + side * 2, 36),
    )
    canvas.drawPath(fold, stroke(deep, 2.2, 0.5))
    blob(canvas, (x + side * 3, 12), (7, 18), deep, 0.6)
    if identity.earrings:
        canvas.drawCircle(
            x + side * 5,
            52,
            4.2,
            radial((x + side * 5 - 1.5, 50), 6, [(0, (255, 250, 226), 1), (0.5, (226, 184, 92), 1), (1, (150, 106, 40), 1)]),
        )


def draw_skin(canvas: skia.Canvas, identity: Identity, drop: float) -> None:
    """The skin of the face, lit from the upper left, with a cool edge of light at the lower right."""
    outline = face_path(identity, drop)
    skin, shadow, deep, light = identity.skin, shadow_tone(identity), deep_tone(identity), light_tone(identity)
    canvas.drawPath(
        outline,
        radial((-26, -22), 196, [(0, mix(skin, light, 0.35), 1), (0.42, skin, 1), (0.74, mix(skin, shadow, 0.5), 1), (1, shadow, 1)]),
    )
    blush = times(mix(skin, (236, 104, 92), 0.5), (255, 228, 222))
    x = side_x(identity)
    with clipped(canvas, outline):
        blob(canvas, (x * 1.04, 60), (58, 130), shadow, 0.7)
        blob(canvas, (-x * 1.06, 60), (36, 120), shadow, 0.5)
        blob(canvas, (0, CHIN_Y + 16 + drop), (100, 34), deep, 0.6)
        blob(canvas, (-22, -76), (66, 44), light, 0.75)
        for side in (-1, 1):
            blob(canvas, (side * 56, 52), (40, 30), blush, (0.24 + 0.14 * identity.feminine) * (1 if side < 0 else 0.6))
            blob(canvas, (side * 50 - 4, 34), (26, 13), light, 0.62 if side < 0 else 0.4, side * -18.0)
        blob(canvas, (-2, 128 + drop), (22, 13), light, 0.45)
        blob(canvas, (0, 113 + drop * 0.7), (24, 6), shadow, 0.6)
        rim(canvas, outline, deep, 9, 0.35)
        if identity.freckles:
            draw_freckles(canvas, identity)
        if identity.age > 0.3:
            draw_wrinkles(canvas, identity, deep)


def draw_freckles(canvas: skia.Canvas, identity: Identity) -> None:
    rng = np.random.default_rng([identity.seed, 5])
    tone = times(identity.skin, (196, 136, 104))
    for side in (-1, 1):
        for _ in range(22):
            canvas.drawCircle(side * rng.normal(44, 17), rng.normal(42, 9), rng.uniform(0.7, 1.7), fill(tone, rng.uniform(0.3, 0.65)))


def draw_wrinkles(canvas: skia.Canvas, identity: Identity, deep: Color) -> None:
    """Forehead lines, lines beside the eyes, and folds from nose to mouth."""
    strength = (identity.age - 0.3) * 0.8
    for i in range(3):
        y = -78.0 - 13 * i
        canvas.drawPath(curve((-44 + 5 * i, y), (-16, y - 6, 18, y - 6, 46 - 5 * i, y + 1)), stroke(deep, 1.6, strength))
    for side in (-1, 1):
        x = side * 30
        canvas.drawPath(curve((side * 22, 58), (side * 30, 64, side * 41, 78, side * 43, 94)), stroke(deep, 2.2, 0.12 + strength * 0.8))
        for i in (-1, 0, 1):
            far = side * (eye_x(identity) + 27)
            canvas.drawPath(
                curve((far, 4 * i), (far + side * 4, 5 * i, far + side * 8, 8 * i, far + side * 11, 11 * i + 2)),
                stroke(deep, 1.2, strength),
            )
        blob(canvas, (x + side * 12, 18), (18, 7), deep, strength * 0.8)


def draw_nose(canvas: skia.Canvas, identity: Identity) -> None:
    """The nose: shaded bridge, tip, wings and nostrils; the canvas's origin is the head's."""
    deep, light, shadow = deep_tone(identity), light_tone(identity), shadow_tone(identity)
    w = 13.5 + 7.0 * identity.nose_width + 2.0 * (1 - identity.feminine)
    tip = 52.0 + 9.0 * identity.nose_length
    blob(canvas, (9.5, 14), (6.5, 38), shadow, 0.62, 3)
    blob(canvas, (w * 0.78, tip - 2), (8, 11), shadow, 0.8)
    blob(canvas, (-w * 0.9, tip), (6, 9), shadow, 0.5)
    blob(canvas, (-17, -8), (10, 20), shadow, 0.5, 14)
    blob(canvas, (17, -8), (11, 22), shadow, 0.7, -14)
    blob(canvas, (0, tip + 13), (w * 1.15, 7), deep, 0.55)
    blob(canvas, (-2.5, 14), (5.5, tip * 0.66), light, 0.62)
    for side in (-1, 1):
        wing = curve((side * (w - 0.5), tip - 5), (side * (w + 2.5), tip - 1, side * (w + 2), tip + 6, side * (w - 4), tip + 6.5))
        canvas.drawPath(wing, stroke(deep, 1.4, 0.5 if side > 0 else 0.35))
        nostril = curve(
            (side * 4, tip + 7),
            (side * 7, tip + 3, side * (w - 5), tip + 2.5, side * (w - 4), tip + 6.2),
            (side * (w - 8), tip + 7.5, side * 7, tip + 8, side * 4, tip + 7),
            close=True,
        )
        canvas.drawPath(nostril, fill(times(deep, (130, 90, 90)), 0.8))
    base = curve((-w * 0.5, tip + 7), (-5, tip + 10.5, 5, tip + 10.5, w * 0.5, tip + 7))
    canvas.drawPath(base, stroke(deep, 1.3, 0.55))
    blob(canvas, (-3, tip - 3), (9, 8), light, 0.8)
    canvas.drawOval(skia.Rect.MakeXYWH(-5.5, tip - 6, 4.4, 3.2), fill(WHITE, 0.4))


def draw_philtrum(canvas: skia.Canvas, identity: Identity) -> None:
    shadow, light = shadow_tone(identity), light_tone(identity)
    blob(canvas, (1, 80), (5, 8), shadow, 0.5)
    blob(canvas, (-5, 80), (3, 7), light, 0.4)


def beard_path(identity: Identity, drop: float) -> skia.Path:
    """Outline of the beard: from ear to ear along the jaw and around the mouth; a long beard reaches below the chin."""
    x = side_x(identity) + 1
    long = {"stubble": 0.0, "short": 6.0, "full": 30.0, "goatee": 10.0}[identity.beard]
    chin = CHIN_Y - 4 + 9 * identity.chin + drop + long
    return symmetric(
        (0, 74),
        (16, 71, 32, 74, 44, 88),
        (58, 90, 74, 62, x - 4, 8),
        (x + 3, 20, x + 3 + long * 0.15, 50, x - 9 + long * 0.1, 84 + drop * 0.4),
        (x - 16 + long * 0.1, 112 + drop, 46, chin, 0, chin),
    )


def draw_beard(canvas: skia.Canvas, identity: Identity, drop: float) -> None:
    if identity.beard == "none":
        return
    color = times(identity.hair, (222, 214, 212))
    if identity.beard in ("moustache", "goatee"):
        draw_moustache(canvas, color)
        if identity.beard == "goatee":
            tuft = symmetric(
                (0, 117 + drop), (14, 115 + drop, 24, 126 + drop, 22, 140 + drop), (18, 158 + drop, 8, 161 + drop, 0, 161 + drop)
            )
            canvas.drawPath(
                tuft, linear((0, 112 + drop), (0, 162 + drop), [(0, color, 0.75), (0.4, color, 1), (1, times(color, (200, 200, 200)), 1)])
            )
        return
    path = beard_path(identity, drop)
    if identity.beard == "stubble":
        with clipped(canvas, face_path(identity, drop)):
            canvas.drawPath(path, linear((0, 40), (0, 140), [(0, color, 0.05), (0.4, color, 0.26), (1, color, 0.34)]))
        return
    canvas.drawPath(
        path,
        linear((0, 0), (0, 150 + drop), [(0, color, 0.35), (0.25, color, 0.92), (0.7, color, 1), (1, times(color, (190, 190, 190)), 1)]),
    )
    with clipped(canvas, path):
        draw_beard_hair(canvas, identity, color, drop)
    draw_moustache(canvas, color)


def draw_beard_hair(canvas: skia.Canvas, identity: Identity, color: Color, drop: float) -> None:
    rng = np.random.default_rng([identity.seed, 6])
    light, dark = mix(color, (255, 226, 196), 0.25), times(color, (140, 140, 140))
    for _ in range(80):
        x = rng.uniform(-1, 1)
        y = 60 + 60 * (1 - abs(x) ** 2) + rng.uniform(-30, 50) + drop
        px, lean = x * 98, x * rng.uniform(-9, 1)
        tone = light if rng.random() < 0.5 else dark
        canvas.drawPath(curve((px, y - 14), (px + lean * 0.2, y - 4, px + lean * 0.6, y + 4, px + lean, y + 12)), stroke(tone, 1.3, 0.3))


def draw_moustache(canvas: skia.Canvas, color: Color) -> None:
    shape = symmetric((0, 74), (12, 69, 30, 74, 43, 95), (30, 88, 14, 87, 0, 84))
    canvas.drawPath(shape, linear((0, 68), (0, 94), [(0, color, 0.82), (0.5, color, 1), (1, times(color, (200, 200, 200)), 1)]))
