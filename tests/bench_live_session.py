"""How nano idles and changes to speech, in figures: python tests/bench_live_session.py [--chunk-frames 17]

The session's clock is simulated: making a chunk takes half of the time that it lasts, however fast the machine is.
Change: mean absolute difference of neighboring frames in levels of 255, in a part of the drawn sample.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import livetalk_core
from livetalk_core.media.audio import read_audio
from livetalk_core.media.image import crop_cover, load_picture
from livetalk_core.open import EngineOptions, open_engine
from livetalk_core.serve.session import LiveSession

ASSETS = Path(livetalk_core.__file__).parent / "assets"
FACE, MOUTH = (slice(20, 110), slice(30, 98)), (slice(79, 95), slice(48, 80))
IDLE_S, SPEECH_S = 12, 6


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--chunk-frames", type=int, default=33)
    given = parser.parse_args()
    engine = open_engine(EngineOptions(model="nano", chunk_frames=given.chunk_frames))
    pixels_CHW = crop_cover(load_picture(ASSETS / "drawn.png").image, 128, 128)
    shots = play(engine, engine.reference(pixels_CHW))
    frames = np.stack([shot.frame_HWC for shot in shots]).astype(np.float32)
    speaking = np.array([shot.speaking for shot in shots])
    report(frames, speaking, sum(shot.held for shot in shots))


def play(engine, reference) -> list:
    """The shots of idling, speech and idling again."""
    clock, shots = [0.0], []
    session = LiveSession(engine, reference, now=lambda: clock[0])
    sound_N = np.concatenate(list(read_audio(ASSETS / "speech.flac")))[: SPEECH_S * 16000]
    cost_s = 0.5 * session.plan.new_frames / session.plan.fps / 3
    while len(shots) < (2 * IDLE_S + SPEECH_S) * 25:
        if session.is_due():
            take_time(session, clock, cost_s, shots)
        else:
            advance(session, clock, 0.04, shots)
        if len(shots) >= IDLE_S * 25 and sound_N.size:
            session.say(sound_N)
            session.end_speech()
            sound_N = sound_N[:0]
    return shots


def take_time(session, clock, cost_s, shots) -> None:
    """Make a chunk; each of its pieces takes a third of its time."""
    add = session.add

    def add_later(order, frames):
        advance(session, clock, cost_s, shots)
        add(order, frames)

    session.add = add_later
    session.make_next()
    session.add = add


def advance(session, clock, seconds, shots) -> None:
    end = clock[0] + seconds
    while (due := len(shots) * 0.04) <= end:
        clock[0] = max(clock[0], due)
        shots.append(session.tick())
    clock[0] = end


def report(frames: np.ndarray, speaking: np.ndarray, held: int) -> None:
    first, last = np.flatnonzero(speaking)[[0, -1]]
    idle = slice(100, first)
    change = {name: np.abs(np.diff(frames[(slice(None), *part)], axis=0)).mean(axis=(1, 2, 3)) for name, part in PARTS.items()}
    whole = change["face"]
    print(f"frames {len(frames)}, held {held}, speaking {speaking.sum()}")
    for name, steps in change.items():
        print(f"{name}: change a frame, idle {steps[idle].mean():.3f}, speaking {steps[first:last].mean():.3f}")
    opening = np.array([darkness(frame) for frame in frames])
    print(f"mouth darkness: idle {opening[idle].mean():.2f} (sd {opening[idle].std():.2f}), speaking {opening[first:last].mean():.2f}, "
          f"at its most {opening[first:last].max():.2f}, picture {darkness(frames[0]):.2f}")  # fmt: skip
    print(f"step at the change to speech {whole[first - 1]:.2f}, back {whole[last]:.2f}; largest step idle {whole[idle].max():.2f}, "
          f"mean {whole[idle].mean():.2f}, speaking largest {whole[first:last].max():.2f}")  # fmt: skip


PARTS = {"face": FACE, "mouth": MOUTH}


def darkness(frame_HWC: np.ndarray) -> float:
    """Percent of the mouth's region that is as dark as an open mouth."""
    return 100 * float((frame_HWC[MOUTH].mean(axis=-1) < 70).mean())


if __name__ == "__main__":
    main()
