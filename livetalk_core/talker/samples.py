"""Writes the shipped samples: `python -m livetalk_core.talker.samples [FOLDER]` rewrites the drawn pictures and the speech in assets/.

portrait.jpg is not drawn: photo/blend.py made it of public-domain portraits of members of the US House of Representatives. Hair and clothes
are of J000305, the face is the mean of S001205, W000812, W000826 and B001300 (their numbers in bioguide.congress.gov); it is nobody's.
"""

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
SECOND = Identity(
    seed=11,
    skin=SKINS[4],
    hair=HAIRS[1],
    iris=IRISES[1],
    cloth=rgb("7a3b3b"),
    accent=rgb("f1ece3"),
    back=rgb("b9cbd6"),
    hair_style="quiff",
    beard="stubble",
    clothes="shirt",
    backdrop="studio",
    feminine=0.1,
    age=0.3,
    jaw=0.7,
    zoom=1.22,
)
SPEECH = Utterance(
    text=(
        "Hello! I am a picture that talks. Give me your voice, and I will say your words: "
        "for a minute, for an hour, or for as long as you like. Every sound moves my lips, and I never run out of breath. "
        "A moment ago I was a still picture. Nobody filmed me, and nobody moves me by hand. A small network listens to the speech, "
        "and paints twenty eight pictures at a time, a little more than one second. "
        "Before it goes on, it looks at the last few of them, so that my head does not jump, and at the first picture, "
        "so that I stay who I am. That is why I can go on and on. "
        "I am the smallest of my family. I was trained on drawn people and on photographs, "
        "and I fit into a processor that has no graphics card. "
        "My big sister has fourteen billion numbers in her head, and a much finer brush. "
        "She wants a large machine, but she runs through the same code as I do. "
        "Now it is your turn. Take a picture, record a sentence, and listen to what your picture has to say. Goodbye, and see you soon!"
    ),
    voice="en-us",
    words_per_minute=165,
    pitch=58,
)


def main(out: Path = ASSETS) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_portrait(out / "drawn.png")
    write_others(out / "second.jpg", out / "pair.jpg")
    write_masks(out / "pair_left.png", out / "pair_right.png")
    write_speech(out / "speech.flac")
    write_parts(out / "speech.flac", out / "hello.flac", out / "reply.flac")


def write_portrait(path: Path, size: int = 1024) -> None:
    """A woman who looks at the camera with closed lips and a slight smile."""
    picture_HWC = draw(PORTRAIT, Pose(smile=0.6, brow=0.15), Mouth(), size)
    Image.fromarray(picture_HWC).save(path, optimize=True)


def write_others(second: Path, pair: Path, size: int = 512) -> None:
    """A man, and the woman and the man side by side in one picture of twice the width."""
    woman_HWC = draw(PORTRAIT, Pose(smile=0.6, brow=0.15), Mouth(), size)
    man_HWC = draw(SECOND, Pose(smile=0.6, brow=0.15), Mouth(), size)
    Image.fromarray(man_HWC).save(second, quality=92)
    Image.fromarray(np.concatenate([woman_HWC, man_HWC], axis=1)).save(pair, quality=92)


def write_masks(left: Path, right: Path, size: int = 512) -> None:
    """Where the woman and the man are in the picture of both: white on black."""
    mask_HW = np.zeros((size, 2 * size), np.uint8)
    mask_HW[:, :size] = 255
    Image.fromarray(mask_HW).save(left, optimize=True)
    Image.fromarray(255 - mask_HW).save(right, optimize=True)


def write_speech(path: Path) -> None:
    """About a minute of English, mono, 16 bits, at espeak-ng's own 22.05 kHz."""
    speech = speak([SPEECH])[0]
    write_flac(path, np.round(speech.samples_N * 32768).astype(np.int16), speech.rate)


def write_parts(speech: Path, hello: Path, reply: Path) -> None:
    """The first 2.5 s of the speech, and an answer to it: 2 s of silence, then 2 s of the speech from 4.6 s on."""
    with av.open(str(speech)) as file:
        rate = file.streams.audio[0].rate
        samples_N = np.concatenate([frame.to_ndarray()[0] for frame in file.decode(audio=0)])
    write_flac(hello, samples_N[: round(2.5 * rate)], rate)
    said = samples_N[round(4.6 * rate) : round(6.6 * rate)]
    write_flac(reply, np.concatenate([np.zeros(2 * rate, np.int16), said]), rate)


def write_flac(path: Path, samples_N: np.ndarray, rate: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flac", rate=rate, layout="mono", format="s16")
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples_N[None]), format="s16", layout="mono")
        frame.sample_rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
