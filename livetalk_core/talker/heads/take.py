"""A person in a scene, ready to draw any moment of a take: poses in, pictures out."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from livetalk_core.talker.heads.backdrop import paint_backdrop
from livetalk_core.talker.heads.develop import develop, meter
from livetalk_core.talker.heads.extras import Extra
from livetalk_core.talker.heads.movement import Moment
from livetalk_core.talker.heads.person import Person
from livetalk_core.talker.heads.pose import Measures, bend, gaze_units, measure, raise_tongue, roll_eyes, seal
from livetalk_core.talker.heads.render import FINER, expose_sitter
from livetalk_core.talker.heads.scene import Scene
from livetalk_core.talker.heads.sitter import Sitter, pose_sitter, seat
from livetalk_core.talker.heads.skin import Skin
from livetalk_core.talker.heads.speaking import speak_units
from livetalk_core.talker.viseme import MouthTrack


@dataclass(frozen=True, kw_only=True)
class Take:
    """Bent faces of all frames, and what was measured on them."""

    sitter: Sitter
    bent_TN3: np.ndarray
    moments: tuple[Moment, ...]
    measures: Measures


def act(person: Person, track: MouthTrack, moments: list[Moment], articulation: float = 1.0) -> Take:
    """The person says what the track shows while moving as the moments say."""
    sitter = seat(person)
    anatomy, face = sitter.anatomy, sitter.face
    units = gaze_units(face, moments) + speak_units(track, face, articulation)
    bent = bend(face, seal(anatomy, face, units, track, articulation))
    roll_eyes(anatomy, face, bent, moments)
    raise_tongue(anatomy, bent, track.tongue_T)
    return Take(sitter=sitter, bent_TN3=bent, moments=tuple(moments), measures=measure(anatomy, face, bent))


class Studio:
    """Draws the frames of a take in a scene; the background and the exposure stay the same."""

    def __init__(self, take: Take, scene: Scene, size: int, device: str = "cpu"):
        self.take, self.scene, self.size, self.device = take, scene, size, torch.device(device)
        self.sitter = moved(take.sitter, self.device)
        with self.device:
            self.backdrop = paint_backdrop(scene, size * FINER)
        self.gain: float | None = None

    @torch.inference_mode()
    def draw(self, frame: int) -> np.ndarray:
        """uint8 [size, size, 3]."""
        with self.device:
            bent = torch.as_tensor(self.take.bent_TN3[frame])
            posed = pose_sitter(self.sitter, bent, self.take.moments[frame])
            image = expose_sitter(self.sitter, posed, bent, self.scene, self.size)
            if self.gain is None:
                self.gain = meter(image, self.sitter.person.melanin)
            return develop(image, self.backdrop, self.scene, self.gain, frame)


def moved(sitter: Sitter, device: torch.device) -> Sitter:
    """The sitter with every tensor on a device."""
    extra = Extra(**{name: value.to(device) for name, value in vars(sitter.extra).items()})
    own = {name: value.to(device) for name, value in vars(sitter).items() if isinstance(value, torch.Tensor)}
    return replace(sitter, extra=extra, skin=Skin(texture_CHW=sitter.skin.texture_CHW.to(device)), **own)
