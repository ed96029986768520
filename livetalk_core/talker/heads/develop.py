"""From linear light to a picture as a camera saves it: exposure, color, tone curve, lens, grain, JPEG.

Axes: H W the picture.
"""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d

from livetalk_core.talker.heads.light import blur
from livetalk_core.talker.heads.scene import Scene


def develop(sitter_4HW: Tensor, backdrop_3HW: Tensor, scene: Scene, gain: float, frame: int) -> np.ndarray:
    """uint8 [size, size, 3]. `gain` brings the face to its brightness (see `meter`)."""
    cover = sitter_4HW[3:]
    image = avg_pool2d((sitter_4HW[:3] + backdrop_3HW * (1 - cover))[None], 2)
    size = image.shape[-1]
    image = image * gain * 2.0**scene.exposure * white_balance(scene)
    if scene.blur > 0.05:
        image = blur(image, scene.blur * size / 256)
    image = tone(image * vignette(scene, size), scene)
    image = grain(image, scene, frame)
    pixels = (image[0].permute(1, 2, 0).clamp(0, 1) * 255).round().byte().cpu().numpy()
    return compress(pixels, scene.quality)


def meter(sitter_4HW: Tensor, melanin: float) -> float:
    """The gain that a camera would choose: a face's middle gray, darker for darker skin."""
    side = sitter_4HW.shape[-1]
    middle = sitter_4HW[:3, side // 3 : side * 2 // 3, side // 3 : side * 2 // 3].mean(0)
    lit = middle[middle > 0]
    if len(lit) == 0:
        return 1.0
    aim = 0.44 - 0.22 * melanin
    return min(aim / max(float(lit.mean()), 1e-3), 1.7 * aim / max(float(lit.quantile(0.92)), 1e-3))


def white_balance(scene: Scene) -> Tensor:
    """[1, 3, 1, 1]: the camera takes most of the main light's tint out."""
    key = torch.tensor(scene.key) + torch.tensor(scene.around).mean(0) * 2
    neutral = (key.mean() / key) ** 0.75
    tint = torch.tensor((1 + 0.10 * scene.warmth, 1.0, 1 - 0.14 * scene.warmth))
    return (neutral * tint).view(1, 3, 1, 1)


def tone(image: Tensor, scene: Scene) -> Tensor:
    """A film's curve with a soft shoulder, then display gamma."""
    x = image.clamp(min=0)
    a, b, c, d, e = 2.51, 0.03, 2.43, 0.59, 0.14
    film = (x * 0.62 * (a * x * 0.62 + b)) / (x * 0.62 * (c * x * 0.62 + d) + e)
    plain = x / (1 + x / 3.2)
    mixed = (plain + (film - plain) * (0.25 + 0.55 * scene.contrast)).clamp(0, 1)
    gray = mixed.mean(1, keepdim=True)
    mixed = (gray + (mixed - gray) * scene.saturation).clamp(1e-5, 1)
    return torch.where(mixed < 0.0031308, 12.92 * mixed, 1.055 * mixed ** (1 / 2.4) - 0.055)


def vignette(scene: Scene, size: int) -> Tensor:
    line = torch.linspace(-1, 1, size)
    far = line[None] ** 2 + line[:, None] ** 2
    return (1 - 0.35 * scene.vignette * far).clamp(min=0.2)


def grain(image: Tensor, scene: Scene, frame: int) -> Tensor:
    """Noise of the sensor, stronger in the dark, new in each frame."""
    if scene.grain <= 0:
        return image
    rng = np.random.default_rng([scene.seed, frame])
    noise = rng.standard_normal(image.shape, np.float32) * 0.6 + rng.standard_normal((1, 1, *image.shape[2:]), np.float32) * 0.8
    soft = blur(torch.as_tensor(noise), 0.55)
    return image + 0.020 * scene.grain * soft * (1.25 - image)


def compress(pixels_HWC: np.ndarray, quality: int) -> np.ndarray:
    """What JPEG leaves of it."""
    if quality >= 100:
        return pixels_HWC
    buffer = io.BytesIO()
    Image.fromarray(pixels_HWC).save(buffer, "JPEG", quality=quality)
    return np.array(Image.open(buffer).convert("RGB"))
