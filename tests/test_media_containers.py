"""Containers that say how long their sound is are held to it, and channels in any order are read."""

import subprocess
import sys

import numpy as np
import pytest
from made import HANG_S, speech_like
from oddities import write_sound

from livetalk_core.media.audio import probe_audio

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
