"""Three hundred odd or broken inputs: one clear line or a whole video, never a traceback, a hang, a stray file or lost sound."""

import os
import signal
import time

import numpy as np
import pytest
import torch
from oddities import odd_picture, odd_sound, pick

from livetalk_core.cli.main import main
from livetalk_core.media.video import probe_video
from livetalk_core.presets import tiny
from livetalk_core.types import Chunk

CASES, GROUP = 300, 30
MOST_CPU_S = 10
FRAME_S = 0.04
UNCOUNTED = (".ac3", ".aac", ".ts")
"""Formats that say nowhere how long they are: where one was cut, nobody can know what is missing."""
PADDING = 3 * 1152
"""Samples of silence that a codec without exact ends may add, of packets up to 1152 samples."""


class Painter:
    """An engine that paints gray at once: only reading and writing are tested. It may send this process a signal after its first piece."""

    preset, turn, device = tiny(), None, torch.device("cpu")

    def __init__(self, sends: int | None) -> None:
        self.sends = sends

    def plan(self, width: int, height: int):
        return self.preset.plan(width, height)

    def reference(self, pixels_CHW, prompt, masks):
        return self.plan(pixels_CHW.shape[2], pixels_CHW.shape[1])

    def open(self, plan, settings, people, **how):
        self.size = (plan.height, plan.width)
        return self

    def close(self) -> None:
        """Nothing is held."""

    def push(self, samples_PN):
        return iter(())

    def finish(self, num_frames: int):
        for first in range(0, num_frames, 4):
            count = min(4, num_frames - first)
            frames = torch.full((count, *self.size, 3), 128, dtype=torch.uint8)
            yield Chunk(index=first // 28, first_frame=first, frames_THWC=frames, samples=np.zeros(640 * count, np.float32))
            if self.sends is not None:
                os.kill(os.getpid(), self.sends)


@pytest.mark.slow
@pytest.mark.parametrize("group", range(CASES // GROUP))
def test_odd_inputs_get_one_line_or_a_whole_video(group, tmp_path, monkeypatch, capfd):
    faults = []
    for seed in range(group * GROUP, (group + 1) * GROUP):
        folder = tmp_path / str(seed)
        folder.mkdir()
        monkeypatch.chdir(folder)
        fault = try_one(np.random.default_rng([seed, 25]), folder, monkeypatch, capfd)
        faults += [f"case {seed}: {fault}"] if fault else []
    assert not faults, "\n".join(faults)


def try_one(rng, folder, monkeypatch, capfd) -> str:
    """What is wrong with one case; empty if nothing."""
    sound, picture = odd_sound(rng, folder), odd_picture(rng, folder)
    output = folder / f"{pick(rng, ('out', 'out put', 'öut', '-out'))}.mp4"
    sends = pick(rng, (signal.SIGTERM, signal.SIGINT)) if os.name == "posix" and rng.random() < 0.1 else None
    monkeypatch.setattr("livetalk_core.open.open_engine", lambda asked, say, prompt: Painter(sends))
    before, start = set(folder.iterdir()), time.process_time()
    arguments = ["generate", *named(rng, picture, sound.path, output), "--model", "tiny", "--size", "32x32", "--any-size"]
    try:
        status = main(arguments)
    except BaseException as error:
        capfd.readouterr()
        return f"{type(error).__name__}: {error} for {sound.about}"
    told = "".join(capfd.readouterr())
    stray = [path.name for path in set(folder.iterdir()) - before if path.name not in told and ascii(path.name)[1:-1] not in told]
    checks = {
        f"took {time.process_time() - start:.0f} s": time.process_time() - start > MOST_CPU_S,
        f"left {stray}": bool(stray),
        "has a traceback": "Traceback" in told,
        f"ended with {status}": status not in ((0, 2, 130) if sends else (0, 2)),
        "is not one line": status == 2 and sum(line.startswith("livetalk: error: ") for line in told.splitlines()) != 1,
        "lost sound": status == 0 and lost(output, sound, told),
    }
    wrong = [what for what, is_so in checks.items() if is_so]
    return f"{', '.join(wrong)} for {sound.about}: {told[-300:]!r}" if wrong else ""


def named(rng, *paths) -> list[str]:
    """Paths as typed: absolute, or relative to the folder, where one may look like an option."""
    return [str(path) if rng.random() < 0.7 or path.name.startswith("-") else path.name for path in paths]


def lost(output, sound, told: str) -> bool:
    """Whether a video is shorter than its sound by more than a frame, without a word of it, or a whole sound's is longer."""
    made = probe_video(output).frames * FRAME_S
    silent = "sound " not in told and sound.path.suffix not in UNCOUNTED
    longer = sound.whole and made > sound.seconds + FRAME_S + PADDING / min(sound.rate, 44100)
    return longer or (made < sound.seconds - FRAME_S and (sound.whole or silent))


def test_the_fuzzer_notices_lost_sound_and_a_traceback(tmp_path, monkeypatch, capfd, portrait, speech):
    class Whole:
        path, seconds, rate, whole = speech, 9.9, 16000, True

    monkeypatch.setattr("livetalk_core.open.open_engine", lambda asked, say, prompt: Painter(None))
    assert main(["generate", str(portrait), str(speech), str(tmp_path / "a.mp4"), "--model", "tiny", "--size", "32x32", "--any-size"]) == 0
    assert lost(tmp_path / "a.mp4", Whole, "sound speech.wav: something was done")
    Whole.seconds = 2.5
    assert not lost(tmp_path / "a.mp4", Whole, "")
