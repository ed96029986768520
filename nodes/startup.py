"""At ComfyUI's start: warn about missing packages, and copy sample inputs for the example workflows."""

from __future__ import annotations

import importlib.util
import logging
import shutil
from pathlib import Path

log = logging.getLogger(__name__)

ROOT = Path(__file__).parent.parent
PACKAGES = ("av", "einops", "ftfy", "numpy", "PIL", "pillow_heif", "pyloudnorm", "safetensors", "tqdm", "transformers")
SAMPLES = {
    "livetalk_portrait.jpg": "portrait.jpg",
    "livetalk_drawn.png": "drawn.png",
    "livetalk_speech.flac": "speech.flac",
    "livetalk_hello.flac": "hello.flac",
    "livetalk_reply.flac": "reply.flac",
    "livetalk_pair.jpg": "pair.jpg",
    "livetalk_pair_left.png": "pair_left.png",
    "livetalk_pair_right.png": "pair_right.png",
    "livetalk_batch/first.jpg": "portrait.jpg",
    "livetalk_batch/second.jpg": "second.jpg",
}
"""Names in ComfyUI's input folder, used by the example workflows, and the files in livetalk_core/assets."""


def missing_packages() -> list[str]:
    """Required packages that are not installed; none is imported."""
    return [name for name in PACKAGES if importlib.util.find_spec(name) is None]


def report_missing() -> None:
    if missing := missing_packages():
        log.warning("LiveTalk: missing %s; run: pip install -r %s", ", ".join(missing), ROOT / "requirements.txt")


def copy_samples(folder: Path) -> None:
    """Copy the samples into ComfyUI's input folder; existing files are kept."""
    for target, name in SAMPLES.items():
        try:
            if not (folder / target).exists():
                (folder / target).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / "livetalk_core" / "assets" / name, folder / target)
        except OSError as error:
            log.warning("LiveTalk: the sample %s was not copied to %s (%s)", name, folder, error.strerror)
