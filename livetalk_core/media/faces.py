"""Finds the face in a picture, and the part of the picture around it that a model talks best with.

The detector is OpenCV's, version 4, whose wheel carries its cascades; it is optional.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image

from livetalk_core.media.image import crop_box

Box = tuple[int, int, int, int]
"""left, top, right, bottom in pixels."""
HOW = 'finding a face needs OpenCV 4, which is not installed: pip install "opencv-python-headless>=4.10,<5"'
LONG_SIDE = 480
"""The picture is searched at this size: faces from about a twentieth of it on are found."""
LEAST_FACE = 24
CERTAIN = 6
"""How many windows around a face must agree."""
FACE_Y = 0.46
"""Where the middle of the found face, from brows to chin, lies in the crop, from its top."""


def can_find() -> bool:
    """Whether the detector is installed."""
    try:
        return cascade() is not None
    except ImportError:
        return False


def find_face(image: Image.Image) -> Box | None:
    """The largest face, a square from brows to chin; None without one. ImportError without the detector."""
    finder, scale = cascade(), min(1.0, LONG_SIDE / max(image.size))
    small = image.convert("L").resize([max(1, round(scale * side)) for side in image.size], Image.Resampling.BOX)
    found = finder.detectMultiScale(np.asarray(small), 1.1, CERTAIN, minSize=(LEAST_FACE, LEAST_FACE))
    if not len(found):
        return None
    x, y, width, height = (round(float(value) / scale) for value in max(found, key=lambda box: box[2] * box[3]))
    return x, y, x + width, y + height


def face_part(
    image: Image.Image, video_WH: tuple[int, int], shape_WH: tuple[int, int], share: float, small: int | None = None
) -> Box | None:
    """The part of this shape around the face, see `around_face`; None without a face. ImportError without the detector.

    With `small`, also None where the face has that many pixels or more in a video of the picture's middle.
    """
    face = find_face(image)
    if face is None:
        return None
    _, top, _, bottom = crop_box(*image.size, *video_WH)
    if small is not None and (face[3] - face[1]) * video_WH[1] / (bottom - top) >= small:
        return None
    return around_face(image.size, face, share, shape_WH)


def around_face(image_WH: tuple[int, int], face: Box, share: float, shape_WH: tuple[int, int] = (1, 1)) -> Box:
    """A part of this shape inside the picture, whose height the face fills to `share`, or more where the picture is not high enough."""
    left, top, right, bottom = face
    height = min((bottom - top) / share, image_WH[1], image_WH[0] * shape_WH[1] / shape_WH[0])
    size_WH = (min(image_WH[0], round(height * shape_WH[0] / shape_WH[1])), round(height))
    start = ((left + right) / 2 - size_WH[0] / 2, (top + bottom) / 2 - FACE_Y * size_WH[1])
    x, y = (min(max(0, round(at)), whole - side) for at, whole, side in zip(start, image_WH, size_WH, strict=True))
    return x, y, x + size_WH[0], y + size_WH[1]


@cache
def cascade():
    """OpenCV's finder of frontal faces. ImportError without it."""
    try:
        import cv2

        return cv2.CascadeClassifier(f"{cv2.data.haarcascades}haarcascade_frontalface_alt2.xml")
    except (ImportError, AttributeError) as error:
        raise ImportError(HOW) from error
