"""Draws a cat in clothes: fur, muzzle, round eyes. The mouth opens, spreads and rounds like a person's."""

from __future__ import annotations

import numpy as np

from livetalk_core.talker.brush import (
    WHITE,
    Color,
    blob,
    clipped,
    curve,
    fill,
    linear,
    mix,
    moved,
    radial,
    rim,
    skia,
    smooth,
    stroke,
    symmetric,
    times,
)
from livetalk_core.talker.identity import Identity, Mouth, Pose
from livetalk_core.talker.mouth import draw_inside, gap_path, measure

MOUTH_Y = 88.0
EYE_X = 49.0
NOSE: Color = (214, 126, 130)
INK: Color = (52, 32, 34)


def pale(identity: Identity) -> Color:
    """The lighter fur of muzzle, chest and inner ear."""
    return mix(identity.skin, (255, 250, 242), 0.72)


def head_path(drop: float) -> skia.Path:
    """Outline of the head, with tufts at the cheeks; the chin is lowered by `drop`."""
    right = [
        (0, -112),
        (52, -116),
        (98, -88),
        (118, -36),
        (122, 12),
        (140, 34),
        (122, 44),
        (136, 66),
        (112, 70),
        (116, 92),
        (88, 94 + drop * 0.4),
        (52, 124 + drop * 0.8),
        (0, 134 + drop),
    ]
    points = right + [(-x, y) for x, y in right[-2:0:-1]]
    return smooth(points, close=True, tension=0.13)


def draw_cat_ears(canvas: skia.Canvas, identity: Identity) -> None:
    dark = times(identity.skin, (170, 150, 150))
    for side in (-1, 1):
        outer = curve(
            (side * 30, -96),
            (side * 46, -140, side * 78, -176, side * 94, -184),
            (side * 112, -150, side * 122, -90, side * 114, -34),
            close=True,
        )
        canvas.drawPath(outer, linear((side * 40, -150), (side * 110, -40), [(0, identity.skin, 1), (1, dark, 1)]))
        with clipped(canvas, outer):
            rim(canvas, outer, dark, 8, 0.6)
        inner = curve(
            (side * 50, -98),
            (side * 60, -132, side * 78, -154, side * 89, -162),
            (side * 102, -130, side * 106, -96, side * 100, -62),
            close=True,
        )
        canvas.drawPath(
            inner, linear((0, -160), (0, -60), [(0, mix(NOSE, identity.skin, 0.35), 1), (1, mix(NOSE, pale(identity), 0.5), 1)])
        )
        for i in range(6):
            canvas.drawPath(
                curve(
                    (side * (52 + 4 * i), -84), (side * (56 + 4 * i), -104, side * (64 + 4 * i), -118, side * (72 + 3 * i), -132 + 3 * i)
                ),
                stroke(pale(identity), 2.2, 0.65),
            )


def draw_coat(canvas: skia.Canvas, identity: Identity) -> None:
    """Stripes and single hairs over the whole head; the caller clips them."""
    rng = np.random.default_rng([identity.seed, 30])
    light, dark = mix(identity.skin, WHITE, 0.4), times(identity.skin, (164, 142, 136))
    if identity.seed % 3:
        draw_stripes(canvas, times(identity.skin, (150, 122, 112)))
    for _ in range(130):
        x, y = rng.uniform(-125, 125), rng.uniform(-115, 128)
        away = np.array([x, y + 5]) / (np.hypot(x, y + 5) + 20) * rng.uniform(8, 15)
        canvas.drawLine(x, y, x + away[0], y + away[1], stroke(light if rng.random() < 0.5 else dark, rng.uniform(0.9, 1.8), 0.3))


def draw_stripes(canvas: skia.Canvas, dark: Color) -> None:
    for x, wide, low in ((0, 7, -58), (-19, 6, -66), (19, 6, -66)):
        canvas.drawPath(
            curve(
                (x * 1.4 - wide, -118),
                (x * 1.2 - wide, -92, x - 2, low - 8, x, low),
                (x + 2, low - 8, x * 1.2 + wide, -92, x * 1.4 + wide, -118),
                close=True,
            ),
            fill(dark, 0.75),
        )
    for side in (-1, 1):
        for i in range(3):
            y = 14.0 + 22 * i
            canvas.drawPath(
                curve(
                    (side * 128, y - 6),
                    (side * 108, y - 4, side * 92, y, side * 82, y + 3),
                    (side * 94, y + 6, side * 110, y + 6, side * 130, y + 6),
                    close=True,
                ),
                fill(dark, 0.6),
            )


def draw_cat_head(canvas: skia.Canvas, identity: Identity, drop: float) -> None:
    path = head_path(drop)
    dark = times(identity.skin, (178, 150, 150))
    canvas.drawPath(path, radial((-30, -40), 190, [(0, mix(identity.skin, WHITE, 0.22), 1), (0.5, identity.skin, 1), (1, dark, 1)]))
    with clipped(canvas, path):
        draw_coat(canvas, identity)
        blob(canvas, (110, 60), (60, 110), dark, 0.6)
        blob(canvas, (0, 140 + drop), (110, 34), dark, 0.7)
        rim(canvas, path, dark, 10, 0.4)


def draw_cat_eye(canvas: skia.Canvas, identity: Identity, pose: Pose, side: int) -> None:
    """The canvas's origin is the eye's middle."""
    high = 25.0 + 5 * identity.eye_size
    top = high * (1 - 1.82 * pose.blink)
    tilt = 5.0
    opening = curve(
        (-side * 27, 8),
        (-side * 20, -top * 0.95, side * 14, -top * 1.2, side * 28, -tilt),
        (side * 22, high * 0.85, -side * 8, high * 0.92, -side * 27, 8),
        close=True,
    )
    if pose.blink > 0:
        draw_cat_lid(canvas, identity, high)
    canvas.drawPath(opening, stroke(mix(pale(identity), identity.skin, 0.3), 9, 0.7 * (1 - pose.blink)))
    with clipped(canvas, opening):
        iris = mix(identity.iris, (214, 226, 110), 0.35)
        canvas.drawPaint(
            radial(
                (pose.gaze_x * 5, 6 + pose.gaze_y * 4),
                high * 1.2,
                [(0, mix(iris, (255, 250, 190), 0.55), 1), (0.6, iris, 1), (1, times(iris, (120, 110, 100)), 1)],
            )
        )
        x, y = pose.gaze_x * 8, pose.gaze_y * 6 + 1
        canvas.drawOval(skia.Rect.MakeLTRB(x - high * 0.36, y - high * 0.74, x + high * 0.36, y + high * 0.74), fill((18, 14, 16)))
        canvas.drawOval(skia.Rect.MakeXYWH(x - high * 0.5, y - high * 0.56, high * 0.42, high * 0.38), fill(WHITE, 0.95))
        canvas.drawCircle(x + high * 0.26, y + high * 0.34, high * 0.1, fill(WHITE, 0.6))
        canvas.drawPaint(linear((0, -high), (0, 0), [(0, INK, 0.55), (1, INK, 0)]))
    canvas.drawPath(opening, stroke(INK, 3.0, 0.95))


def draw_cat_lid(canvas: skia.Canvas, identity: Identity, high: float) -> None:
    """Fur over the closed part of the eye."""
    lid = skia.Rect.MakeLTRB(-28, -high * 0.95, 28, high * 0.8)
    canvas.drawOval(
        lid, linear((0, -high), (0, high), [(0, times(identity.skin, (200, 180, 176)), 1), (1, mix(identity.skin, WHITE, 0.2), 1)])
    )


def draw_muzzle(canvas: skia.Canvas, identity: Identity, mouth: Mouth, pose: Pose, drop: float) -> None:
    lips, light = measure(identity, mouth, pose.smile), pale(identity)
    shade = times(light, (206, 186, 180))
    chin = MOUTH_Y + lips.bottom + 15
    canvas.drawOval(
        skia.Rect.MakeLTRB(-30, chin - 26, 30, chin + 12),
        radial((-6, chin - 14), 40, [(0, light, 1), (0.7, mix(light, shade, 0.4), 1), (1, shade, 1)]),
    )
    for side in (-1, 1):
        wide = 37 * lips.half / 34
        pad = skia.Rect.MakeLTRB(min(0, side * wide * 1.25), 42, max(0, side * wide * 1.25), MOUTH_Y + 8 + lips.top * 0.4)
        canvas.drawOval(
            pad, radial((side * 18 - 6, 62), 46, [(0, mix(light, WHITE, 0.4), 1), (0.6, light, 1), (1, mix(light, shade, 0.7), 1)])
        )
        for i in range(6):
            canvas.drawCircle(side * (14 + 9 * (i % 3)), 66 + 9 * (i // 3) + 2 * (i % 3), 1.3, fill(shade, 0.9))
    with moved(canvas, 0, MOUTH_Y):
        if lips.gap > 0.5:
            draw_inside(canvas, lips)
            canvas.drawPath(gap_path(lips), stroke(INK, 2.2, 0.9))
        x, cy = lips.half, lips.corner_y - 2
        seam = curve(
            (-x, cy - 3), (-x * 0.85, cy + 7, -x * 0.2, lips.top + 5, 0, lips.top - 7), (x * 0.2, lips.top + 5, x * 0.85, cy + 7, x, cy - 3)
        )
        canvas.drawPath(seam, stroke(INK, 2.4, 0.9))
        canvas.drawLine(0, -24, 0, lips.top - 6, stroke(INK, 2.0, 0.7))


def draw_cat_nose(canvas: skia.Canvas, identity: Identity) -> None:
    blob(canvas, (0, 10), (22, 60), mix(identity.skin, WHITE, 0.5), 0.4)
    nose = symmetric((0, 48), (8, 46, 17, 46, 17, 51), (16, 58, 7, 65, 0, 66))
    canvas.drawPath(nose, linear((0, 46), (0, 66), [(0, mix(NOSE, WHITE, 0.25), 1), (1, times(NOSE, (200, 170, 170)), 1)]))
    blob(canvas, (-4, 51), (7, 3), WHITE, 0.7)


def draw_whiskers(canvas: skia.Canvas, identity: Identity) -> None:
    for side in (-1, 1):
        for i in range(3):
            y = 66.0 + 9 * i
            canvas.drawPath(
                curve((side * 34, y), (side * 70, y - 12 + 8 * i, side * 104, y - 14 + 12 * i, side * 138, y - 10 + 16 * i)),
                stroke(WHITE, 1.5, 0.85),
            )
