"""Identity: how much the face stays the reference's, by OpenCV's YuNet and SFace, one frame a second. 1 is the same face."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from livetalk_core.evaluate.talkbench.consistency import file_version
from livetalk_core.evaluate.talkbench.measure import Measured, NotMeasured, Shown
from livetalk_core.evaluate.talkbench.quality import each_second
from livetalk_core.media.image import load_picture

Embed = Callable[[np.ndarray], np.ndarray | None]
"""A uint8 RGB picture [H, W, 3] -> features [D] of its largest face, or None without a face."""
LEAST_SCORE = 0.6


class Identity:
    """Mean cosine likeness to the reference picture's face; seconds without a face count as 0 and are noted."""

    name = "identity"

    def __init__(self, embed: Embed, version: str) -> None:
        self.embed, self.version = embed, version

    def measure(self, shown: Shown) -> Measured:
        reference_D = self.reference(shown)
        found = [self.embed(frame_HWC) for frame_HWC in each_second(shown.video)]
        values = [0.0 if face_D is None else cosine(face_D, reference_D) for face_D in found]
        lost = sum(face_D is None for face_D in found)
        notes = (f"no face in {lost} of {len(found)} frames, one a second",) if lost else ()
        return Measured(numbers={"identity": sum(values) / len(values)}, series={"identity": values}, notes=notes)

    def reference(self, shown: Shown) -> np.ndarray:
        """Features of the face in the clip's picture, or in the true video's first frame."""
        clip = shown.clip
        picture = np.asarray(load_picture(clip.picture).image) if clip.picture else next(each_second(clip.video or shown.video))
        face_D = self.embed(picture)
        if face_D is None:
            raise NotMeasured(f"no face was found in the reference picture {clip.picture or clip.video}")
        return face_D


def cosine(a_D: np.ndarray, b_D: np.ndarray) -> float:
    return float(a_D @ b_D / max(float(np.linalg.norm(a_D) * np.linalg.norm(b_D)), 1e-12))


def opencv_identity(yunet: Path, sface: Path) -> Identity:
    """Identity by OpenCV's own face networks. NotMeasured without OpenCV, ValueError for files that it cannot read."""
    try:
        import cv2
    except ImportError:
        raise NotMeasured("needs OpenCV: pip install opencv-python-headless") from None
    try:
        detector = cv2.FaceDetectorYN.create(str(yunet), "", (320, 320), LEAST_SCORE)
        recognizer = cv2.FaceRecognizerSF.create(str(sface), "")
    except cv2.error as error:
        raise ValueError(
            f"{yunet.name} or {sface.name} cannot be read by OpenCV {cv2.__version__} ({error.err}); download both again"
        ) from None

    def embed(picture_HWC: np.ndarray) -> np.ndarray | None:
        bgr_HWC = np.ascontiguousarray(picture_HWC[..., ::-1])
        detector.setInputSize(bgr_HWC.shape[1::-1])
        _, faces = detector.detect(bgr_HWC)
        if faces is None or len(faces) == 0:
            return None
        largest = max(faces, key=lambda face: face[2] * face[3])
        return recognizer.feature(recognizer.alignCrop(bgr_HWC, largest))[0].copy()

    return Identity(embed, f"{file_version(yunet)}; {file_version(sface)}")
