"""A picture from the network: nothing is decoded before its header says that it is small enough."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

from PIL import Image
from torch import Tensor

from livetalk_core.media.faces import can_find, face_part, find_face
from livetalk_core.media.image import cover, crop_cover, load_picture, pillow_limit
from livetalk_core.presets import Preset
from livetalk_core.serve.limits import ClientLimits
from livetalk_core.serve.refusal import Refused

FORMATS = ("JPEG", "PNG", "WEBP")
"""Pillow reads many more; some start other programs, or have to be read whole to be known."""

MOST_SCANS = 100
"""Of a JPEG, whose scans can be a few bytes long and still take a pass over all pixels each. Usual are 1 to 14."""


def read_picture(data: bytes, size: str, preset: Preset, limits: ClientLimits) -> Tensor:
    """A picture file -> [3, H, W] in [-1, 1], cropped to the size that the client named, about the face where that would be small."""
    width, height = check_header(data, limits)
    chosen = limits.choose_size(size, (width, height), preset.live_bucket)
    if chosen is None:
        offered = ", ".join(limits.sizes(preset.live_bucket))
        raise Refused("size", f"size {size[:40]!r} is not offered; choose auto, {offered}, or one of their sizes as WIDTHxHEIGHT")
    image = decode(data)
    scaled, _ = cover(*image.size, *chosen)
    if scaled[0] * scaled[1] > limits.picture_pixels:
        raise Refused("picture", f"the picture of {width}x{height} pixels is too long and thin; crop it nearer to {chosen[0]}x{chosen[1]}")
    part = face_part(image, chosen, chosen, preset.face_share, preset.smallest_face(*chosen)) if can_find() else None
    return crop_cover(image if part is None else image.crop(part), *chosen)


def missing_face(data: bytes) -> str | None:
    """What to tell of a picture file in which no face is found; None if there is one, or nothing here can look for it."""
    if not can_find() or find_face(decode(data)) is not None:
        return None
    return "no face was found in the picture, so it may not talk; use one in which a face looks into the camera"


def check_header(data: bytes, limits: ClientLimits) -> tuple[int, int]:
    """Width and height as the file's first bytes give them."""
    if len(data) > limits.picture_bytes:
        raise Refused("picture", f"the picture file has {len(data) / 1e6:.1f} MB; the most is {limits.picture_mb} MB")
    try:
        with pillow_limit(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
    except (OSError, ValueError, SyntaxError):
        raise Refused("picture", f"the second message is not a picture that can be read; send {', '.join(FORMATS)}") from None
    if width * height > limits.picture_pixels:
        most = limits.picture_megapixels
        raise Refused("picture", f"the picture has {width}x{height} pixels; the most is {most} megapixels, so scale it down")
    if data.count(b"\xff\xda") > MOST_SCANS:
        raise Refused("picture", f"the picture has more than {MOST_SCANS} scans; save it again as an ordinary JPEG")
    return width, height


def decode(data: bytes) -> Image.Image:
    """The upright picture. Refused for one that is broken."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture"
        path.write_bytes(data)
        try:
            return load_picture(path).image
        except ValueError as error:
            raise Refused("picture", str(error).replace(f"{path}: ", "the picture file: ")) from None
