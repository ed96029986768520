"""Pictures of rendered people at rest, with their face mesh and silhouette, for photo films.

`python -m livetalk_core.talker.heads.stills FOLDER COUNT [FIRST]` draws those that are missing: head-SEED.png, and its fit in FOLDER/fits
as photo/fit.py stores it.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import avg_pool2d

from livetalk_core.talker.heads.clip import HELD_OUT_PEOPLE, TRAIN_PEOPLE
from livetalk_core.talker.heads.face_mesh import face_mesh
from livetalk_core.talker.heads.movement import Moment, Movement
from livetalk_core.talker.heads.person import Person
from livetalk_core.talker.heads.raster import rasterize
from livetalk_core.talker.heads.render import FINER, place_camera
from livetalk_core.talker.heads.scene import Scene
from livetalk_core.talker.heads.sitter import pose_sitter
from livetalk_core.talker.heads.take import Studio, Take, act
from livetalk_core.talker.photo.fit import fit_path
from livetalk_core.talker.viseme import MouthTrack

SIZE = 320
FIRST_HELD_OUT = 90_000
"""Seeds from here on are of people who are in no training film."""
CALM = 0.6
"""Of a speaker's turn to the side: people look into the camera."""


@dataclass(frozen=True, eq=False)
class Still:
    """One person in front of a camera, ready to be drawn."""

    take: Take
    scene: Scene
    size: int

    @cached_property
    def seen_N3(self) -> np.ndarray:
        """Where the mesh's points are seen: x and y in pixels, z in pixels away from the camera."""
        moment, anatomy = self.take.moments[0], self.take.sitter.anatomy
        camera = place_camera(self.scene, self.size, self.take.sitter.face.height)
        posed = pose_sitter(self.take.sitter, torch.as_tensor(self.take.bent_TN3[0]), moment).points_N3[: len(anatomy.points_N3)]
        seen_N3 = camera.project(posed).numpy()
        seen_N3[:, 2] = (seen_N3[:, 2] - self.scene.distance) * camera.focal / self.scene.distance
        return seen_N3

    def points(self) -> np.ndarray:
        """float32 [478, 3]: MediaPipe's points of the face, in pixels."""
        return face_mesh(self.take.sitter.anatomy, self.seen_N3)

    def silhouette(self) -> np.ndarray:
        """uint8 [size, size]: 255 where the person is, with soft edges."""
        side, sitter = FINER * self.size, self.take.sitter
        posed = pose_sitter(sitter, torch.as_tensor(self.take.bent_TN3[0]), self.take.moments[0])
        screen = place_camera(self.scene, side, sitter.face.height).project(posed.points_N3)
        covered = torch.zeros(side * side)
        covered[rasterize(screen, sitter.faces_F3, side, side, torch.ones(len(sitter.faces_F3), dtype=torch.bool)).pixels_P] = 255
        return avg_pool2d(covered.view(1, side, side), FINER)[0].round().to(torch.uint8).numpy()

    def picture(self) -> np.ndarray:
        """uint8 [size, size, 3]."""
        return Studio(self.take, self.scene, self.size).draw(0)


def frame_still(seed: int, size: int = SIZE) -> Still:
    """The person and the scene of a seed: closed lips, open eyes, the face to the camera."""
    rng = np.random.default_rng([seed, 77])
    person = person_of(rng, seed)
    moment = at_ease(Movement.sample(int(rng.integers(2**31)), 2.0).at(float(rng.uniform(0, 2))))
    closed = MouthTrack(**{name: np.zeros(1, np.float32) for name in MouthTrack.__dataclass_fields__})
    return Still(act(person, closed, [moment]), Scene.sample(int(rng.integers(2**31))), size)


def person_of(rng: np.random.Generator, seed: int) -> Person:
    number = int(rng.integers(len(TRAIN_PEOPLE)))
    return Person.sample(TRAIN_PEOPLE[number] if seed < FIRST_HELD_OUT else HELD_OUT_PEOPLE[seed - FIRST_HELD_OUT])


def at_ease(moment: Moment) -> Moment:
    return replace(moment, blink=0.0, yaw=CALM * moment.yaw)


def store_still(folder: Path, seed: int, size: int = SIZE) -> None:
    """Draw a still and its fit, if they are not there yet."""
    path = still_path(folder, seed)
    if path.exists():
        return
    torch.set_num_threads(1)
    still = frame_still(seed, size)
    fit_path(path).parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(fit_path(path), points=still.points(), mask=still.silhouette())
    half = path.with_suffix(".tmp.png")
    Image.fromarray(still.picture()).save(half)
    os.replace(half, path)


def still_path(folder: Path, seed: int) -> Path:
    return folder / f"head-{seed:05d}.png"


def seed_of(picture: Path) -> int:
    return int(picture.stem.split("-")[1])


def main(folder: Path, count: int, first: int = 0) -> None:
    for seed in range(first, first + count):
        store_still(folder, seed)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
