"""What the benchmark needs, what is there, and what can be measured without the rest."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from livetalk_core.evaluate.talkbench.quality import ONE_ALIGN, in_cache
from livetalk_core.evaluate.talkbench.weights import FILES, WeightFile


@dataclass(frozen=True, kw_only=True)
class Need:
    """A file or a package of a measure."""

    what: str
    there: bool
    found: str
    way_out: str = ""


PACKAGES = {
    "pyiqa": ("ASE, IQA", "pip install pyiqa (not for commercial use)"),
    "cv2": ("identity", "pip install opencv-python-headless"),
    "mediapipe": ("lip distance, head motion, hand motion", "pip install mediapipe==0.10.14, in an environment with numpy below 2"),
    "matplotlib": ("plots", "pip install matplotlib"),
}


def find_needs(folder: Path | None) -> Iterator[Need]:
    """Every weight file in the metrics folder, OneAlign in Hugging Face's cache, and the packages. Nothing is downloaded."""
    for file in FILES:
        yield file_need(file, file.find(folder))
    yield one_align_need()
    for name, (columns, way_out) in PACKAGES.items():
        there = importlib.util.find_spec(name) is not None
        yield Need(what=name, there=there, found=f"{columns}: {'installed' if there else 'not installed'}", way_out=way_out)
    yield Need(what="no weights", there=True, found="Temporal-F, FPS, first frame, sharpness and color drift need none")


def file_need(file: WeightFile, path: Path | None) -> Need:
    state = str(path) if path else f"missing; {file.size}; license: {file.license}; in its place: {file.without}"
    return Need(what=file.names[0], there=path is not None, found=f"{file.columns}: {state}", way_out=f"{file.source} -> --metrics-folder")


def one_align_need() -> Need:
    there = in_cache(ONE_ALIGN)
    state = "in Hugging Face's cache" if there else "missing; about 16 GB; license: MIT; in its place: sharpness"
    return Need(what=ONE_ALIGN, there=there, found=f"ASE, IQA: {state}", way_out=f"hf download {ONE_ALIGN}")
