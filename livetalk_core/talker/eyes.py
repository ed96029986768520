"""Draws eyes and brows: lids, lashes, iris and catch light. Coordinates of the head (y = 0 is the line through the eyes)."""

from __future__ import annotations

from livetalk_core.talker.brush import BLACK, WHITE, Color, blob, clipped, curve, fill, linear, mix, moved, radial, skia, stroke, times
from livetalk_core.talker.identity import Identity, Pose

SCLERA: Color = (250, 246, 243)
LASH: Color = (38, 24, 24)


def eye_x(identity: Identity) -> float:
    """Distance of each eye's middle from the axis."""
    return 40.0 + 5.5 * identity.eye_gap


def eye_size(identity: Identity) -> tuple[float, float]:
    """Half width and half height of an open eye."""
    return 21.0 + 4.5 * identity.eye_size, 11.0 + 4.0 * identity.eye_size + 1.6 * identity.feminine


def lid_curves(identity: Identity, pose: Pose, side: int) -> tuple[skia.Path, skia.Path, skia.Path]:
    """The opening between the lids, the upper lid's edge alone, and the lid's skin from its crease to that edge."""
    wide, high = eye_size(identity)
    tilt = 0.8 + 5.0 * (identity.eye_tilt - 0.35)
    shut = pose.blink
    rise = high * (1.28 + 0.12 * pose.brow) * (1 - shut) - high * 0.5 * shut
    drop = high * (0.86 - 0.22 * pose.smile) * (1 - 0.25 * shut)
    tear, tail = (-side * wide, 2.6), (side * wide, 1.0 - tilt)
    top = (-side * wide * 0.5, -rise + 1.0, side * wide * 0.42, -rise - tilt * 0.8, *tail)
    bottom = (side * wide * 0.6, drop - tilt * 0.4, -side * wide * 0.32, drop + 1.5, *tear)
    crease = high * 1.62
    cover = (side * wide * 0.5, -crease - tilt, -side * wide * 0.6, -crease * 0.92, -side * wide * 1.02, -0.5)
    lid = curve(tear, top, (side * wide * 1.08, -tilt, side * wide * 1.1, -tilt - 2, side * wide * 1.06, -tilt - 2), cover, close=True)
    return curve(tear, top, bottom, close=True), curve(tear, top), lid


def draw_eye(canvas: skia.Canvas, identity: Identity, pose: Pose, side: int) -> None:
    """One eye; side is -1 for the picture's left. The canvas's origin is the eye's middle."""
    wide, high = eye_size(identity)
    opening, edge, lid = lid_curves(identity, pose, side)
    deep = times(identity.skin, (176, 118, 108))
    blob(canvas, (-side * 5, -high * 0.8), (wide * 1.5, high * 1.9), deep, 0.30 + 0.1 * identity.feminine)
    blob(canvas, (0, high * 1.5), (wide * 1.1, high * 0.8), deep, 0.14 + 0.25 * identity.age)
    with clipped(canvas, opening):
        draw_ball(canvas, identity, pose, side)
    draw_lid(canvas, identity, lid, high, deep)
    draw_lashes(canvas, identity, pose, side, edge)
    draw_lower_lid(canvas, identity, pose, side, deep)


def draw_ball(canvas: skia.Canvas, identity: Identity, pose: Pose, side: int) -> None:
    wide, high = eye_size(identity)
    canvas.drawPaint(fill(SCLERA))
    for end in (-1, 1):
        blob(canvas, (end * wide, 1), (wide * 0.62, high * 1.7), (196, 168, 166), 0.75)
    blob(canvas, (-side * wide * 0.98, 3), (4, 3), (226, 142, 138), 0.9)
    with moved(canvas, pose.gaze_x * wide * 0.36, -1.0 + pose.gaze_y * high * 0.36):
        draw_iris(canvas, identity, high * 0.92)
    canvas.drawPaint(
        linear((0, -high * 1.25), (0, high * 0.15), [(0, (52, 34, 40), 0.62), (0.45, (52, 34, 40), 0.26), (1, (52, 34, 40), 0)])
    )


def draw_iris(canvas: skia.Canvas, identity: Identity, radius: float) -> None:
    color = identity.iris
    light, ring = mix(color, (255, 232, 190), 0.42), mix(times(color, (120, 110, 120)), BLACK, 0.3)
    canvas.drawCircle(
        0,
        0,
        radius,
        radial((0, radius * 0.25), radius * 1.05, [(0, light, 1), (0.5, color, 1), (0.8, times(color, (190, 185, 190)), 1), (1, ring, 1)]),
    )
    for i in range(20):
        with_angle = skia.Matrix.RotateDeg(18.0 * i + 4 * (i % 3))
        a, b = with_angle.mapPoints([skia.Point(radius * 0.42, 0), skia.Point(radius * (0.72 + 0.06 * (i % 3)), 0)])
        canvas.drawLine(a.x(), a.y(), b.x(), b.y(), stroke(light if i % 2 else ring, radius * 0.07, 0.30))
    blob(canvas, (0, radius * 0.55), (radius * 0.62, radius * 0.34), mix(light, WHITE, 0.35), 0.55)
    canvas.drawCircle(0, 0, radius * 0.95, stroke(ring, radius * 0.11, 0.55))
    canvas.drawCircle(0, 0, radius * 0.42, fill((16, 11, 14)))
    canvas.drawOval(skia.Rect.MakeXYWH(-radius * 0.62, -radius * 0.66, radius * 0.48, radius * 0.44), fill(WHITE, 0.95))
    canvas.drawCircle(radius * 0.36, radius * 0.42, radius * 0.12, fill(WHITE, 0.55))


def draw_lid(canvas: skia.Canvas, identity: Identity, lid: skia.Path, high: float, deep: Color) -> None:
    shadow = mix(identity.skin, deep, 0.28 + 0.3 * identity.feminine)
    canvas.drawPath(
        lid,
        linear(
            (0, -high * 1.7),
            (0, high * 0.4),
            [(0, mix(identity.skin, deep, 0.45), 1), (0.3, shadow, 1), (1, mix(identity.skin, WHITE, 0.1), 1)],
        ),
    )


def draw_lashes(canvas: skia.Canvas, identity: Identity, pose: Pose, side: int, edge: skia.Path) -> None:
    """The dark edge of the upper lid, heavier to the outside, the crease above it and single lashes."""
    wide, high = eye_size(identity)
    tilt = 0.8 + 5.0 * (identity.eye_tilt - 0.35)
    weight = 1.7 + 1.5 * identity.feminine
    canvas.drawPath(edge, stroke(LASH, weight, 0.92))
    start, points = edge.getPoint(0), [edge.getPoint(i) for i in range(1, 4)]
    thick = curve(
        (start.x(), start.y()),
        (points[0].x(), points[0].y(), points[1].x(), points[1].y(), points[2].x(), points[2].y()),
        (
            side * (wide + 2),
            -tilt,
            side * (wide + 3.5),
            -tilt - 1.5,
            side * (wide + 3 + 2 * identity.feminine),
            -tilt - 2.2 * (1 - pose.blink),
        ),
        (points[1].x(), points[1].y() - 3.2 - identity.feminine, points[0].x(), points[0].y() - 1.4, start.x(), start.y()),
        close=True,
    )
    canvas.drawPath(thick, fill(LASH, 0.92))
    crease = high * 1.62
    fold = curve(
        (-side * wide * 0.94, -3.5),
        (-side * wide * 0.6, -crease * 0.95, side * wide * 0.5, -crease - tilt, side * wide * 1.02, -tilt - 3.5),
    )
    canvas.drawPath(fold, stroke(times(identity.skin, (130, 82, 78)), 1.2, 0.62))
    if identity.feminine > 0.55:
        draw_single_lashes(canvas, pose, side, wide, tilt)


def draw_single_lashes(canvas: skia.Canvas, pose: Pose, side: int, wide: float, tilt: float) -> None:
    lift = 1 - 1.5 * pose.blink
    for place, length in ((0.8, 3.4), (0.97, 5.0)):
        x = side * wide * place
        y = -tilt - (1 - place) * 16 * max(0.0, 1 - pose.blink) + 3 * pose.blink
        canvas.drawPath(
            curve(
                (x, y),
                (x + side * length * 0.4, y, x + side * length, y - length * 0.4 * lift, x + side * length * 1.1, y - length * 0.75 * lift),
            ),
            stroke(LASH, 0.9, 0.85),
        )


def draw_lower_lid(canvas: skia.Canvas, identity: Identity, pose: Pose, side: int, deep: Color) -> None:
    wide, high = eye_size(identity)
    tilt = 0.8 + 5.0 * (identity.eye_tilt - 0.35)
    drop = high * (0.86 - 0.22 * pose.smile) * (1 - 0.25 * pose.blink)
    line = curve((side * wide, 1.0 - tilt), (side * wide * 0.6, drop - tilt * 0.4, -side * wide * 0.32, drop + 1.5, -side * wide, 2.6))
    canvas.drawPath(line, stroke(mix(deep, LASH, 0.35), 1.0, 0.6))
    with moved(canvas, 0, 1.4):
        canvas.drawPath(line, stroke(mix(identity.skin, WHITE, 0.45), 1.0, 0.4))
    if identity.age > 0.35:
        with moved(canvas, -side * 2, 5.5):
            canvas.drawPath(line, stroke(deep, 1.2, 0.5 * identity.age))


def draw_brow(canvas: skia.Canvas, identity: Identity, pose: Pose, side: int) -> None:
    """One brow; the canvas's origin is the eye's middle."""
    wide, high = eye_size(identity)
    thick = 3.2 + 4.4 * identity.brow_weight + 2.2 * (1 - identity.feminine)
    y = -high - 15.5 - 5.0 * pose.brow + 2.0 * (1 - identity.feminine)
    arch = 2.0 + 3.0 * identity.feminine
    head, tail = -side * wide * 0.92, side * wide * 1.22
    peak = side * wide * 0.58
    shape = curve(
        (head, y + thick * 0.5 - 1.5),
        (head + side * 1, y - thick * 0.5 - 1.5, -side * wide * 0.1, y - arch * 0.7 - thick * 0.5, peak, y - arch - thick * 0.42),
        (side * wide * 0.86, y - arch - thick * 0.3, side * wide * 1.08, y - arch * 0.1, tail, y + arch * 0.9),
        (side * wide * 1.02, y + thick * 0.2, side * wide * 0.84, y - arch + thick * 0.45, peak, y - arch + thick * 0.5),
        (-side * wide * 0.1, y - arch * 0.6 + thick * 0.6, head + side * 4, y + thick * 0.8 - 1, head, y + thick * 0.5 - 1.5),
        close=True,
    )
    color = mix(times(identity.hair, (190, 175, 170)), times(identity.skin, (120, 90, 80)), 0.25)
    canvas.drawPath(shape, linear((head, 0), (tail, 0), [(0, color, 0.5), (0.3, color, 0.9), (1, color, 0.95)]))
    with clipped(canvas, shape):
        for i in range(9):
            x = head + side * wide * 0.25 * i
            lean = side * (1.5 + 1.1 * i)
            canvas.drawLine(x, y + thick, x + lean, y - thick - arch + 0.5 * i, stroke(times(color, (170, 165, 165)), 0.8, 0.14))
