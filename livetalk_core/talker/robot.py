"""Draws a robot: painted metal, a glass visor with glowing eyes, and a rubber mouth on a moving jaw."""

from __future__ import annotations

from livetalk_core.talker.brush import (
    BLACK,
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
    stroke,
    symmetric,
    times,
)
from livetalk_core.talker.identity import Identity, Mouth, Pose
from livetalk_core.talker.mouth import draw_lips, measure

MOUTH_Y = 92.0
EYE_X = 40.0
RUBBER: Color = (74, 78, 90)
GLASS: Color = (24, 28, 40)
STEEL: Color = (150, 158, 172)


def glow(identity: Identity) -> Color:
    """Color of the glowing eyes and lamp: a bright version of the iris color."""
    top = max(identity.iris)
    return mix(tuple(c * 255 / top for c in identity.iris), (90, 230, 255), 0.5)


def draw_antenna(canvas: skia.Canvas, identity: Identity) -> None:
    light = glow(identity)
    for side in (-1, 1):
        ear = skia.RRect.MakeRectXY(skia.Rect.MakeLTRB(side * 112 - 13, -34, side * 112 + 13, 44), 11, 11)
        canvas.drawRRect(
            ear, linear((0, -34), (0, 44), [(0, mix(STEEL, WHITE, 0.5), 1), (0.5, STEEL, 1), (1, times(STEEL, (130, 130, 140)), 1)])
        )
        blob(canvas, (side * 118, 4), (7, 18), light, 0.8)
    canvas.drawLine(0, -130, 0, -168, stroke(STEEL, 6))
    canvas.drawLine(-1.5, -130, -1.5, -168, stroke(WHITE, 1.6, 0.6))
    blob(canvas, (0, -174), (26, 26), light, 0.6)
    canvas.drawCircle(0, -174, 10, radial((-3, -178), 14, [(0, WHITE, 1), (0.5, light, 1), (1, times(light, (140, 140, 160)), 1)]))


def shell_path() -> skia.Path:
    return symmetric((0, -136), (70, -138, 108, -110, 110, -44), (111, 0, 110, 40, 100, 62), (60, 66, 30, 66, 0, 66))


def jaw_path(drop: float) -> skia.Path:
    return symmetric(
        (0, 58 + drop * 0.1),
        (40, 58 + drop * 0.1, 70, 58, 101, 52),
        (101, 92 + drop * 0.7, 84, 138 + drop, 44, 142 + drop),
        (30, 144 + drop, 14, 144 + drop, 0, 144 + drop),
    )


def draw_jaw(canvas: skia.Canvas, identity: Identity, drop: float) -> None:
    path = jaw_path(drop)
    plate(canvas, path, mix(identity.skin, WHITE, 0.08))
    with clipped(canvas, path):
        blob(canvas, (0, 62), (120, 12), BLACK, 0.4)
        for side in (-1, 1):
            canvas.drawPath(
                curve((side * 64, 60), (side * 66, 100, side * 58, 124 + drop, side * 48, 150 + drop)),
                stroke(times(identity.skin, (120, 120, 134)), 1.8, 0.7),
            )
            bolt(canvas, side * 82, 84 + drop * 0.5)


def draw_shell(canvas: skia.Canvas, identity: Identity) -> None:
    path = shell_path()
    plate(canvas, path, identity.skin)
    seam = times(identity.skin, (120, 120, 134))
    with clipped(canvas, path):
        canvas.drawPath(curve((0, -140), (2, -110, 2, -90, 0, -62)), stroke(seam, 2, 0.7))
        canvas.drawPath(curve((-112, -66), (-60, -82, 60, -82, 112, -66)), stroke(seam, 2, 0.6))
        blob(canvas, (-44, -104), (44, 18), WHITE, 0.8, -22)
    for side in (-1, 1):
        bolt(canvas, side * 88, -84)
        bolt(canvas, side * 90, 48)


def plate(canvas: skia.Canvas, path: skia.Path, color: Color) -> None:
    """Painted metal: lit from the left, dark at the right, with a bright edge."""
    dark = times(color, (138, 140, 158))
    stops = [
        (0, times(color, (205, 205, 215)), 1),
        (0.2, mix(color, WHITE, 0.45), 1),
        (0.45, color, 1),
        (0.85, dark, 1),
        (1, mix(dark, WHITE, 0.2), 1),
    ]
    canvas.drawPath(path, linear((-112, -40), (112, 40), stops))
    with clipped(canvas, path):
        rim(canvas, path, times(dark, (150, 150, 165)), 9, 0.5)
    canvas.drawPath(path, stroke(times(dark, (120, 120, 135)), 1.4, 0.8))


def bolt(canvas: skia.Canvas, x: float, y: float) -> None:
    canvas.drawCircle(x, y, 4.6, radial((x - 1.5, y - 1.5), 6, [(0, WHITE, 1), (0.5, STEEL, 1), (1, times(STEEL, (110, 110, 120)), 1)]))
    canvas.drawLine(x - 2, y + 2, x + 2, y - 2, stroke(times(STEEL, (90, 90, 100)), 1.2, 0.9))


def draw_visor(canvas: skia.Canvas, identity: Identity) -> None:
    frame = skia.RRect.MakeRectXY(skia.Rect.MakeLTRB(-91, -46, 91, 44), 42, 42)
    canvas.drawRRect(frame, linear((0, -46), (0, 44), [(0, times(STEEL, (120, 120, 130)), 1), (1, mix(STEEL, WHITE, 0.6), 1)]))
    glass = skia.RRect.MakeRectXY(skia.Rect.MakeLTRB(-85, -40, 85, 38), 37, 37)
    canvas.drawRRect(glass, linear((0, -40), (0, 40), [(0, GLASS, 1), (1, mix(GLASS, (70, 90, 130), 0.5), 1)]))


def draw_visor_shine(canvas: skia.Canvas, identity: Identity) -> None:
    shine = curve((-70, -30), (-40, -38, 20, -38, 50, -36), (10, -24, -30, -16, -74, 2), (-80, -10, -80, -24, -70, -30), close=True)
    canvas.drawPath(shine, linear((-70, -40), (0, 0), [(0, WHITE, 0.34), (1, WHITE, 0.02)]))


def draw_lamp_eye(canvas: skia.Canvas, identity: Identity, pose: Pose, side: int) -> None:
    """A glowing ring and pupil, flattened to a line in a blink; the canvas's origin is the visor's middle."""
    light = glow(identity)
    open_ = max(0.09, 1 - pose.blink)
    size = 17.0 + 6 * identity.eye_size
    canvas.save()
    canvas.translate(side * EYE_X + pose.gaze_x * 9, pose.gaze_y * 6)
    blob(canvas, (0, 0), (size * 2.0, size * 2.0 * (0.3 + 0.7 * open_)), light, 0.5)
    canvas.scale(1, open_)
    canvas.drawCircle(
        0,
        0,
        size,
        radial((0, 0), size, [(0, WHITE, 1), (0.4, mix(light, WHITE, 0.5), 1), (0.8, light, 1), (1, times(light, (190, 190, 210)), 1)]),
    )
    canvas.drawCircle(0, 0, size * 0.42, fill(GLASS, 0.92))
    canvas.drawCircle(-size * 0.3, -size * 0.34, size * 0.2, fill(WHITE, 0.95))
    canvas.restore()
    brow_y = -27.0 - 6 * pose.brow
    canvas.drawPath(
        curve(
            (side * (EYE_X - 16), brow_y + 2),
            (side * (EYE_X - 6), brow_y - 3, side * (EYE_X + 8), brow_y - 3, side * (EYE_X + 18), brow_y + 3),
        ),
        stroke(light, 3.4, 0.8),
    )


def draw_robot_mouth(canvas: skia.Canvas, identity: Identity, mouth: Mouth, pose: Pose) -> None:
    lips = measure(identity, mouth, pose.smile)
    with moved(canvas, 0, MOUTH_Y):
        blob(canvas, (0, (lips.top + lips.bottom) / 2), (lips.half * 1.5, lips.gap * 0.5 + lips.lower + 14), BLACK, 0.5)
        draw_lips(canvas, lips, RUBBER)
