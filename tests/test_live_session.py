"""A live session: it idles, speaks soon, can be interrupted, and never parts sound from lips. Time is the test's own."""

from __future__ import annotations

import threading
from functools import partial

import numpy as np
import pytest
import torch
from live_engine import FRAME_S, Stage, number_of
from made import HANG_S, pixels, speech_like

from livetalk_core.engine import engine as module
from livetalk_core.serve.session import LiveSession
from livetalk_core.types import Shown, StreamSettings

CHUNK_S, WORK_S = 1.12, 0.225
"""Of the counting engine: a chunk's sound, and the work until its first piece."""


def late(stage: Stage) -> int:
    return stage.session.figures().late_frames


def in_step(stage: Stage) -> bool:
    """Whether every frame with a moving mouth has sound, and no other has."""
    return all(bool(shot.frame_HWC[0, 0, 2]) == bool(shot.samples_N.any()) for shot in stage.shots if not shot.held)


def follow_on(stage: Stage) -> bool:
    numbers = stage.numbers()
    return numbers == list(range(len(numbers)))


def test_without_sound_it_idles_at_a_constant_rate_and_holds_no_frame():
    stage = Stage()
    stage.until(60)
    assert 1500 <= len(stage.shots) <= 1502 and [shot.number for shot in stage.shots] == list(range(len(stage.shots)))
    assert follow_on(stage) and late(stage) == 0 and not stage.spoken().size
    assert sum(shot.held for shot in stage.shots) <= 8, "only before the first frame"
    assert len(stage.engine.opened) == 1, "one stream all along"


@pytest.mark.parametrize("begin", [10 + 0.08 * k for k in range(15)])
def test_speech_from_a_microphone_is_shown_within_a_chunks_work_of_the_sound_it_needs(begin):
    stage = Stage()
    sound_N = stage.speak_at(begin, 5.0)
    stage.until(begin + 8)
    delay = stage.first_speaking() - begin
    assert CHUNK_S < delay <= CHUNK_S + WORK_S + 0.1 + 0.2 + 2 * FRAME_S, "sound, work, one block, what is kept to spare"
    assert np.array_equal(stage.spoken()[: len(sound_N)], sound_N), "without a gap"
    assert follow_on(stage) and in_step(stage) and late(stage) == 0


def test_an_idle_chunk_in_the_making_is_abandoned_when_speech_is_there():
    stage = Stage(step_s=0.2)
    stage.until(6)
    was = stage.engine.work
    begun = []

    def speak_in_the_second_step(seconds):
        was(seconds)
        if stage.session.making is not None and stage.session.making.idle and not begun:
            begun.append(stage.clock)
            stage.session.say(speech_like(3.0) + 0.5)

    stage.engine.work = speak_in_the_second_step
    stage.until(12)
    assert stage.session.figures().abandoned_chunks == 1
    assert stage.first_speaking() - begun[0] < 1.2 + 0.2, "the work of one chunk up to its first piece is 0.9 s; two would be over 1.7"
    assert follow_on(stage) and in_step(stage), "and the stream went on from the frames shown last"
    assert stage.engine.opened[-1][2].frames_THWC.shape == (5, 32, 48, 3)


def test_a_new_stream_is_told_how_long_its_viewer_still_has_frames():
    stage = Stage()
    stage.until(5)
    stage.session.change(seed=8)
    with_frames = len(stage.engine.opened)
    while len(stage.engine.opened) == with_frames:
        waiting = len(stage.session.timeline.waiting)
        stage.until(stage.clock + 0.01)
    assert stage.engine.opened[-1][2].ahead_s == pytest.approx(waiting / 25, abs=FRAME_S) and waiting > 2


@pytest.mark.parametrize("begin", [10 + 0.1 * k for k in range(10)])
def test_the_engine_is_free_when_the_sound_of_an_utterance_is_complete(begin):
    stage = Stage(step_s=0.2)
    stage.until(begin)
    stage.speak_at(begin, 3.0, block_s=FRAME_S)
    begun, order = [], stage.session.order

    def noted():
        given = order()
        if not given.idle:
            begun.append(stage.clock)
        return given

    stage.session.order = noted
    stage.until(begin + 3)
    assert begun[0] - (begin + CHUNK_S) <= 2 * FRAME_S, "not a step of 0.2 s later"
    assert follow_on(stage) and in_step(stage)


def test_idle_frames_that_would_delay_speech_are_dropped_and_the_stream_goes_on_before_them():
    stage = Stage()
    stage.until(5)
    while len(stage.session.timeline.waiting) < 25:
        stage.until(stage.clock + 0.01)
    stage.session.say(np.full(32000, 0.5, np.float32))
    said = stage.clock
    stage.until(said + 5)
    assert stage.session.figures().dropped_frames > 0
    assert stage.first_speaking() - said < WORK_S + 0.2 + 3 * FRAME_S
    assert follow_on(stage) and late(stage) == 0


def test_an_interruption_drops_all_that_waits_and_the_mouth_closes_with_the_next_chunk():
    stage = Stage()
    stage.at(5, lambda: stage.session.say(np.full(160000, 0.5, np.float32)))
    stage.at(9, stage.session.interrupt)
    stage.until(12)
    after = [shot for shot in stage.shots if shot.number * FRAME_S > 9]
    assert not any(shot.speaking for shot in after) and follow_on(stage)
    closed = next(shot.number for shot in after if not shot.held) * FRAME_S
    assert closed - 9 < WORK_S + 0.05 + 2 * FRAME_S, "a step that was running, and the work of a chunk"
    assert late(stage) == 0 and stage.session.figures().held_frames > 0, "what stood still then is counted apart"


def test_speech_after_an_interruption_is_as_fast_as_at_the_start():
    delays = []
    for interrupted in (False, True):
        stage = Stage()
        if interrupted:
            stage.at(4, lambda stage=stage: stage.session.say(np.full(160000, 0.5, np.float32)))
            stage.at(7, stage.session.interrupt)
        stage.until(10)
        before, sound_N = len(stage.shots), stage.speak_at(10, 2.0)
        stage.until(15)
        spoken = [shot for shot in stage.shots[before:] if shot.speaking]
        assert np.array_equal(np.concatenate([shot.samples_N for shot in spoken])[: len(sound_N)], sound_N)
        delays.append(spoken[0].number)
    assert abs(delays[0] - delays[1]) <= 2


def test_an_interruption_of_an_idle_session_changes_nothing_and_a_second_one_no_more_than_the_first():
    idle, once, twice = Stage(), Stage(), Stage()
    idle.at(9.3, idle.session.interrupt)
    for stage, times in ((once, [9.3]), (twice, [9.3, 9.35])):
        stage.at(8, lambda stage=stage: stage.session.say(np.full(160000, 0.5, np.float32)))
        for now in times:
            stage.at(now, stage.session.interrupt)
    for stage in (idle, once, twice):
        stage.until(15)
    assert follow_on(idle) and idle.session.figures().dropped_frames == idle.session.figures().late_frames == 0
    assert sum(shot.held for shot in idle.shots) <= 8, "only before the first frame"
    assert [shot.held for shot in twice.shots] == [shot.held for shot in once.shots]
    assert sum(shot.held for shot in once.shots[225:]) > 0, "an interruption of speech does hold frames"


def test_a_short_word_is_spoken_without_waiting_for_a_whole_chunk_of_sound():
    for announced in (True, False):
        stage = Stage()
        stage.at(5, lambda stage=stage: stage.session.say(np.full(4800, 0.5, np.float32)))
        if announced:
            stage.at(5, stage.session.end_speech)
        stage.until(9)
        assert (
            stage.spoken().size == 15 * 640 // 2 + 320 and stage.first_speaking() - 5 < (0.3 if not announced else 0) + WORK_S + 0.2 + 0.15
        )


def test_a_late_engine_holds_frames_counts_them_and_keeps_sound_with_its_lips():
    stage = Stage(step_s=0.3)  # 1.65 s of work for 1.12 s of video
    sound_N = stage.speak_at(5, 6.0)
    stage.until(30)
    held = sum(shot.held for shot in stage.shots)
    assert late(stage) > 20 and held == late(stage) + stage.session.figures().held_frames
    assert in_step(stage) and follow_on(stage) and np.array_equal(stage.spoken()[: len(sound_N)], sound_N)
    assert stage.session.figures().rtf > 1


def test_a_change_of_prompt_takes_effect_with_the_next_chunk_and_goes_on_from_what_waits():
    stage = Stage()
    stage.until(5)
    other = stage.engine.reference(torch.ones(3, 32, 48))
    stage.session.change(other, seed=50)
    waiting = len(stage.session.timeline.waiting)
    stage.until(8)
    (reference, settings, _) = stage.engine.opened[1]
    assert reference is other and settings.seed == 51 and len(stage.engine.opened) == 2
    assert stage.session.figures().dropped_frames == 0 and waiting and follow_on(stage)
    with pytest.raises(ValueError, match="another size"):
        stage.session.change(stage.engine.reference(torch.zeros(3, 64, 64)))


def test_what_waits_is_bounded_however_much_comes():
    stage = Stage()
    stage.session.say(np.full(16000 * 590, 0.5, np.float32))
    with pytest.raises(ValueError, match="630 s of speech would wait; the most is 600 s"):
        stage.session.say(np.full(16000 * 40, 0.5, np.float32))
    most = 0
    while stage.clock < 20:
        stage.until(stage.clock + 0.1)
        most = max(most, len(stage.session.timeline.waiting))
    assert most < 100, "four seconds of frames"
    with pytest.raises(ValueError, match="NaN"):
        stage.session.say(np.array([np.nan], np.float32))


def test_a_failure_of_the_engine_reaches_whoever_takes_frames(engine):
    class Failing:
        plan, preset = engine.plan, engine.preset

        def open(self, *_, **__):
            raise RuntimeError("no memory left")

    session = LiveSession(Failing(), engine.reference(pixels())).start()
    session.thread.join(HANG_S)
    with pytest.raises(RuntimeError, match="no memory left"):
        session.tick()
    session.close()


def test_a_stream_that_begins_after_shown_frames_goes_on_as_the_first_one_would_have(engine, monkeypatch):
    """With the same noise, the second chunk is that of one long stream, up to the rounding of frames to bytes."""
    noise = torch.randn(1 << 16, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(module, "seeded_noise", lambda shape, seed, device: lambda dtype: noise[: torch.Size(shape).numel()].view(shape))
    reference, sound_N = engine.reference(pixels()), torch.from_numpy(speech_like(2.24))
    whole = torch.cat([piece.frames_THWC for piece in engine.open(reference, StreamSettings()).push(sound_N)])
    shown = Shown(frames_THWC=whole[23:28], samples_N=sound_N[:17920])
    silent = Shown(frames_THWC=whole[23:28], samples_N=torch.zeros(17920))
    errors = []
    for start in (shown, silent, None):
        again = torch.cat([piece.frames_THWC for piece in engine.open(reference, StreamSettings(), start=start).push(sound_N[17920:])])
        errors.append((again.float() - whole[28:].float()).abs().mean().item())
    assert errors[0] < 1 and errors[0] < errors[1] / 2 and errors[0] < errors[2] / 4
    with pytest.raises(ValueError, match="must be .5, 32, 48, 3."):
        engine.open(reference, StreamSettings(), start=Shown(frames_THWC=whole[:4], samples_N=sound_N))


def test_it_runs_on_an_engine_in_this_process_and_ends_in_the_middle_of_a_chunk(engine):
    session = LiveSession(engine, engine.reference(pixels())).start()
    shown = threading.Event()
    while session.figures().waiting_frames < 28:
        assert session.failure is None
        shown.wait(0.01)
    session.say(speech_like(3.0))
    while not session.tick().speaking:
        shown.wait(0.001)
    session.interrupt()
    session.close()
    assert not session.thread.is_alive() and number_of(session.tick().frame_HWC) >= 0


def test_minutes_of_random_speech_interruptions_and_changes_lose_no_frame_and_part_no_lips():
    """Sound comes in real time or all at once, ends announced or not; the engine's speed changes, too."""
    draw, stage = np.random.default_rng(3), Stage()
    now = 3.0
    while now < 300:
        match draw.integers(6):
            case 0 | 1:
                stage.speak_at(now, float(draw.uniform(0.2, 4.0)), float(draw.choice([0.02, 0.1, 0.5])))
            case 2:
                sound_N = np.full(int(draw.integers(1000, 80000)), 0.5, np.float32)
                stage.at(now, lambda sound_N=sound_N: (stage.session.say(sound_N), stage.session.end_speech()))
            case 3:
                stage.at(now, stage.session.interrupt)
            case 4:
                stage.at(now, partial(stage.session.change, seed=int(draw.integers(100))))
            case 5:
                stage.at(now, partial(setattr, stage.engine, "step_s", float(draw.choice([0.02, 0.05, 0.3]))))
        now += float(draw.uniform(0.05, 5.0))
    stage.until(310)
    told = stage.session.figures()
    assert follow_on(stage) and in_step(stage), "whatever was dropped was never shown, and the next frame follows the last one shown"
    assert sum(shot.held for shot in stage.shots) == told.late_frames + told.held_frames
    assert len(stage.shots) == told.shown_frames and abs(len(stage.shots) * FRAME_S - stage.clock) <= FRAME_S
    assert told.utterances > 40 and told.abandoned_chunks > 10 and told.dropped_frames > 100
