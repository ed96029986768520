"""Speech from typed text and from sound files, as 16 kHz samples [N] to be spoken."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from livetalk_core.media.audio import read_audio
from livetalk_core.serve.refusal import Refused

SYNTHESIZER = "espeak-ng"
MOST_CHARACTERS = 2000
"""About two minutes of speech."""
PATIENCE_S = 30
RATE = 16000
MPEG = tuple(bytes((255, second)) for second in (0xFB, 0xF3, 0xF2, 0xF1, 0xF9))
STARTS = (b"RIFF", b"ID3", *MPEG, b"OggS", b"fLaC", b"\x1aE\xdf\xa3", b"FORM", b"caff")
"""First bytes of WAV, MP3, AAC, Ogg, FLAC, Matroska and WebM, AIFF, CAF. Playlists could lead a decoder to other files."""


def can_speak_text() -> bool:
    return shutil.which(SYNTHESIZER) is not None


def speak_text(text: str) -> np.ndarray:
    """Typed text, as espeak-ng speaks it. Refused if it is not installed, and for text that is too long or has nothing to say."""
    if not can_speak_text():
        raise Refused("text", f"typed text needs {SYNTHESIZER}; install it on the server: apt install {SYNTHESIZER}")
    if len(text) > MOST_CHARACTERS:
        raise Refused("text", f"a text of {len(text)} characters; the most is {MOST_CHARACTERS}, so send it in parts")
    spoken = "".join(character if character.isprintable() else " " for character in text).strip()
    if not spoken:
        raise Refused("text", "there is no text to speak")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        try:
            said = subprocess.run([SYNTHESIZER, "--stdin", "-w", str(path)], input=spoken.encode(), capture_output=True, timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise Refused("text", f"speaking the text took longer than {PATIENCE_S} s; send a shorter one") from None
        if said.returncode or not path.is_file():
            raise Refused("text", f"{SYNTHESIZER} could not speak the text; it says: {said.stderr.decode(errors='replace')[-200:]}")
        return read_sound(path, 600.0)


def decode_sound(data: bytes, most_s: float) -> np.ndarray:
    """A sound or video file of a usual format. Refused for one that cannot be read or lasts too long."""
    if not (data.startswith(STARTS) or data[4:8] == b"ftyp"):
        raise Refused("sound", "the file is not a sound that can be read; send WAV, MP3, AAC, M4A, MP4, Ogg, FLAC, WebM, AIFF or CAF")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sound"
        path.write_bytes(data)
        try:
            return read_sound(path, most_s)
        except ValueError as error:
            raise Refused("sound", str(error).replace(f"{path}: ", "the sound file: ")) from None


def read_sound(path: Path, most_s: float) -> np.ndarray:
    """Samples [N] of a file. Refused for more than `most_s` seconds, without reading them all."""
    parts, num_samples = [np.zeros(0, np.float32)], 0
    for part_N in read_audio(path):
        parts.append(np.asarray(part_N, np.float32))
        num_samples += len(part_N)
        if num_samples > most_s * RATE:
            raise Refused("sound", f"the sound lasts longer than {most_s:g} s; send it in parts")
    return np.concatenate(parts)
