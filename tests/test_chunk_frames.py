"""Chunks of other lengths: less sound for each, the same video in all."""

from __future__ import annotations

import pytest
import torch
from made import pixels, speech_like

from livetalk_core.engine.load import load_engine
from livetalk_core.open import EngineOptions
from livetalk_core.serve.session import LiveSession
from livetalk_core.types import StreamSettings


@pytest.mark.parametrize("chunk_frames, first, later", [(17, [4, 8], [4, 8]), (21, [4, 12], [4, 5])])
def test_a_shorter_chunk_needs_less_sound_and_the_video_has_all_its_frames(chunk_frames, first, later):
    engine = load_engine("tiny", device="cpu", chunk_frames=chunk_frames)
    new_frames = chunk_frames - 5
    assert engine.plan(48, 32).new_samples == 640 * new_frames
    stream, sound_N = engine.open(engine.reference(pixels()), StreamSettings(steps=1)), torch.from_numpy(speech_like(1.0))
    pieces = [len(piece.frames_THWC) for piece in stream.push(sound_N[: 640 * new_frames])]
    assert pieces == first and not list(stream.push(sound_N[:0]))
    rest = [*stream.push(sound_N[640 * new_frames :]), *stream.finish()]
    assert sum(pieces) + sum(len(piece.frames_THWC) for piece in rest) == 25
    assert [len(piece.frames_THWC) for piece in rest][: len(later)] == later


def test_a_live_session_goes_on_with_short_chunks():
    engine = load_engine("tiny", device="cpu", chunk_frames=17)
    session = LiveSession(engine, engine.reference(pixels()), StreamSettings(steps=1))
    for _ in range(3):
        session.make_next()
        for _ in range(12):
            session.tick()
    session.stale = True
    session.make_next()
    assert session.num_streams == 2 and len(session.timeline.waiting) == 12, "a new stream, from the frames that were shown"


def test_other_numbers_are_refused_with_the_nearest_that_work():
    with pytest.raises(ValueError, match="chunk_frames=16 must be 4k . 1; nearest: 13 or 17"):
        EngineOptions(chunk_frames=16)
    with pytest.raises(ValueError, match="chunk_frames=9 must be 13 or more"):
        EngineOptions(chunk_frames=9)
