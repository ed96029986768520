"""Draws hair styles from locks, behind and in front of the head. Coordinates of the head."""

from __future__ import annotations

import numpy as np

from livetalk_core.talker.brush import blob, clipped, fill, linear, mix, skia, smooth, stroke, times
from livetalk_core.talker.identity import Identity
from livetalk_core.talker.locks import lock, mirror, tones

COVERED = ("long", "wavy", "bob", "scarf")
"""Styles that hide the ears."""


def draw_back_hair(canvas: skia.Canvas, identity: Identity) -> None:
    """The hair behind the head."""
    style = identity.hair_style
    if style in BACKS:
        BACKS[style](canvas, identity)


def draw_front_hair(canvas: skia.Canvas, identity: Identity) -> None:
    """The hair over the forehead and beside the face."""
    if identity.hair_style in FRONTS:
        FRONTS[identity.hair_style](canvas, identity)


def back_long(canvas: skia.Canvas, identity: Identity) -> None:
    left = [(-20, -160), (-100, -130), (-126, -40), (-130, 60), (-140, 150), (-130, 224)]
    right = [(-x, y) for x, y in left]
    lock(canvas, identity, [left, [(0, -150), (0, -60), (0, 60), (0, 230)], right], strands=40, gloss=None, cast=False, salt=1)
    dark, _, _ = tones(identity)
    blob(canvas, (0, 120), (110, 130), times(dark, (140, 140, 150)), 0.8)


def front_long(canvas: skia.Canvas, identity: Identity) -> None:
    inner = [(3, -118), (-34, -106), (-64, -76), (-84, -28), (-91, 40), (-88, 110), (-92, 200), (-104, 300)]
    middle = [(1, -138), (-54, -128), (-92, -88), (-106, -22), (-110, 50), (-110, 120), (-116, 200), (-120, 300)]
    outer = [(0, -162), (-60, -164), (-112, -118), (-126, -36), (-128, 50), (-134, 120), (-146, 200), (-136, 300)]
    lock(canvas, identity, [inner, middle, outer], strands=30, gloss=0.27, salt=2)
    lock(canvas, identity, mirror([inner, middle, outer]), strands=30, gloss=0.27, salt=3)


def front_wavy(canvas: skia.Canvas, identity: Identity) -> None:
    """A deep side part; the hair falls in waves to the shoulders."""
    low = [(36, -124), (66, -112), (84, -78), (90, -24), (89, 20), (104, 66), (88, 118), (108, 168), (98, 214), (122, 262)]
    mid = [(36, -146), (78, -134), (104, -86), (110, -26), (108, 26), (126, 72), (110, 124), (132, 172), (114, 220), (128, 266)]
    top = [(34, -166), (94, -158), (126, -98), (128, -30), (126, 30), (150, 82), (132, 134), (158, 180), (134, 222), (134, 262)]
    lock(canvas, identity, [low, mid, top], strands=28, gloss=0.22, salt=3)
    low = [(38, -124), (4, -110), (-46, -84), (-82, -44), (-86, 8), (-102, 58), (-86, 112), (-108, 164), (-96, 214), (-122, 264)]
    mid = [(40, -146), (-34, -140), (-88, -100), (-110, -44), (-108, 16), (-126, 66), (-108, 122), (-132, 174), (-112, 222), (-128, 268)]
    top = [(42, -168), (-46, -180), (-114, -132), (-132, -50), (-126, 22), (-152, 76), (-132, 132), (-160, 182), (-136, 226), (-135, 264)]
    lock(canvas, identity, [low, mid, top], strands=36, gloss=0.26, salt=2)


def back_bob(canvas: skia.Canvas, identity: Identity) -> None:
    left = [(-20, -160), (-104, -126), (-128, -40), (-130, 50), (-122, 120)]
    lock(
        canvas,
        identity,
        [left, [(0, -150), (0, -60), (0, 20), (0, 124)], [(-x, y) for x, y in left]],
        strands=34,
        gloss=None,
        cast=False,
        salt=1,
    )
    blob(canvas, (0, 90), (100, 60), times(tones(identity)[0], (140, 140, 150)), 0.8)


def front_bob(canvas: skia.Canvas, identity: Identity) -> None:
    """Chin-length sides and a full fringe."""
    for side, salt in ((-1, 2), (1, 3)):
        inner = [(side * 30, -120), (side * 84, -50), (side * 92, 20), (side * 88, 80), (side * 74, 122)]
        outer = [(0, -168), (side * 62, -160), (side * 110, -122), (side * 128, -30), (side * 128, 60), (side * 110, 132)]
        lock(canvas, identity, [inner, outer], strands=20, gloss=0.4, salt=salt)
    left = [(-24, -162), (-80, -128), (-94, -84), (-88, -38)]
    lock(
        canvas,
        identity,
        [
            left,
            [(-8, -168), (-28, -122), (-32, -80), (-34, -40)],
            [(8, -168), (28, -122), (32, -80), (34, -40)],
            [(-x, y) for x, y in left],
        ],
        strands=36,
        gloss=0.45,
        salt=4,
    )


def front_crop(canvas: skia.Canvas, identity: Identity) -> None:
    """Close-cut, textured to the front."""
    x = 101.0
    shape = smooth(
        [
            (-97, 14),
            (-x - 4, -30),
            (-x - 3, -90),
            (-70, -142),
            (0, -160),
            (70, -142),
            (x + 3, -90),
            (x + 4, -30),
            (97, 14),
            (92, -36),
            (80, -78),
            (44, -98),
            (0, -102),
            (-44, -98),
            (-80, -78),
            (-92, -36),
        ],
        close=True,
    )
    dark, base, light = tones(identity)
    canvas.drawPath(shape, linear((0, -160), (0, 14), [(0, mix(base, light, 0.2), 1), (0.45, base, 1), (0.75, dark, 0.9), (1, dark, 0.35)]))
    rng = np.random.default_rng([identity.seed, 44])
    with clipped(canvas, shape):
        for _ in range(110):
            px, py = rng.uniform(-105, 105), rng.uniform(-158, -78)
            lean = px * 0.06
            tone = light if rng.random() < 0.45 else dark
            canvas.drawPath(smooth([(px, py), (px + lean, py + 7), (px + lean + 2, py + 15)]), stroke(tone, rng.uniform(1.2, 2.6), 0.2))
        blob(canvas, (-30, -140), (60, 18), light, 0.4)


def front_side(canvas: skia.Canvas, identity: Identity) -> None:
    """Short, parted at the picture's right and combed over."""
    fade(canvas, identity)
    low = [(52, -112), (14, -92), (-40, -84), (-92, -60), (-101, -22)]
    mid = [(54, -134), (0, -134), (-62, -118), (-102, -80), (-106, -24)]
    high = [(56, -150), (4, -172), (-70, -160), (-112, -102), (-108, -26)]
    lock(canvas, identity, [low, mid, high], strands=30, gloss=0.4, salt=2)
    lock(
        canvas,
        identity,
        [[(50, -118), (78, -96), (94, -50), (97, -16)], [(50, -150), (92, -138), (112, -80), (105, -18)]],
        strands=16,
        gloss=0.35,
        salt=3,
    )


def front_quiff(canvas: skia.Canvas, identity: Identity) -> None:
    """Swept up and back from the forehead, faded sides."""
    fade(canvas, identity)
    guides = [
        [(-86, -70), (-104, -104), (-98, -142), (-64, -168)],
        [(-52, -98), (-66, -132), (-48, -176), (2, -192)],
        [(0, -102), (-6, -144), (20, -186), (60, -190)],
        [(54, -96), (62, -132), (82, -160), (96, -150)],
        [(88, -68), (108, -100), (106, -126), (98, -140)],
    ]
    lock(canvas, identity, guides, strands=36, gloss=0.5, salt=2)


def fade(canvas: skia.Canvas, identity: Identity) -> None:
    """Clipped sides and the skull's top under longer hair."""
    dark, base, _ = tones(identity)
    cap = smooth(
        [
            (-96, 22),
            (-103, -40),
            (-96, -104),
            (-52, -150),
            (0, -158),
            (52, -150),
            (96, -104),
            (103, -40),
            (96, 22),
            (90, -34),
            (76, -80),
            (0, -108),
            (-76, -80),
            (-90, -34),
        ],
        close=True,
    )
    canvas.drawPath(cap, linear((0, -150), (0, 22), [(0, base, 1), (0.5, mix(base, dark, 0.5), 0.96), (0.8, dark, 0.7), (1, dark, 0.12)]))


def back_bun(canvas: skia.Canvas, identity: Identity) -> None:
    ring = [[(-44, -172), (-30, -206), (0, -216), (30, -206), (44, -172)], [(-26, -168), (-16, -184), (0, -188), (16, -184), (26, -168)]]
    lock(canvas, identity, [*ring, [(-40, -150), (-10, -158), (10, -158), (40, -150)]], strands=24, gloss=0.35, cast=False, salt=1)


def front_bun(canvas: skia.Canvas, identity: Identity) -> None:
    """Combed back tight from the hairline to the knot."""
    for side, salt in ((-1, 2), (1, 3)):
        low = [(side * 97, 10), (side * 88, -44), (side * 66, -92), (side * 26, -124), (0, -160)]
        mid = [(side * 102, -10), (side * 104, -80), (side * 74, -132), (side * 30, -156), (0, -168)]
        high = [(side * 99, 16), (side * 112, -70), (side * 84, -146), (side * 34, -172), (0, -174)]
        lock(canvas, identity, [low, mid, high], strands=24, gloss=0.5, salt=salt)
    lock(
        canvas,
        identity,
        [[(-66, -94), (-34, -120), (-8, -168)], [(0, -106), (0, -130), (0, -170)], [(66, -94), (34, -120), (8, -168)]],
        strands=26,
        gloss=0.5,
        salt=4,
    )


def curl_cloud(canvas: skia.Canvas, identity: Identity, count: int, low: float, salt: int) -> None:
    """Round curls packed around the skull, from angle `low` (degrees from straight up) on either side."""
    rng = np.random.default_rng([identity.seed, 60 + salt])
    dark, base, light = tones(identity)
    for i in range(count):
        angle = np.radians(rng.uniform(-low, low))
        reach = rng.uniform(0.74, 1.0) if i % 3 else 1.0
        x, y = np.sin(angle) * 122 * reach, -52 - np.cos(angle) * 122 * reach
        r = rng.uniform(17, 27)
        canvas.drawCircle(x, y, r, fill(mix(base, dark, rng.uniform(0.1, 0.7))))
        for turn in range(3):
            arc = [
                (x + np.cos(a) * r * (0.85 - 0.25 * turn), y + np.sin(a) * r * (0.85 - 0.25 * turn))
                for a in np.linspace(2.6, 5.6, 6) + rng.uniform(-0.6, 0.6)
            ]
            canvas.drawPath(smooth(arc), stroke(light, 1.6, 0.3 - 0.05 * turn))


def back_curls(canvas: skia.Canvas, identity: Identity) -> None:
    curl_cloud(canvas, identity, 70, 122, 1)


def front_curls(canvas: skia.Canvas, identity: Identity) -> None:
    rng = np.random.default_rng([identity.seed, 63])
    dark, base, light = tones(identity)
    for i in range(46):
        angle = np.radians(-96 + 192 * (i % 23) / 22 + rng.uniform(-4, 4))
        reach = (86 if i < 23 else 104) + rng.uniform(-5, 5)
        x, y = np.sin(angle) * reach * 1.04, -40 - np.cos(angle) * reach * 0.92
        r = rng.uniform(12, 18)
        canvas.drawCircle(x, y, r, fill(mix(base, dark, rng.uniform(0.0, 0.55))))
        for turn in range(2):
            arc = [
                (x + np.cos(a) * r * (0.8 - 0.3 * turn), y + np.sin(a) * r * (0.8 - 0.3 * turn))
                for a in np.linspace(2.4, 5.8, 6) + rng.uniform(-0.8, 0.8)
            ]
            canvas.drawPath(smooth(arc), stroke(light, 1.5, 0.36))


def front_pixie(canvas: skia.Canvas, identity: Identity) -> None:
    """Short, with a fringe swept across the forehead."""
    fade(canvas, identity)
    lock(
        canvas,
        identity,
        [[(60, -140), (84, -96), (96, -40), (98, 26)], [(58, -160), (112, -128), (118, -60), (104, 34)]],
        strands=16,
        gloss=0.35,
        salt=3,
    )
    low = [(58, -130), (30, -84), (-20, -52), (-70, -40), (-92, 6)]
    mid = [(60, -146), (0, -118), (-60, -92), (-100, -50), (-99, 22)]
    high = [(60, -160), (-10, -172), (-84, -148), (-120, -70), (-103, 34)]
    lock(canvas, identity, [low, mid, high], strands=34, gloss=0.33, salt=2)


FRONTS = {
    "long": front_long,
    "wavy": front_wavy,
    "bob": front_bob,
    "crop": front_crop,
    "side": front_side,
    "quiff": front_quiff,
    "bun": front_bun,
    "curls": front_curls,
    "pixie": front_pixie,
}
BACKS = {"long": back_long, "wavy": back_long, "bob": back_bob, "bun": back_bun, "curls": back_curls}
