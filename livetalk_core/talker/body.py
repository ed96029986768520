"""Draws neck, shoulders and clothes, which do not move. Picture coordinates, 512 wide."""

from __future__ import annotations

from livetalk_core.talker.brush import BLACK, WHITE, Color, blob, clipped, curve, fill, linear, mix, rim, skia, smooth, stroke, times
from livetalk_core.talker.identity import Identity
from livetalk_core.talker.skin import deep_tone, light_tone, shadow_tone

AXIS = 256.0


def half_widths(identity: Identity) -> tuple[float, float]:
    """Half the neck's width and half the shoulders'."""
    bulk = 1 - identity.feminine
    return 41.0 + 19.0 * bulk, 198.0 + 30.0 * bulk


def shoulders_path(identity: Identity) -> skia.Path:
    neck, wide = half_widths(identity)
    return curve(
        (AXIS - neck - 6, 418),
        (AXIS - neck - 40, 436, AXIS - wide + 30, 438, AXIS - wide, 520),
        (AXIS - wide, 540, AXIS + wide, 540, AXIS + wide, 520),
        (AXIS + wide - 30, 438, AXIS + neck + 40, 436, AXIS + neck + 6, 418),
        (AXIS + neck, 470, AXIS - neck, 470, AXIS - neck - 6, 418),
        close=True,
    )


def neck_path(identity: Identity, lean_x: float) -> skia.Path:
    """The neck from the jaw, which is shifted by `lean_x`, to the shoulders."""
    neck, _ = half_widths(identity)
    top = AXIS + lean_x
    return curve(
        (top - neck, 300),
        (top - neck + 2, 370, AXIS - neck - 2, 400, AXIS - neck - 30, 438),
        (AXIS - 60, 540, AXIS + 60, 540, AXIS + neck + 30, 438),
        (AXIS + neck + 2, 400, top + neck - 2, 370, top + neck, 300),
        close=True,
    )


def draw_neck(canvas: skia.Canvas, identity: Identity, lean_x: float, chin_y: float) -> None:
    """Skin from jaw to collarbones, with the head's shadow down to a little below `chin_y`."""
    path = neck_path(identity, lean_x)
    shadow, deep = shadow_tone(identity), deep_tone(identity)
    canvas.drawPath(
        path, linear((AXIS - 60, 0), (AXIS + 70, 0), [(0, mix(identity.skin, shadow, 0.4), 1), (0.4, identity.skin, 1), (1, shadow, 1)])
    )
    with clipped(canvas, path):
        cast = curve(
            (AXIS + lean_x - 90, chin_y - 70),
            (AXIS + lean_x - 60, chin_y + 24, AXIS + lean_x - 10, chin_y + 46, AXIS + lean_x + 26, chin_y + 40),
            (AXIS + lean_x + 60, chin_y + 36, AXIS + lean_x + 84, chin_y, AXIS + lean_x + 90, chin_y - 70),
            close=True,
        )
        canvas.drawPath(cast, linear((0, chin_y - 20), (0, chin_y + 44), [(0, deep, 0.85), (0.5, deep, 0.6), (1, deep, 0.0)]))
        for side in (-1, 1):
            bone = curve((AXIS + side * 12, 462), (AXIS + side * 30, 448, AXIS + side * 66, 446, AXIS + side * 96, 440))
            canvas.drawPath(bone, stroke(deep, 3, 0.22))
            blob(canvas, (AXIS + side * 46, 458), (38, 7), light_tone(identity), 0.4, -side * 6.0)
            tendon = curve((AXIS + lean_x + side * 40, 384), (AXIS + side * 36, 420, AXIS + side * 24, 440, AXIS + side * 9, 462))
            canvas.drawPath(tendon, stroke(deep, 4, 0.13))
        blob(canvas, (AXIS, 468), (9, 7), deep, 0.35)


def draw_clothes(canvas: skia.Canvas, identity: Identity) -> None:
    GARMENTS[identity.clothes](canvas, identity)


def garment(canvas: skia.Canvas, path: skia.Path, color: Color) -> None:
    """A piece of cloth: lit from the upper left, soft folds, a darker edge."""
    light, dark = mix(color, WHITE, 0.16), times(color, (150, 142, 160))
    canvas.drawPath(path, linear((90, 420), (430, 530), [(0, light, 1), (0.45, color, 1), (1, dark, 1)]))
    with clipped(canvas, path):
        for x, y, turn in ((120, 500, 60), (170, 520, 75), (392, 500, -60), (344, 520, -75)):
            blob(canvas, (x, y), (70, 7), dark, 0.5, turn)
            blob(canvas, (x - 8, y - 4), (60, 5), light, 0.45, turn)
        blob(canvas, (150, 442), (80, 20), mix(color, WHITE, 0.4), 0.45, -16)
        rim(canvas, path, BLACK, 6, 0.2, layers=3)


def with_neckline(identity: Identity, low: float, wide: float, pointed: float, high: float = 424) -> skia.Path:
    """Shoulders below a neckline with y = `low` in the middle and `high` at the sides; pointed=0 is round, 1 a V."""
    neck, broad = half_widths(identity)
    x = neck + wide
    ease = 0.72 - 0.5 * pointed
    return curve(
        (AXIS - x, high),
        (AXIS - x - 50, high + 16, AXIS - broad + 26, 440, AXIS - broad, 530),
        (AXIS - broad, 545, AXIS + broad, 545, AXIS + broad, 530),
        (AXIS + broad - 26, 440, AXIS + x + 50, high + 16, AXIS + x, high),
        (AXIS + x * 0.86, high + (low - high) * 0.62, AXIS + x * ease, low, AXIS, low),
        (AXIS - x * ease, low, AXIS - x * 0.86, high + (low - high) * 0.62, AXIS - x, high),
        close=True,
    )


def draw_collar_edge(canvas: skia.Canvas, identity: Identity, low: float, wide: float, color: Color, thick: float) -> None:
    neck, _ = half_widths(identity)
    x = neck + wide
    edge = curve(
        (AXIS - x, 424),
        (AXIS - x * 0.86, 424 + (low - 424) * 0.62, AXIS - x * 0.72, low, AXIS, low),
        (AXIS + x * 0.72, low, AXIS + x * 0.86, 424 + (low - 424) * 0.62, AXIS + x, 424),
    )
    canvas.drawPath(edge, stroke(times(color, (170, 164, 176)), thick + 2))
    canvas.drawPath(edge, stroke(mix(color, WHITE, 0.08), thick))


def tee(canvas: skia.Canvas, identity: Identity) -> None:
    garment(canvas, with_neckline(identity, 470, 20, 0), identity.cloth)
    draw_collar_edge(canvas, identity, 470, 20, identity.cloth, 6)


def vneck(canvas: skia.Canvas, identity: Identity) -> None:
    garment(canvas, with_neckline(identity, 506, 20, 0.9), identity.cloth)


def turtleneck(canvas: skia.Canvas, identity: Identity) -> None:
    neck, _ = half_widths(identity)
    garment(canvas, with_neckline(identity, 440, 2, 0, high=398), identity.cloth)
    x = neck + 7
    roll = curve(
        (AXIS - x, 386),
        (AXIS - x * 0.5, 402, AXIS + x * 0.5, 402, AXIS + x, 386),
        (AXIS + x + 8, 410, AXIS + x + 8, 430, AXIS + x + 2, 446),
        (AXIS + x * 0.5, 462, AXIS - x * 0.5, 462, AXIS - x - 2, 446),
        (AXIS - x - 8, 430, AXIS - x - 8, 410, AXIS - x, 386),
        close=True,
    )
    color, dark = identity.cloth, times(identity.cloth, (150, 144, 160))
    canvas.drawPath(
        roll, linear((AXIS - x, 0), (AXIS + x, 0), [(0, mix(color, dark, 0.4), 1), (0.35, mix(color, WHITE, 0.14), 1), (1, dark, 1)])
    )
    with clipped(canvas, roll):
        for i in range(15):
            px = AXIS - x + i * x / 7
            canvas.drawLine(px, 380, px, 470, stroke(dark, 1.4, 0.4))
        blob(canvas, (AXIS, 390), (x, 16), dark, 0.6)


def hoodie(canvas: skia.Canvas, identity: Identity) -> None:
    hood = smooth(
        [
            (AXIS - 66, 404),
            (AXIS - 112, 424),
            (AXIS - 104, 462),
            (AXIS - 40, 492),
            (AXIS, 502),
            (AXIS + 40, 492),
            (AXIS + 104, 462),
            (AXIS + 112, 424),
            (AXIS + 66, 404),
            (AXIS + 52, 450),
            (AXIS, 478),
            (AXIS - 52, 450),
        ],
        close=True,
    )
    garment(canvas, with_neckline(identity, 474, 20, 0), identity.cloth)
    garment(canvas, hood, mix(identity.cloth, WHITE, 0.06))
    for side in (-1, 1):
        canvas.drawPath(
            curve((AXIS + side * 20, 492), (AXIS + side * 23, 500, AXIS + side * 20, 510, AXIS + side * 22, 520)),
            stroke(mix(identity.accent, WHITE, 0.4), 3.4),
        )


def shirt(canvas: skia.Canvas, identity: Identity) -> None:
    garment(canvas, with_neckline(identity, 498, 16, 0.9), identity.cloth)
    draw_collar(canvas, identity, identity.cloth)
    canvas.drawLine(AXIS, 498, AXIS, 520, stroke(times(identity.cloth, (170, 165, 176)), 2))


def draw_collar(canvas: skia.Canvas, identity: Identity, color: Color) -> None:
    neck, _ = half_widths(identity)
    for side in (-1, 1):
        wing = smooth(
            [
                (AXIS + side * (neck + 8), 402),
                (AXIS + side * (neck + 30), 430),
                (AXIS + side * (neck + 16), 474),
                (AXIS + side * 30, 492),
                (AXIS + side * 3, 498),
                (AXIS + side * 26, 462),
            ],
            close=True,
            tension=0.08,
        )
        canvas.drawPath(
            wing, linear((0, 400), (0, 496), [(0, times(color, (196, 190, 200)), 1), (0.4, mix(color, WHITE, 0.22), 1), (1, color, 1)])
        )
        canvas.drawPath(wing, stroke(times(color, (160, 154, 170)), 1.2, 0.8))


def blazer(canvas: skia.Canvas, identity: Identity) -> None:
    garment(canvas, with_neckline(identity, 500, 16, 0.9), identity.accent)
    draw_collar(canvas, identity, identity.accent)
    neck, broad = half_widths(identity)
    for side in (-1, 1):
        front = smooth(
            [
                (AXIS + side * (neck + 18), 420),
                (AXIS + side * (neck + 90), 438),
                (AXIS + side * (broad - 20), 462),
                (AXIS + side * (broad + 8), 536),
                (AXIS + side * 12, 536),
                (AXIS + side * 40, 490),
            ],
            close=True,
            tension=0.1,
        )
        garment(canvas, front, identity.cloth)
        lapel = smooth(
            [
                (AXIS + side * (neck + 16), 420),
                (AXIS + side * (neck + 50), 452),
                (AXIS + side * (neck + 34), 466),
                (AXIS + side * (neck + 44), 476),
                (AXIS + side * 18, 528),
                (AXIS + side * 44, 470),
            ],
            close=True,
            tension=0.06,
        )
        canvas.drawPath(lapel, fill(mix(identity.cloth, WHITE, 0.1 if side < 0 else 0.02)))
        canvas.drawPath(lapel, stroke(times(identity.cloth, (140, 136, 150)), 1.4, 0.8))


GARMENTS = {"tee": tee, "vneck": vneck, "shirt": shirt, "blazer": blazer, "hoodie": hoodie, "turtleneck": turtleneck}
