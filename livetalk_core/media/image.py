"""Pictures: any file -> upright sRGB, and the crop that the model was trained with. Axes: C channels, H W size."""

from __future__ import annotations

import functools
import io
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageCms, ImageOps
from torch import Tensor

from livetalk_core.media.source import check_file

MIN_SIDE = 32
MAX_PIXELS = 200_000_000
MAX_SCALED_PIXELS = 1_000_000_000
SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I")
HEIF_HEAD = 1 << 16
"""Bytes in which a HEIC file's properties stand."""
PILLOW_LIMIT = threading.Lock()
"""Held while Pillow's process-wide pixel limit is changed."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An upright 8-bit sRGB picture, and one sentence for each thing that was changed to make it one."""

    image: Image.Image
    notes: tuple[str, ...]


def load_picture(path: str | Path) -> Picture:
    """Any picture that Pillow reads -> upright sRGB: EXIF orientation, color profile, 16 bits and alpha (over white) are applied.

    Raises FileNotFoundError or ValueError, in one line, for a file that is missing, empty, no picture, cut short,
    under 32 pixels on a side or over 200 megapixels (known from the header, before anything is decoded).
    """
    path = check_file(path, "picture")
    notes: list[str] = []
    with pillow_limit(), open_picture(path) as image:
        check_size(str(path), *image.size)
        num_frames = count_frames(path, image)
        decode_picture(path, image)
        settle_heif_orientation(path, image)
        upright = ImageOps.exif_transpose(image)
    if num_frames > 1:
        notes.append(f"the file holds {num_frames} pictures; the first one is used")
    return Picture(image=to_srgb(str(path), upright, notes), notes=tuple(notes))


def picture_from_tensor(image_HWC: Tensor) -> Image.Image:
    """RGB of floats in [0, 1], [H, W, 3], or [H, W, 4] with alpha composited over white. Values outside are clipped; ValueError for NaN."""
    if image_HWC.ndim != 3 or image_HWC.shape[2] not in (3, 4):
        raise ValueError(f"picture tensor of shape {tuple(image_HWC.shape)} must be [height, width, 3 or 4]; of a batch, give one picture")
    if not image_HWC.is_floating_point():
        raise ValueError(f"picture tensor of type {image_HWC.dtype} must hold floats in [0, 1]; divide 8-bit values by 255")
    check_size("picture tensor", image_HWC.shape[1], image_HWC.shape[0])
    pixels_HWC = image_HWC.detach().float().cpu()
    if not torch.isfinite(pixels_HWC).all():
        raise ValueError("picture tensor has NaN or infinity; every value must be 0 to 1")
    image = Image.fromarray((pixels_HWC.clamp(0, 1) * 255).round().to(torch.uint8).numpy())
    return to_srgb("picture tensor", image, [])


Focus = tuple[float, float]
"""The point of a picture that its crop is centered on, as far as the picture goes: fractions from the left and from the top."""
CENTER: Focus = (0.5, 0.5)
FOCUSES = {"center": CENTER, "top": (0.5, 0.0)}
NOTED_CUT = 0.05
"""Part of a side that may be cut without a word."""


def crop_cover(image: Image.Image, width: int, height: int, dtype: torch.dtype = torch.float32, focus: Focus = CENTER) -> Tensor:
    """The published crop: scale to cover, cut the center, or around another point; [3, H, W] in [-1, 1], computed in `dtype`."""
    scaled, (left, top) = cover(*image.size, width, height, focus)
    resized = image.convert("RGB").resize(scaled, Image.Resampling.BILINEAR)
    pixels_HWC = np.array(resized.crop((left, top, left + width, top + height)))
    pixels_CHW = torch.from_numpy(pixels_HWC).permute(2, 0, 1).contiguous().to(dtype)
    return ((pixels_CHW / 255) - 0.5) * 2


def parse_focus(text: str) -> Focus:
    """'center', 'top', or 'X,Y' with fractions 0 to 1 from the left and the top. ValueError for anything else."""
    if text.strip().lower() in FOCUSES:
        return FOCUSES[text.strip().lower()]
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        x = y = math.nan
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise ValueError(
            f"crop {text!r} must be auto, face, center, top, or X,Y with fractions of the picture from 0 to 1, such as 0.5,0.3"
        )
    return x, y


def crop_note(width0: int, height0: int, width: int, height: int, focus: Focus = CENTER) -> str | None:
    """One sentence on how much of a picture is cut; None where that is a twentieth of a side or less."""
    left, top, right, bottom = crop_box(width0, height0, width, height, focus)
    cuts = {"left": left / width0, "right": 1 - right / width0, "top": top / height0, "bottom": 1 - bottom / height0}
    if sum(cuts.values()) <= NOTED_CUT:
        return None
    parts = " and ".join(f"{100 * cut:.0f} % at the {side}" for side, cut in cuts.items() if cut > 0.005)
    return f"of {width0}x{height0} pixels, {parts} are cut to fill {width}x{height}"


def crop_box(width0: int, height0: int, width: int, height: int, focus: Focus = CENTER) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) in pixels of a width0 x height0 picture: what `crop_cover` keeps of it."""
    (scaled_width, scaled_height), (left, top) = cover(width0, height0, width, height, focus)
    x, y = width0 / scaled_width, height0 / scaled_height
    return (left * x, top * y, (left + width) * x, (top + height) * y)


def cover(width0: int, height0: int, width: int, height: int, focus: Focus = CENTER) -> tuple[tuple[int, int], tuple[int, int]]:
    """((scaled width, scaled height), (left, top)) in whole pixels; halves round to even, as published."""
    scale = max(height / height0, width / width0)
    scaled_width, scaled_height = math.ceil(scale * width0), math.ceil(scale * height0)
    if scaled_width * scaled_height > MAX_SCALED_PIXELS:
        raise ValueError(
            f"picture of {width0}x{height0} pixels is too long and thin to fill {width}x{height}; crop it nearer to that shape"
        )
    left, top = (
        round(min(max(at * scaled - kept / 2, 0), scaled - kept))
        for at, scaled, kept in zip(focus, (scaled_width, scaled_height), (width, height), strict=True)
    )
    return (scaled_width, scaled_height), (left, top)


@contextmanager
def pillow_limit() -> Iterator[None]:
    """Pillow's own pixel limit off: `check_size` decides in its place, right after the header. One thread at a time."""
    with PILLOW_LIMIT:
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def open_picture(path: Path) -> Image.Image:
    read_heif()
    try:
        return Image.open(path)
    except (OSError, ValueError, SyntaxError) as error:
        raise ValueError(f"{path}: is not a picture that can be read; save it as PNG or JPEG") from error


@functools.cache
def read_heif() -> None:
    """Have Pillow know HEIC, as telephones write it; AVIF it knows itself."""
    import pillow_heif

    pillow_heif.register_heif_opener()


def settle_heif_orientation(path: Path, image: Image.Image) -> None:
    """A HEIC picture is turned by its container (irot, imir), as it has been by now; only one without goes by its EXIF orientation."""
    orientation = image.info.get("original_orientation")
    if orientation is None:
        return
    with path.open("rb") as file:
        head = file.read(HEIF_HEAD)
    if b"irot" not in head and b"imir" not in head:
        image.getexif()[ExifTags.Base.Orientation] = orientation


def decode_picture(path: Path, image: Image.Image) -> None:
    try:
        image.load()
    except (OSError, ValueError, SyntaxError, IndexError) as error:
        raise ValueError(f"{path}: is cut short or broken ({error}); copy or save the picture again") from error


def count_frames(path: Path, image: Image.Image) -> int:
    """Pictures in the file; formats that hold one only do not count."""
    try:
        return image.n_frames
    except AttributeError:
        return 1
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise ValueError(f"{path}: is cut short or broken ({error}); copy or save the picture again") from error


def check_size(name: str, width: int, height: int) -> None:
    if min(width, height) < MIN_SIDE:
        raise ValueError(f"{name}: picture is {width}x{height} pixels; each side must be {MIN_SIDE} or more, and 512 or more looks good")
    if width * height > MAX_PIXELS:
        megapixels = width * height / 1e6
        raise ValueError(
            f"{name}: picture is {width}x{height} pixels ({megapixels:.0f} megapixels); the most is {MAX_PIXELS // 10**6}, so scale it down"
        )


def to_srgb(name: str, image: Image.Image, notes: list[str]) -> Image.Image:
    """8-bit sRGB of any mode; what was done is added to `notes`."""
    profile = image.info.get("icc_profile")
    if image.mode in SIXTEEN_BIT_MODES:
        image = eight_bits(name, image)
        notes.append("16-bit gray was scaled to 8 bits")
    if image.mode == "F":
        raise ValueError(f"{name}: picture has floating-point pixels, whose range is not known; save it with 8 or 16 bits")
    alpha = None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
    if image.mode not in ("RGB", "L", "CMYK", "LAB"):
        image = image.convert("RGB")
    image = apply_profile(image, profile, notes) if profile else image.convert("RGB")
    if alpha is None or alpha.getextrema()[0] == 255:
        return image
    notes.append("transparent parts were put on white")
    return Image.composite(image, Image.new("RGB", image.size, "white"), alpha)


def eight_bits(name: str, image: Image.Image) -> Image.Image:
    values_HW = np.asarray(image).astype(np.int64)
    if values_HW.min() < 0 or values_HW.max() > 65535:
        raise ValueError(f"{name}: picture has gray values {values_HW.min()} to {values_HW.max()}; save it with 8 or 16 bits (0 to 65535)")
    return Image.fromarray(((values_HW + 128) // 257).astype(np.uint8))


def apply_profile(image: Image.Image, profile: bytes, notes: list[str]) -> Image.Image:
    """RGB in sRGB of a picture with an embedded ICC profile; a picture said to be sRGB already is left as it is."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        title = ImageCms.getProfileDescription(source).strip()
        if image.mode == "RGB" and title.startswith("sRGB"):
            return image
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError) as error:
        notes.append(f"its color profile does not fit ({str(error).strip()}); colors were read without it")
        return image.convert("RGB")
    notes.append(f"colors were converted from {title} to sRGB")
    return converted
