"""The measures, as functions of frames and tracks.

Axes in names: T frames, H W pixels, C colors. Frames are uint8, 0 to 255; tracks are one number a frame.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)
"""Gray of RGB (ITU-R BT.601)."""
LEAST_ERROR = 1e-6
"""Mean square error below which pictures count as equal: PSNR ends at 108 dB."""


def correlation(a_T: Tensor, b_T: Tensor) -> float:
    """Pearson's r, -1 to 1; 0 if either is constant, because a still mouth follows nothing."""
    a, b = (track.double() - track.double().mean() for track in (a_T, b_T))
    scale = float(a.norm() * b.norm())
    return float(a @ b) / scale if scale > 1e-9 else 0.0


def lag_curve(read_T: Tensor, true_T: Tensor, reach: int = 5) -> Tensor:
    """[2 reach + 1] correlations of read[k + lag] with true[k], lag -reach to reach, over the same true frames.

    A best lag above 0 means that the mouth is late.
    """
    length = len(true_T)
    if len(read_T) != length or length < 2 * reach + 2:
        raise ValueError(f"tracks of {len(read_T)} and {length} frames must be equally long, {2 * reach + 2} frames or more")
    middle_T = true_T[reach : length - reach]
    return torch.tensor([correlation(read_T[reach + lag : length - reach + lag], middle_T) for lag in range(-reach, reach + 1)])


def best_lag(curve_L: Tensor) -> int:
    """The lag with the highest correlation, in frames."""
    return int(curve_L.argmax()) - len(curve_L) // 2


def psnr(frames_THWC: Tensor, true_THWC: Tensor, mask_HW: Tensor | None = None) -> float:
    """PSNR in dB over all frames, channels and pixels of the mask. `true_THWC` may be one picture."""
    error_HW = (frames_THWC.float() - true_THWC.float()).square().mean((0, 3))
    return decibels(float(error_HW.mean() if mask_HW is None else error_HW[mask_HW].mean()))


def decibels(error: float) -> float:
    """PSNR of a mean square error of 8-bit values."""
    return 10 * float(torch.tensor(255**2 / max(error, LEAST_ERROR)).log10())


def background_mask(frames_THWC: Tensor, reference_HWC: Tensor, tolerance: int = 2) -> Tensor:
    """Bool [H, W]: pixels that stay within `tolerance` of the reference picture in every frame of a true clip."""
    return (frames_THWC.short() - reference_HWC.short()).abs().amax((0, 3)) <= tolerance


class Sharpness(NamedTuple):
    """The detail of each frame, from the Laplacian of its gray values."""

    variance_T: Tensor
    magnitude_T: Tensor
    """Mean |Laplacian|; strong edges weigh less than in the variance."""


def sharpness(frames_THWC: Tensor, mask_HW: Tensor | None = None) -> Sharpness:
    """By the 4-neighbor Laplacian of frames 0 to 255, in the pixels with all neighbors (and in the mask)."""
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])[None, None]
    laplacian_THW = F.conv2d(gray(frames_THWC)[:, None], kernel)[:, 0]
    values_TN = laplacian_THW.flatten(1) if mask_HW is None else laplacian_THW[:, mask_HW[1:-1, 1:-1]]
    return Sharpness(values_TN.var(1, correction=0), values_TN.abs().mean(1))


def gray(frames_THWC: Tensor) -> Tensor:
    """[T, H, W] float32, 0 to 255."""
    return frames_THWC.float() @ torch.tensor(LUMA)


def color_level(frames_THWC: Tensor) -> Tensor:
    """[T, 3]: each channel's mean, 0 to 255."""
    return frames_THWC.float().mean((1, 2))


def color_shift(frames_THWC: Tensor, reference_HWC: Tensor) -> Tensor:
    """[T]: mean over channels of |channel mean - that of the reference picture|, 0 to 255."""
    return (color_level(frames_THWC) - color_level(reference_HWC[None])).abs().mean(1)


def window_means(track_T: Tensor, length: int) -> Tensor:
    """Means of successive windows of `length` frames; frames left over at the end are dropped."""
    return track_T[: len(track_T) // length * length].double().unflatten(0, (-1, length)).mean(1)


def relative_change(track_T: Tensor, length: int) -> float:
    """Mean of the last `length` frames over that of the first `length`, minus 1."""
    return float(track_T[-length:].double().mean() / track_T[:length].double().mean()) - 1


def steps_between(frames_THWC: Tensor) -> Tensor:
    """[T - 1]: mean |difference| between each frame and the next, 0 to 255."""
    return (frames_THWC[1:].float() - frames_THWC[:-1].float()).abs().mean((1, 2, 3))


def seam_jump(steps_T: Tensor, new_frames: int) -> float:
    """Mean step between frames at the seams of chunks over that elsewhere. 1: the seam is invisible, or there is none."""
    at_seam_T = (torch.arange(len(steps_T)) + 1) % new_frames == 0
    if not at_seam_T.any():
        return 1.0
    return float(steps_T[at_seam_T].mean() / steps_T[~at_seam_T].mean().clamp_min(1e-6))
