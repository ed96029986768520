"""Pictures of every kind, whole and broken, and the published crop against a plain one."""

import io
import math
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from livetalk_core.media.image import crop_box, crop_cover, load_picture, picture_from_tensor


def gradient(width=64, height=48):
    """RGB whose left is dark and whose top is blue."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, x, 255 - y], axis=-1).astype(np.uint8))


def save(path, image, **options):
    image.save(path, **options)
    return path


def pixels(image):
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tiff", "a.ppm", "a.webp", "a.jpg"])
def test_plain_pictures_come_back_without_a_note(tmp_path, name):
    options = {"a.webp": {"lossless": True}, "a.jpg": {"quality": 98, "subsampling": 0}}.get(name, {})
    picture = load_picture(save(tmp_path / name, gradient(), **options))
    assert picture.notes == () and picture.image.mode == "RGB"
    assert abs(pixels(picture.image) - pixels(gradient())).max() <= (6 if name == "a.jpg" else 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    turns = [None, *(Image.Transpose[n] for n in ["FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE"])]
    turns += [Image.Transpose[n] for n in ["ROTATE_90", "TRANSVERSE", "ROTATE_270"]]
    turn = turns[orientation - 1]
    stored = gradient() if turn is None else gradient().transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = load_picture(save(tmp_path / "turned.png", stored, exif=exif))
    assert picture.image.size == (64, 48)
    assert np.array_equal(pixels(picture.image), pixels(gradient()))


def test_sixteen_bit_gray_is_scaled_not_clipped(tmp_path):
    values = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    for name in ("gray.png", "gray.tiff"):
        picture = load_picture(save(tmp_path / name, Image.fromarray(values)))
        assert abs(pixels(picture.image)[..., 0] - values / 257).max() <= 0.5
        assert picture.notes == ("16-bit gray was scaled to 8 bits",)


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_gray_and_palette_become_rgb(tmp_path, mode):
    image = gradient().convert(mode)
    picture = load_picture(save(tmp_path / "a.png", image))
    assert np.array_equal(pixels(picture.image), pixels(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_put_on_white_and_said_so(tmp_path, mode):
    image = Image.new("RGBA", (64, 48), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 32, 48))
    image.paste((0, 0, 0, 51), (0, 0, 32, 8))
    picture = load_picture(save(tmp_path / "a.png", image.convert(mode)))
    assert "white" in picture.notes[0]
    assert [picture.image.getpixel(at)[0] for at in ((5, 40), (5, 4), (60, 40))] == [255, 204, 0]


def test_a_transparent_palette_color_is_put_on_white(tmp_path):
    image = Image.new("P", (64, 48), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.paste(1, (0, 0, 32, 48))
    picture = load_picture(save(tmp_path / "a.png", image, transparency=1))
    assert picture.image.getpixel((5, 5)) == (255, 255, 255) and picture.image.getpixel((60, 5)) == (10, 20, 30)


def test_full_alpha_needs_no_note(tmp_path):
    assert load_picture(save(tmp_path / "a.png", gradient().convert("RGBA"))).notes == ()


def test_the_first_frame_of_an_animation_is_used_and_said_so(tmp_path):
    frames = [Image.new("RGB", (64, 48), color) for color in ("red", "green", "blue")]
    for name in ("a.gif", "a.webp", "a.png"):
        picture = load_picture(save(tmp_path / name, frames[0], save_all=True, append_images=frames[1:]))
        assert "3 pictures" in picture.notes[0]
        assert abs(pixels(picture.image)[20, 20] - (255, 0, 0)).max() <= 3


def lab_profile():
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


def wide_profile():
    """The sRGB profile under another name, with its red and blue primaries swapped."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    data = bytearray(bytes(data).replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be")))
    red, blue = (data.index(tag, 128) for tag in (b"rXYZ", b"bXYZ"))
    data[red : red + 4], data[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(data)


def test_an_embedded_profile_is_converted_to_srgb(tmp_path):
    path = save(tmp_path / "wide.png", Image.new("RGB", (64, 48), (255, 0, 0)), icc_profile=wide_profile())
    picture = load_picture(path)
    assert "converted" in picture.notes[0]
    assert abs(pixels(picture.image)[5, 5] - (0, 0, 255)).max() <= 6
    transparent = Image.new("RGBA", (64, 48), (255, 0, 0, 0))
    transparent.paste((255, 0, 0, 255), (0, 0, 32, 48))
    both = load_picture(save(tmp_path / "both.png", transparent, icc_profile=wide_profile()))
    assert abs(pixels(both.image)[5, 5] - (0, 0, 255)).max() <= 6 and both.image.getpixel((60, 5)) == (255, 255, 255)


def test_a_picture_tagged_srgb_is_left_as_it_is(tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = load_picture(save(tmp_path / "a.png", gradient(), icc_profile=srgb))
    assert picture.notes == () and np.array_equal(pixels(picture.image), pixels(gradient()))


def test_a_profile_that_does_not_fit_is_reported(tmp_path):
    for broken in (b"not a profile at all" * 20, lab_profile()):
        picture = load_picture(save(tmp_path / "a.png", gradient(), icc_profile=broken))
        assert "does not fit" in picture.notes[0]
        assert np.array_equal(pixels(picture.image), pixels(gradient()))


def test_cmyk_becomes_rgb(tmp_path):
    image = gradient().convert("CMYK")
    picture = load_picture(save(tmp_path / "a.jpg", image, quality=98))
    assert picture.image.mode == "RGB"
    assert abs(pixels(picture.image) - pixels(image.convert("RGB"))).mean() < 3


def one_line_error(kind, path):
    with pytest.raises(kind) as caught:
        load_picture(path)
    text = str(caught.value)
    assert "\n" not in text and str(path) in text
    return text


def test_missing_folder_empty_and_text_are_refused(tmp_path):
    assert "there is no such picture" in one_line_error(FileNotFoundError, tmp_path / "none.png")
    assert "is a folder" in one_line_error(ValueError, tmp_path)
    (tmp_path / "empty.png").touch()
    assert "is empty" in one_line_error(ValueError, tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("no picture")
    assert "not a picture" in one_line_error(ValueError, tmp_path / "text.png")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tiff", "a.gif", "a.bmp"])
def test_a_truncated_picture_is_refused(tmp_path, name):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8))
    path = save(tmp_path / name, noise)
    load_picture(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    text = one_line_error(ValueError, path)
    assert "cut short or broken" in text or "not a picture" in text


def test_tiny_and_float_pictures_are_refused(tmp_path):
    assert "picture is 1x1 pixels" in one_line_error(ValueError, save(tmp_path / "dot.png", Image.new("RGB", (1, 1))))
    assert "picture is 500x31 pixels" in one_line_error(ValueError, save(tmp_path / "thin.png", Image.new("RGB", (500, 31))))
    load_picture(save(tmp_path / "small.png", Image.new("RGB", (32, 32))))
    assert "floating-point" in one_line_error(ValueError, save(tmp_path / "f.tiff", Image.new("F", (64, 64))))


def png_header(width, height):
    """A PNG that promises a size and holds no pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [header, b"IDAT" + zlib.compress(b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)


def test_too_many_pixels_are_refused_from_the_header_without_a_warning(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(100_000, 50_000))
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "5000 megapixels" in one_line_error(ValueError, path)
    assert before == Image.MAX_IMAGE_PIXELS
    path.write_bytes(png_header(14_000, 14_000))
    assert "cut short or broken" in one_line_error(ValueError, path)


def test_a_picture_of_20000_pixels_works_and_pillows_limit_stays(tmp_path):
    path = save(tmp_path / "wide.png", Image.new("L", (20_000, 5_000), 77))
    before, images = Image.MAX_IMAGE_PIXELS, []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        threads = [threading.Thread(target=lambda: images.append(load_picture(path).image)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [image.size for image in images] == [(20_000, 5_000)] * 2 and before == Image.MAX_IMAGE_PIXELS
    assert crop_cover(images[0], 64, 64).unique().numel() == 1


def plain_crop(image, width, height, dtype):
    """Scale to cover with PIL, cut with numpy, normalize value by value."""
    width0, height0 = image.size
    scale = max(height / height0, width / width0)
    size = (math.ceil(scale * width0), math.ceil(scale * height0))
    array = np.array(image.resize(size, Image.BILINEAR))
    top, left = int(round((size[1] - height) / 2)), int(round((size[0] - width) / 2))
    cut = torch.from_numpy(array[top : top + height, left : left + width].copy()).permute(2, 0, 1)
    table = torch.stack([(torch.tensor(v).to(dtype) / 255 - 0.5) * 2 for v in range(256)])
    return table[cut.long()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_crop_equals_a_plain_one_bit_for_bit(dtype):
    rng = np.random.default_rng(0)
    for width0, height0, width, height in [(64, 48, 48, 64), (333, 217, 96, 64), (45, 100, 64, 32), (77, 77, 64, 64), (64, 64, 64, 64)]:
        image = Image.fromarray(rng.integers(0, 256, (height0, width0, 3), dtype=np.uint8))
        crop = crop_cover(image, width, height, dtype)
        assert crop.shape == (3, height, width) and crop.dtype == dtype and crop.is_contiguous()
        assert torch.equal(crop, plain_crop(image, width, height, dtype))
        assert crop.min() >= -1 and crop.max() <= 1


def test_bfloat16_arithmetic_differs_from_rounding_at_the_end():
    """Control: the order of rounding shows."""
    wide = crop_cover(gradient(256, 256), 256, 256).bfloat16()
    assert not torch.equal(wide, crop_cover(gradient(256, 256), 256, 256, torch.bfloat16))


def test_halves_of_a_pixel_round_to_even():
    columns = np.zeros((64, 77, 3), np.uint8)
    columns[:, :, 0] = np.arange(77)
    crop = crop_cover(Image.fromarray(columns), 64, 64)
    assert round(float((crop[0, 0, 0] / 2 + 0.5) * 255)) == 6
    assert crop_box(77, 64, 64, 64) == (6, 0, 70, 64)


def test_the_crop_box_lies_in_the_picture_and_has_the_target_shape():
    left, top, right, bottom = crop_box(1920, 1080, 448, 768)
    assert top == 0 and bottom == 1080 and 0 < left < right < 1920
    assert abs((right - left) / (bottom - top) - 448 / 768) < 0.01


def test_a_picture_too_long_and_thin_to_fill_the_frame_is_refused():
    with pytest.raises(ValueError, match="too long and thin"):
        crop_box(1_000_000, 32, 1280, 720)


def test_a_tensor_becomes_the_same_picture_and_back():
    array = np.asarray(gradient())
    image = picture_from_tensor(torch.from_numpy(array.copy()).float() / 255)
    assert image.mode == "RGB" and np.array_equal(np.asarray(image), array)
    clipped = picture_from_tensor(torch.full((32, 32, 3), 1.5))
    assert clipped.getpixel((0, 0)) == (255, 255, 255)
    transparent = torch.zeros(32, 32, 4)
    assert picture_from_tensor(transparent).getpixel((0, 0)) == (255, 255, 255)


def test_wrong_tensors_are_refused():
    for wrong in (torch.zeros(1, 64, 64, 3), torch.zeros(3, 64, 64), torch.zeros(64, 64, 3, dtype=torch.uint8), torch.zeros(8, 64, 3)):
        with pytest.raises(ValueError, match="picture"):
            picture_from_tensor(wrong)
    with pytest.raises(ValueError, match="NaN"):
        picture_from_tensor(torch.full((64, 64, 3), float("nan")))


def test_a_picture_read_from_memory_of_another_format_keeps_its_pixels(tmp_path):
    """The name's extension does not matter, the bytes do."""
    buffer = io.BytesIO()
    gradient().save(buffer, "PNG")
    (tmp_path / "really_png.jpg").write_bytes(buffer.getvalue())
    assert np.array_equal(pixels(load_picture(tmp_path / "really_png.jpg").image), pixels(gradient()))
