"""Faces in successive frames -> tracks of one face each, and smoothed square crops, as SyncNet's pipeline makes them.

Boxes are (left, top, right, bottom) in pixels. Axes: T frames of a track.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from livetalk_core.evaluate.talkbench.s3fd import intersection_over_union

LEAST_OVERLAP, LONGEST_GAP = 0.5, 25
LEAST_DETECTIONS, LEAST_SIDE = 100, 100.0
"""A track needs more detections, and a face more pixels, than these."""
CROP, SMOOTHING, SIDE = 0.4, 13, 224
GRAY = 110
"""Around the picture, where a crop goes beyond it."""


@dataclass(frozen=True, kw_only=True)
class Track:
    """One face over successive frames."""

    first: int
    """Number of its first frame."""
    boxes_T4: np.ndarray
    detections: int

    @property
    def side(self) -> float:
        """The face's mean width or height, whichever is larger."""
        return float((self.boxes_T4[:, 2:] - self.boxes_T4[:, :2]).mean(0).max())


def find_tracks(faces: Sequence[np.ndarray]) -> list[Track]:
    """Tracks of the faces [N, 4] of each frame, of any length: a face continues a track whose last box it covers by half.

    Up to 25 frames without it are bridged by straight lines.
    """
    left = [list(boxes) for boxes in faces]
    tracks = []
    while (track := take_track(left)) is not None:
        tracks.append(track)
    return tracks


def take_track(left: list[list[np.ndarray]]) -> Track | None:
    """The first track of the faces that are left; its faces are taken away."""
    numbers: list[int] = []
    boxes: list[np.ndarray] = []
    for number, candidates in enumerate(left):
        if boxes and number - numbers[-1] > LONGEST_GAP:
            break
        fits = (k for k, box in enumerate(candidates) if not boxes or intersection_over_union(box, boxes[-1]) > LEAST_OVERLAP)
        if (index := next(fits, None)) is not None:
            numbers.append(number)
            boxes.append(candidates.pop(index))
    if not boxes:
        return None
    every = np.arange(numbers[0], numbers[-1] + 1)
    straight = np.stack([np.interp(every, numbers, side) for side in np.array(boxes).T], axis=1)
    return Track(first=numbers[0], boxes_T4=straight, detections=len(boxes))


def usable(track: Track, least_side: float = LEAST_SIDE) -> bool:
    return track.detections > LEAST_DETECTIONS and track.side > least_side


def crop_track(track: Track, frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """uint8 [224, 224, 3]: the smoothed crop of each frame of a track, from the video's frames from its first on."""
    x_T, y_T, half_T = smooth_boxes(track.boxes_T4)
    for number, frame_HWC in enumerate(frames):
        if number >= track.first + len(x_T):
            return
        if number >= track.first:
            t = number - track.first
            yield crop_face(frame_HWC, x_T[t], y_T[t], half_T[t])


def smooth_boxes(boxes_T4: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Center x, center y and half the larger side, each by a median over 13 frames (zeros beyond the ends, as published)."""
    sizes_T2 = boxes_T4[:, 2:] - boxes_T4[:, :2]
    centers_T2 = (boxes_T4[:, 2:] + boxes_T4[:, :2]) / 2
    return median_filter(centers_T2[:, 0]), median_filter(centers_T2[:, 1]), median_filter(sizes_T2.max(1) / 2)


def median_filter(values_T: np.ndarray) -> np.ndarray:
    padded = np.pad(values_T, SMOOTHING // 2)
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, SMOOTHING), axis=1)


def crop_face(frame_HWC: np.ndarray, x: float, y: float, half: float) -> np.ndarray:
    """The square around the lower face: from the box's top to 0.4 of its side below it."""
    pad = int(half * (1 + 2 * CROP))
    padded = np.pad(frame_HWC, ((pad, pad), (pad, pad), (0, 0)), constant_values=GRAY)
    x, y = x + pad, y + pad
    rows = slice(int(y - half), int(y + half * (1 + 2 * CROP)))
    columns = slice(int(x - half * (1 + CROP)), int(x + half * (1 + CROP)))
    face = torch.from_numpy(np.ascontiguousarray(padded[rows, columns])).permute(2, 0, 1)[None].float()
    scaled = F.interpolate(face, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    return scaled[0].permute(1, 2, 0).add(0.5).to(torch.uint8).numpy()
