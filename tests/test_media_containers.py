"""Containers that say how long their sound is are held to it, chunks that lie are named, and channels in any order are read."""

import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made import HANG_S, speech_like
from oddities import write_sound

from livetalk_core.media.audio import probe_audio, read_audio

COUNTING = [
    (".au", "pcm_s16be"),
    (".w64", "pcm_s16le"),
    (".caf", "pcm_s16le"),
    (".aiff", "pcm_s16be"),
    (".mkv", "pcm_s16le"),
    (".avi", "pcm_s16le"),
]
SOUND = speech_like(1.0)


@pytest.mark.parametrize("suffix, codec", COUNTING)
def test_a_sound_that_is_shorter_than_its_header_says_is_refused(tmp_path, suffix, codec):
    path = tmp_path / f"speech{suffix}"
    write_sound(path, codec, "stereo", 16000, SOUND)
    assert probe_audio(path).duration == 1, "the whole file passes"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"^[^\n]*cut short: its header promises 1\.00 s, the file holds 0\.\d\d s; copy or export"):
        probe_audio(path)


@pytest.mark.parametrize("suffix, codec", [(".caf", "pcm_s16le"), (".aiff", "pcm_s16be")])
def test_channels_in_an_order_of_their_own_are_read_and_do_not_end_the_process(tmp_path, suffix, codec):
    path = tmp_path / f"speech{suffix}"
    write_sound(path, codec, "7.1", 16000, SOUND)
    code = "import sys; from livetalk_core.media.audio import *; at = sys.argv[1]; "
    code += "print(probe_audio(at).channels, abs(next(read_audio(at))).max())"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 0, done.stderr
    channels, loudest = done.stdout.split()
    assert channels == "8" and abs(float(loudest) - np.abs(SOUND).max()) < 0.01


@pytest.mark.parametrize("name", ["LIST", "JUNK", "id3 ", "bext", "iXML", "\n\0ab"])
@pytest.mark.parametrize("suffix", ["wav", "aiff"])
def test_a_chunk_before_the_sound_that_is_longer_than_the_file_is_named(tmp_path, suffix, name):
    path = tmp_path / f"long.{suffix}"
    write_sound(path, "pcm_s16le" if suffix == "wav" else "pcm_s16be", "mono", 16000, SOUND)
    whole = path.read_bytes()
    at = whole.index(b"data" if suffix == "wav" else b"SSND")
    extra = struct.pack("<4sI" if suffix == "wav" else ">4sI", name.encode(), 2**30)
    path.write_bytes(whole[:at] + extra + whole[at:])
    rule = rf"^[^\n]*chunk before its sound is to have {2**30} bytes, but the file has \d+, [^\n]*export it again[^\n]*$"
    with pytest.raises(ValueError, match=rule):
        probe_audio(path)


def test_a_chunk_before_the_sound_may_be_huge_if_it_is_there(tmp_path):
    path = tmp_path / "huge.wav"
    write_sound(path, "pcm_s16le", "mono", 16000, SOUND)
    expected, whole = list(read_audio(path)), path.read_bytes()
    at = whole.index(b"data")
    with path.open("wb") as file:  # 1 GiB that takes no room on the disk
        file.write(whole[:at] + struct.pack("<4sI", b"JUNK", 2**30))
        file.seek(2**30, 1)
        file.write(whole[at:])
    assert np.array_equal(np.concatenate(list(read_audio(path))), np.concatenate(expected))


def test_an_address_is_no_file():
    with pytest.raises(FileNotFoundError, match="^https://a.org/b.mp3: is an address; download it, and give the path of the sound file"):
        probe_audio(Path("https://a.org/b.mp3"))
