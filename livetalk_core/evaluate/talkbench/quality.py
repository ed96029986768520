"""ASE and IQA: how beautiful and how flawless the pictures are, by Q-Align's OneAlign through pyiqa, 1 to 5."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from livetalk_core.evaluate.talkbench.consistency import pictures_of
from livetalk_core.evaluate.talkbench.measure import Measured, NotMeasured, Shown, frames_in_a_second
from livetalk_core.media.video import read_frames

Score = Callable[[Tensor, str], float]
"""A picture [1, 3, H, W] in [0, 1] and a task, quality or aesthetic -> 1 to 5."""
TASKS = {"ase": "aesthetic", "iqa": "quality"}
ONE_ALIGN = "q-future/one-align"


class Quality:
    """Means over one frame a second. The report does not say which frames it takes."""

    name = "quality"

    def __init__(self, score: Score, device: torch.device, version: str) -> None:
        self.score, self.device, self.version = score, device, version

    @torch.no_grad()
    def measure(self, shown: Shown) -> Measured:
        found: dict[str, list[float]] = {name: [] for name in TASKS}
        for frame_HWC in each_second(shown.video):
            picture = pictures_of([frame_HWC], self.device) / 255
            for name, task in TASKS.items():
                found[name].append(float(self.score(picture, task)))
        return Measured(numbers={name: sum(values) / len(values) for name, values in found.items()}, series=found)


def each_second(video: Path) -> Iterator[np.ndarray]:
    """The first frame of every second. NotMeasured for a video without frames."""
    frames = islice(read_frames(video), 0, None, frames_in_a_second(video))
    first = next(frames, None)
    if first is None:
        raise NotMeasured("the video has no frames")
    yield first
    yield from frames


def one_align(device: torch.device) -> Quality:
    """ASE and IQA by pyiqa's qalign. NotMeasured without the package or its weights; nothing is downloaded."""
    try:
        import pyiqa
    except ImportError:
        raise NotMeasured("needs pyiqa, which is not for commercial use (pip install pyiqa), and " + weights_note()) from None
    if not in_cache(ONE_ALIGN):
        raise NotMeasured("needs " + weights_note())
    with offline():
        metric = pyiqa.create_metric("qalign", device=device)
    return Quality(lambda picture, task: metric(picture, task_=task), device, f"pyiqa {pyiqa.__version__} qalign")


def weights_note() -> str:
    return f"OneAlign's weights (about 16 GB, MIT) in Hugging Face's cache: hf download {ONE_ALIGN}"


def in_cache(repository: str) -> bool:
    """Whether Hugging Face's cache has a repository; nothing is asked of the network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, local_files_only=True)).is_dir()
    except (LocalEntryNotFoundError, OSError):
        return False


@contextmanager
def offline() -> Iterator[None]:
    """Hugging Face's library does not download anything inside."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
