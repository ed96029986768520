"""Temporal-F: how little a frame differs from the one before (VBench, temporal flickering). 1 is a frozen picture."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from livetalk_core.evaluate.talkbench.measure import Measured, NotMeasured, Shown, WindowMeans, frames_in_a_second
from livetalk_core.media.video import read_frames


class TemporalFlickering:
    """(255 - mean |difference of neighboring frames|) / 255, over all frames at the video's own rate."""

    name, version = "temporal_flickering", "1"

    def measure(self, shown: Shown) -> Measured:
        total, count, means = 0.0, 0, WindowMeans(frames_in_a_second(shown.video))
        for before_HWC, frame_HWC in pairwise(read_frames(shown.video)):
            difference = mean_difference(before_HWC, frame_HWC)
            total, count = total + difference, count + 1
            means.add(1 - difference / 255)
        if count == 0:
            raise NotMeasured("the video has 1 frame, and a difference needs 2")
        return Measured(numbers={"temporal_f": (255 - total / count) / 255}, series={"temporal_f": means.means})


def mean_difference(a_HWC: np.ndarray, b_HWC: np.ndarray) -> float:
    """Mean |a - b| of two uint8 pictures, 0 to 255. ValueError if the sizes differ."""
    if a_HWC.shape != b_HWC.shape:
        raise ValueError(f"frames of {a_HWC.shape[1::-1]} and {b_HWC.shape[1::-1]} pixels follow each other; export the video at one size")
    return float(np.abs(a_HWC.astype(np.int16) - b_HWC).mean(dtype=np.float64))
