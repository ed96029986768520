"""Draws the blurred background, once per identity. Lengths are design units: the picture is 512 wide."""

from __future__ import annotations

import numpy as np

from livetalk_core.talker.brush import BLACK, WHITE, Color, blob, fill, linear, mix, radial, skia, times
from livetalk_core.talker.identity import Identity


def draw_backdrop(canvas: skia.Canvas, identity: Identity) -> None:
    rng = np.random.default_rng([identity.seed, 90])
    canvas.drawPaint(
        radial(
            (200, 190),
            430,
            [(0, mix(identity.back, WHITE, 0.32), 1), (0.55, identity.back, 1), (1, times(identity.back, (176, 172, 186)), 1)],
        )
    )
    SCENES[identity.backdrop](canvas, identity.back, rng)
    canvas.drawPaint(radial((256, 230), 400, [(0, BLACK, 0), (0.7, BLACK, 0), (1, (20, 16, 34), 0.22)]))


def soft_rect(canvas: skia.Canvas, box: tuple[float, float, float, float], color: Color, alpha: float, blur: float) -> None:
    """A blurred rectangle; box is x, y, width, height."""
    paint = fill(color, alpha)
    paint.setMaskFilter(skia.MaskFilter.MakeBlur(skia.kNormal_BlurStyle, blur))
    canvas.drawRect(skia.Rect.MakeXYWH(*box), paint)


def studio(canvas: skia.Canvas, back: Color, rng: np.random.Generator) -> None:
    blob(canvas, (150, 130), (260, 240), mix(back, WHITE, 0.6), 0.6)
    blob(canvas, (470, 470), (260, 240), times(back, (150, 150, 170)), 0.5)


def bokeh(canvas: skia.Canvas, back: Color, rng: np.random.Generator) -> None:
    canvas.drawPaint(fill(times(back, (120, 116, 136)), 0.65))
    for _ in range(26):
        x, y, r = rng.uniform(0, 512), rng.uniform(0, 400), rng.uniform(12, 42)
        light = mix(back, (255, 214, 150) if rng.random() < 0.6 else (170, 210, 255), 0.7)
        alpha = rng.uniform(0.12, 0.42)
        canvas.drawCircle(
            x, y, r, radial((x, y), r, [(0, light, alpha * 0.7), (0.82, light, alpha), (0.93, light, alpha * 0.8), (1, light, 0)])
        )


def window(canvas: skia.Canvas, back: Color, rng: np.random.Generator) -> None:
    left = float(rng.uniform(-40, 30)) if rng.random() < 0.6 else float(rng.uniform(330, 380))
    for column in range(2):
        for row in range(2):
            soft_rect(canvas, (left + 92 * column, 20 + 150 * row, 78, 136), mix(back, (255, 250, 232), 0.85), 0.85, 9)
    blob(canvas, (left + 90, 160), (230, 230), (255, 246, 220), 0.4)


def shelves(canvas: skia.Canvas, back: Color, rng: np.random.Generator) -> None:
    canvas.drawPaint(fill(times(back, (190, 178, 168)), 0.5))
    for row in range(4):
        y, x = 92.0 + 110 * row, float(rng.uniform(-10, 10))
        soft_rect(canvas, (-20, y, 560, 9), times(back, (120, 96, 84)), 0.8, 5)
        while x < 520:
            wide, tall = float(rng.uniform(10, 24)), float(rng.uniform(46, 78))
            book = mix(back, tuple(rng.uniform(60, 235, 3)), 0.5)
            if rng.random() < 0.8:
                soft_rect(canvas, (x, y - tall, wide, tall), book, 0.8, 4.5)
            x += wide + float(rng.uniform(1, 8))


def garden(canvas: skia.Canvas, back: Color, rng: np.random.Generator) -> None:
    canvas.drawPaint(linear((0, 0), (0, 512), [(0, mix(back, (206, 232, 246), 0.8), 1), (0.5, (190, 214, 170), 1), (1, (110, 146, 98), 1)]))
    for _ in range(34):
        green = mix((76, 122, 74), (196, 214, 120), float(rng.uniform()))
        blob(
            canvas,
            (rng.uniform(-30, 540), rng.uniform(120, 500)),
            (rng.uniform(40, 95), rng.uniform(36, 80)),
            green,
            rng.uniform(0.3, 0.75),
        )
    for _ in range(12):
        x, y, r = rng.uniform(0, 512), rng.uniform(20, 330), rng.uniform(8, 22)
        canvas.drawCircle(x, y, r, fill((255, 252, 214), 0.18))


def sunset(canvas: skia.Canvas, back: Color, rng: np.random.Generator) -> None:
    canvas.drawPaint(
        linear((0, 0), (0, 512), [(0, (96, 98, 150), 1), (0.4, (214, 144, 150), 1), (0.7, (250, 196, 140), 1), (1, (120, 92, 120), 1)])
    )
    blob(canvas, (rng.uniform(60, 180), 300), (200, 170), (255, 232, 176), 0.9)
    for _ in range(8):
        blob(canvas, (rng.uniform(0, 512), rng.uniform(40, 240)), (rng.uniform(80, 160), rng.uniform(10, 22)), (255, 214, 200), 0.4)
    for _ in range(10):
        wide, tall = rng.uniform(40, 90), rng.uniform(60, 190)
        soft_rect(canvas, (rng.uniform(-40, 500), 512 - tall, wide, tall), (84, 72, 108), 0.55, 9)


SCENES = {"studio": studio, "bokeh": bokeh, "window": window, "shelves": shelves, "garden": garden, "sunset": sunset}
