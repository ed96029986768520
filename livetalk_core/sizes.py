"""Picture sizes: each bucket has one area and many shapes; `choose_size` picks the nearest to a picture's shape."""

from __future__ import annotations

import math

Size = tuple[int, int]
"""(width, height) in pixels."""


def both_ways(*sizes: Size) -> tuple[Size, ...]:
    return tuple(dict.fromkeys([*sizes, *((height, width) for width, height in sizes)]))


BUCKETS: dict[str, tuple[Size, ...]] = {
    "64": both_ways((64, 64), (80, 48)),
    "128": both_ways((128, 128), (144, 112), (160, 96)),
    "256": both_ways((256, 256), (288, 224), (320, 192)),
    # The low-latency class around 720 x 416, multiples of 16.
    "416": both_ways((720, 416), (704, 432), (672, 448), (640, 480), (576, 528), (544, 544)),
    # InfiniteTalk's 627- and 960-pixel classes: published tables.
    "627": (
        *((1216, 320), (1024, 384), (896, 448), (768, 512), (704, 576), (640, 640), (576, 704), (512, 768)),
        *((448, 832), (448, 896), (384, 960), (384, 1088), (320, 1152), (320, 1216), (320, 1280)),
    ),
    "960": (
        *((2048, 448), (1792, 512), (1600, 576), (1408, 640), (1280, 704), (1216, 768), (1088, 832), (1024, 896), (960, 960)),
        *((896, 1024), (832, 1088), (768, 1152), (768, 1216), (704, 1280), (704, 1344), (640, 1408), (640, 1472)),
        *((576, 1536), (576, 1664), (512, 1856), (512, 1920)),
    ),
}


def choose_size(width: int, height: int, bucket: str) -> Size:
    """The bucket's size whose aspect ratio is nearest (on a log scale) to a picture's. ValueError for an unknown bucket."""
    if bucket not in BUCKETS:
        raise ValueError(f"bucket {bucket!r} must be one of {', '.join(BUCKETS)}")
    return min(BUCKETS[bucket], key=lambda size: abs(math.log(size[0] / size[1]) - math.log(width / height)))


def sizes_near(buckets: tuple[str, ...]) -> tuple[Size, ...]:
    """All sizes of some buckets."""
    return tuple(size for name in buckets for size in BUCKETS[name])


def suits(width: int, height: int, buckets: tuple[str, ...]) -> bool:
    """Whether a size's area and aspect ratio are within the range of these buckets' sizes."""
    areas = [w * h for w, h in sizes_near(buckets)]
    shapes = [w / h for w, h in sizes_near(buckets)]
    return min(areas) <= width * height <= max(areas) and min(shapes) <= width / height <= max(shapes)


def parse_size(text: str) -> Size:
    """'720x416' -> (720, 416). ValueError for another form."""
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isdecimal() and height.isdecimal()):
        raise ValueError(f"size {text!r} must be WIDTHxHEIGHT, such as 720x416")
    return int(width), int(height)
