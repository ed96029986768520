"""Writes the shipped samples: `python -m livetalk_core.talker.samples [FOLDER]` rewrites assets/portrait.png and assets/speech.flac."""

from __future__ import annotations

import sys
from pathlib import Path

import av
import numpy as np
from PIL import Image

from livetalk_core.talker.espeak import Utterance, speak
from livetalk_core.talker.face import draw
from livetalk_core.talker.identity import HAIRS, IRISES, SKINS, Identity, Mouth, Pose, rgb

ASSETS = Path(__file__).resolve().parents[1] / "assets"
PORTRAIT = Identity(
    seed=7,
    skin=SKINS[1],
    hair=HAIRS[4],
    iris=IRISES[4],
    cloth=rgb("2f5d66"),
    accent=rgb("f1ece3"),
    back=rgb("e9d6c0"),
    hair_style="wavy",
    clothes="blazer",
    backdrop="window",
    feminine=0.85,
    age=0.1,
    eye_size=0.6,
    face_width=0.35,
    jaw=0.35,
    lip_fullness=0.6,
    zoom=1.22,
)
SPEECH = Utterance(
    text=(
        "Hello! I am a picture that talks. Give me your voice, and I will say your words: "
        "for a minute, for an hour, or for as long as you like. Every sound moves my lips, and I never run out of breath. "
        "A moment ago I was a drawing. Nobody filmed me, and nobody moves me by hand. A small network listens to the speech, "
        "and paints twenty eight pictures at a time, a little more than one second. "
        "Before it goes on, it looks at the last few of them, so that my head does not jump, and at the first picture, "
        "so that I stay who I am. That is why I can go on and on. "
        "I am the smallest of my family. I was trained on drawn people, cats and robots, "
        "and I fit into a processor that has no graphics card. "
        "My big sister has fourteen billion numbers in her head, and speaks from photographs. "
        "She wants a large machine, but she runs through the same code as I do. "
        "Now it is your turn. Draw a face, record a sentence, and listen to what your picture has to say. Goodbye, and see you soon!"
    ),
    voice="en-us",
    words_per_minute=165,
    pitch=58,
)


def main(out: Path = ASSETS) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_portrait(out / "portrait.png")
    write_speech(out / "speech.flac")


def write_portrait(path: Path, size: int = 1024) -> None:
    """A woman who looks at the camera with closed lips and a slight smile."""
    picture_HWC = draw(PORTRAIT, Pose(smile=0.6, brow=0.15), Mouth(), size)
    Image.fromarray(picture_HWC).save(path, optimize=True)


def write_speech(path: Path) -> None:
    """About a minute of English, mono, 16 bits, at espeak-ng's own 22.05 kHz."""
    speech = speak([SPEECH])[0]
    samples_1N = np.round(speech.samples_N * 32768).astype(np.int16)[None]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flac", rate=speech.rate, layout="mono", format="s16")
        frame = av.AudioFrame.from_ndarray(samples_1N, format="s16", layout="mono")
        frame.sample_rate = speech.rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
