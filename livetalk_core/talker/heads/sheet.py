"""Pictures to judge by eye: many people, one who speaks, a blink. `python -m livetalk_core.talker.heads.sheet [FOLDER]`"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from livetalk_core.talker.espeak import Phone, Utterance, speak
from livetalk_core.talker.heads.movement import Moment, Movement
from livetalk_core.talker.heads.person import Person
from livetalk_core.talker.heads.scene import Scene
from livetalk_core.talker.heads.take import Studio, act
from livetalk_core.talker.identity import Mouth
from livetalk_core.talker.viseme import FIELDS, FPS, MouthTrack, track_mouth

SENTENCE = Utterance(text="People move about the room, five of them laughing.", voice="en-us", words_per_minute=150)


FIRST, PEOPLE, SPEAKER, SIZE = 60, 40, 31, 256


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    save(out / "heads_speaking.jpg", draw_speaking(SPEAKER, SIZE), 6)
    save(out / "heads_blink.jpg", draw_blink(SPEAKER, SIZE), 10)
    save(out / "heads_people.jpg", [draw_person(FIRST + k, SIZE) for k in range(PEOPLE)], 8)


def save(path: Path, pictures: list[np.ndarray], columns: int) -> None:
    """Pictures in rows; the last row is filled up with black."""
    pictures = pictures + [np.zeros_like(pictures[0])] * (-len(pictures) % columns)
    rows = [np.concatenate(pictures[start : start + columns], 1) for start in range(0, len(pictures), columns)]
    Image.fromarray(np.concatenate(rows)).save(path, quality=92)


def draw_person(seed: int, size: int) -> np.ndarray:
    """One picture of a person with closed lips and open eyes."""
    moment = replace(Movement.sample(seed, 5.0).at(1.0), blink=0.0)
    return Studio(act(Person.sample(seed), resting(1), [moment]), Scene.sample(seed), size).draw(0)


def resting(frames: int) -> MouthTrack:
    return MouthTrack(**{f"{name}_T": np.full(frames, vars(Mouth())[name], np.float32) for name in FIELDS})


def draw_speaking(seed: int, size: int) -> list[np.ndarray]:
    """Twelve moments of a sentence, each with the sound that is spoken."""
    speech = speak([SENTENCE])[0]
    track, movement = track_mouth(speech), Movement.sample(seed, 5.0)
    moments = [replace(movement.at(frame / FPS, 0.5), blink=0.0) for frame in range(len(track))]
    studio = Studio(act(Person.sample(seed), track, moments), Scene.sample(seed), size)
    spoken = [phone for phone in speech.phones if phone.ipa]
    shown = [spoken[k] for k in np.linspace(0, len(spoken) - 1, 12).round().astype(int)]
    return [labeled(studio.draw(frame_of(phone, len(track))), phone.ipa) for phone in shown]


def frame_of(phone: Phone, frames: int) -> int:
    return min(frames - 1, int((phone.start + phone.end) / 2 * FPS))


def labeled(picture: np.ndarray, text: str) -> np.ndarray:
    image = Image.fromarray(picture)
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), max(12, image.width // 11))
    ImageDraw.Draw(image).text((8, 4), text, fill=(255, 255, 255), font=font, stroke_width=2, stroke_fill=(0, 0, 0))
    return np.asarray(image)


def draw_blink(seed: int, size: int) -> list[np.ndarray]:
    """Ten frames about a blink."""
    movement = Movement.sample(seed, 12.0)
    start = float(movement.blinks_s[movement.blinks_s > 0.5][0]) - 1.5 / FPS
    moments: list[Moment] = [movement.at(start + frame / FPS) for frame in range(10)]
    studio = Studio(act(Person.sample(seed), resting(10), moments), Scene.sample(seed), size)
    return [studio.draw(frame) for frame in range(10)]


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs"))
