"""Drift that needs no weights: sharpness, and color against the video's first frame, second by second."""

from __future__ import annotations

import torch

from livetalk_core.evaluate.measures import color_shift, sharpness
from livetalk_core.evaluate.talkbench.measure import Measured, Shown
from livetalk_core.evaluate.talkbench.quality import each_second


class PictureDrift:
    """Series of one frame a second; the numbers are their means."""

    name, version = "picture_drift", "1"

    def measure(self, shown: Shown) -> Measured:
        first, series = None, {"sharpness": [], "color_shift": []}
        for frame_HWC in each_second(shown.video):
            frame_1HWC = torch.from_numpy(frame_HWC)[None]
            first = frame_1HWC[0] if first is None else first
            series["sharpness"].append(float(sharpness(frame_1HWC).magnitude_T))
            series["color_shift"].append(float(color_shift(frame_1HWC, first)))
        return Measured(numbers={name: sum(values) / len(values) for name, values in series.items()}, series=series)
