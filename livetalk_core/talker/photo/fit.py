"""Fits the face mesh and a mask of the person to every picture of a folder: `python -m livetalk_core.talker.photo.fit FOLDER`.

MediaPipe 0.10.14 carries both models in its wheel; it wants numpy below 2, so give it an environment of its own. Results lie in
FOLDER/fits, and pictures that have one are passed over.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
HOW = 'fitting needs MediaPipe: pip install "mediapipe==0.10.14" "numpy<2"'


def main(folder: Path) -> None:
    missing = [path for path in pictures_of(folder) if not fit_path(path).exists()]
    if not missing:
        return
    find = finder()
    (folder / "fits").mkdir(exist_ok=True)
    for path in missing:
        points_N3, person_HW = find(np.asarray(Image.open(path).convert("RGB")))
        if not len(points_N3):
            print(f"{path.name}: no face was found", file=sys.stderr)
        np.savez_compressed(fit_path(path), points=points_N3, mask=person_HW)


def pictures_of(folder: Path) -> list[Path]:
    """The pictures of a folder, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES and ".tmp" not in path.name)


def fit_path(picture: Path) -> Path:
    return picture.parent / "fits" / f"{picture.stem}.npz"


def finder():
    """A function: RGB uint8 [H, W, 3] -> (mesh in pixels [478, 3], or [0, 3] without a face; uint8 [H, W], 255 where a person is)."""
    try:
        from mediapipe.python.solutions.face_mesh import FaceMesh
        from mediapipe.python.solutions.selfie_segmentation import SelfieSegmentation
    except ImportError as error:
        raise ImportError(HOW) from error
    mesh = FaceMesh(static_image_mode=True, refine_landmarks=True, max_num_faces=1, min_detection_confidence=0.3)
    segmentation = SelfieSegmentation(model_selection=0)

    def find(pixels_HWC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        height, width = pixels_HWC.shape[:2]
        faces = mesh.process(pixels_HWC).multi_face_landmarks
        person_HW = (segmentation.process(pixels_HWC).segmentation_mask * 255).astype(np.uint8)
        points = [(point.x * width, point.y * height, point.z * width) for point in faces[0].landmark] if faces else []
        return np.array(points, np.float32).reshape(-1, 3), person_HW

    return find


if __name__ == "__main__":
    main(Path(sys.argv[1]))
