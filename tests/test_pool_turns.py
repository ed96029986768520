"""Several streams on one pool: whose piece is made next, and what a reader who takes his time costs the others."""

from __future__ import annotations

import threading
import time

import torch
from made import HANG_S, pixels, speech_like
from test_pool import CHUNK, frames_of, light, talk, tests_on_path, tiny_pool  # noqa: F401 (fixtures)

from livetalk_core.types import Shown, StreamSettings


def test_several_streams_keep_their_own_state(tiny_pool):  # noqa: F811
    reference = tiny_pool.reference(pixels())
    expected = [talk(tiny_pool, 1.5, seed=seed, reference=reference) for seed in (1, 2)]
    streams = [tiny_pool.open(reference, StreamSettings(seed=7, steps=2)) for _ in (1, 2)]
    sounds, mixed = [torch.from_numpy(speech_like(1.5, seed=seed)) for seed in (1, 2)], [[], []]
    for start in range(0, 24000, 10000):
        for i in (0, 1):
            mixed[i] += streams[i].push(sounds[i][start : start + 10000])
    for i in (0, 1):
        mixed[i] += streams[i].finish()
        assert torch.equal(frames_of(mixed[i]), frames_of(expected[i]))
    assert not torch.equal(frames_of(mixed[0]), frames_of(mixed[1]))


def test_what_a_reader_leaves_comes_with_the_next_call(tiny_pool):  # noqa: F811
    whole = talk(tiny_pool)
    stream, sound = tiny_pool.open(tiny_pool.reference(pixels()), StreamSettings(seed=7, steps=2)), torch.from_numpy(speech_like(2.5))
    chunks = [next(stream.push(sound[:18000])), next(stream.push(sound[18000:20000])), *stream.push(sound[20000:]), *stream.finish()]
    assert [chunk.first_frame for chunk in chunks] == [chunk.first_frame for chunk in whole]
    assert torch.equal(frames_of(chunks), frames_of(whole))


def test_the_first_piece_of_a_chunk_brings_its_latents(tiny_pool):  # noqa: F811
    latents = []
    stream = tiny_pool.open(tiny_pool.reference(pixels()), StreamSettings(steps=1), on_latents=latents.append)
    assert [(chunk.index, len(latents)) for chunk in stream.push(CHUNK.repeat(2))] == [(0, 1)] * 3 + [(1, 2)] * 3
    assert latents[0].shape == (16, 9, 4, 6)


def test_the_chunk_that_is_due_first_is_made_first(light):  # noqa: F811
    """A stream far ahead of its viewer lets one pass that has just begun, whoever asked first."""
    light.start()
    reference, schedule, begun = light.reference(pixels()), light.workers.schedule, []
    streams = {name: light.open(reference, StreamSettings(steps=steps)) for name, steps in (("long", 100), ("ahead", 1), ("new", 1))}
    names = {stream.session: name for name, stream in streams.items()}
    list(streams["ahead"].push(CHUNK.repeat(20)))  # shown in 22 s
    begin, pushes = schedule.begin, lambda: [job for _, _, job in schedule.waiting if job.what == "push"]

    def noted():
        if (job := begin()) is not None and job.what == "push":
            begun.append(names[job.command.session])
        return job

    schedule.begin = noted
    threads = {name: threading.Thread(target=lambda name=name: list(streams[name].push(CHUNK))) for name in streams}
    threads["long"].start()
    wait_until(lambda: begun)
    for count, name in ((1, "ahead"), (2, "new")):
        threads[name].start()
        wait_until(lambda count=count: len(pushes()) == count)
    for thread in threads.values():
        thread.join()
    del schedule.begin
    assert begun == ["long", "new", "ahead"]


def test_a_stream_that_goes_on_from_waiting_frames_is_due_when_they_have_been_shown(tiny_pool):  # noqa: F811
    """So a live session's idle video, or its next words, let speech pass that is needed sooner."""
    reference, sound_N, schedule, dues = tiny_pool.reference(pixels()), torch.zeros(16000), tiny_pool.workers.schedule, {}
    frames_THWC = torch.zeros(5, *pixels().shape[1:], 3, dtype=torch.uint8)
    submit, before = schedule.submit, time.monotonic()
    schedule.submit = lambda job: (dues.setdefault(job.what, job.due - before), submit(job))[1]
    try:
        for ahead_s in (3000.0, 0.0):
            dues.clear()
            shown = Shown(frames_THWC=frames_THWC, samples_N=sound_N, ahead_s=ahead_s)
            next(tiny_pool.open(reference, StreamSettings(steps=1), start=shown).push(CHUNK))
            assert ahead_s <= dues["push"] <= ahead_s + HANG_S and dues["open"] < HANG_S
    finally:
        del schedule.submit


def wait_until(met) -> None:
    end = time.monotonic() + HANG_S
    while not met():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_a_long_decode_takes_its_turns_as_they_come(tiny_pool):  # noqa: F811
    """Each piece is due when it is asked for, so a stream's late piece goes before the rest of a decode."""
    tiny_pool.start()
    schedule, dues = tiny_pool.workers.schedule, []
    submit = schedule.submit
    schedule.submit = lambda job: dues.append(job.due) or submit(job)
    try:
        list(tiny_pool.decode(torch.zeros(16, 9, 4, 6)))
    finally:
        del schedule.submit
    asked = [due for due in dues if due]
    assert len(asked) == 5 and asked == sorted(set(asked)), "to open it, for three pieces, and for the end"


def test_a_slow_reader_holds_up_nobody(light):  # noqa: F811
    reference, done = light.reference(pixels()), []
    slow = light.open(reference, StreamSettings(steps=1)).push(CHUNK.repeat(10))
    held = [next(slow) for _ in range(6)]  # more than there are slots, all kept
    reader = threading.Thread(target=lambda: done.extend(light.open(reference, StreamSettings(steps=1)).push(CHUNK.repeat(5))))
    reader.start()
    reader.join(HANG_S)
    assert len(done) == 5, "while the slow one was not asking"
    assert [int(chunk.frames_THWC.max()) for chunk in held] == [(9999 + k) % 256 for k in range(1, 7)], "what it keeps is not written over"
    assert len(list(slow)) == 4
