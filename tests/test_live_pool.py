"""A live session over a pool of two workers: streams that go on from shown frames, and chunks that are abandoned."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from made import HANG_S, pixels, speech_like

from livetalk_core.open import EngineOptions, open_pool
from livetalk_core.serve.session import LiveSession
from livetalk_core.types import Shown, StreamSettings

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pool():
    made = open_pool(EngineOptions(model="tiny", workers=2))
    yield made
    made.close()


def test_two_workers_go_on_from_shown_frames_as_one_process_does(pool, engine):
    sound_N = torch.from_numpy(speech_like(1.12))
    shown = Shown(
        frames_THWC=torch.randint(0, 256, (5, 32, 48, 3), generator=torch.Generator().manual_seed(2), dtype=torch.uint8), samples_N=sound_N
    )

    def frames(maker, start):
        reference = maker.reference(pixels())
        return torch.cat([piece.frames_THWC for piece in maker.open(reference, StreamSettings(), start=start).push(sound_N)]).float()

    alone, together, without = frames(engine, shown), frames(pool, shown), frames(pool, None)
    assert (alone - together).abs().mean() < 0.5 < (alone - without).abs().mean()


def test_interruptions_in_the_middle_of_chunks_leave_the_pool_as_it_was(pool):
    session, pause = LiveSession(pool, pool.reference(pixels())).start(), threading.Event()
    for _ in range(3):
        while session.figures().waiting_frames < 12:
            assert session.failure is None
            pause.wait(0.01)
            session.tick()
        session.say(speech_like(3.0) + np.float32(0.1))
        while not session.tick().speaking:
            pause.wait(0.005)
        session.interrupt()
    session.close()
    session.thread.join(HANG_S)
    assert session.failure is None and pool.stats()["sessions"] == 0 and pool.state.kind == "ready"
