"""A pool of workers against the engine in this process: the same chunks, errors and manners."""

from __future__ import annotations

import gc
import os
import tempfile
import threading
import time

import pytest
import torch
from made import HANG_S, pixels, speech_like, write_small_folder
from pool_engines import GOLDEN, LightOptions, golden, golden_reference

from livetalk_core.checks.parity import Golden
from livetalk_core.engine.load import load_engine
from livetalk_core.pool import wire
from livetalk_core.pool.overhead import measure
from livetalk_core.pool.pool import Limits, Placement, Pool, PoolClosed, Recipe
from livetalk_core.pool.workers import Workers
from livetalk_core.types import NoRoom, Start, StreamSettings

CHUNK = torch.zeros(17920)
DEGREES = {1: (1, 1), 2: (2, 1), 4: (4, 1), 8: (4, 2)}
LATENT_LIMIT = 1e-4


def placement(num_workers: int) -> Placement:
    ulysses, ring = DEGREES[num_workers]
    return Placement(num_workers=num_workers, ulysses_degree=ulysses, ring_degree=ring)


def make_pool(num_workers: int, make: str = "pool_engines:Light", limits=None, **asked) -> Pool:
    limits = {} if limits is None else {"limits": limits}
    return Pool(placement(num_workers), Recipe(make=make, options=LightOptions(**asked)), **limits)


@pytest.fixture(scope="module")
def tests_on_path(tmp_path_factory):
    """Workers find `pool_engines`, and logs of failures go where the tests' other files go."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.path.dirname(__file__))
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("logs")))
        yield


@pytest.fixture(scope="module")
def light(tests_on_path):
    """Two workers with the light engine."""
    pool = make_pool(2)
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def tiny_pool(tests_on_path):
    """Two workers with the real tiny engine."""
    pool = make_pool(2, "livetalk_core.engine.load:load_member", model="tiny", device="cpu")
    yield pool
    pool.close()


def frames_of(chunks) -> torch.Tensor:
    return torch.cat([chunk.frames_THWC for chunk in chunks])


def talk(engine, seconds=2.5, cuts=(10**9,), seed=0, reference=None, **options):
    stream = engine.open(reference or engine.reference(pixels()), StreamSettings(seed=7, steps=2), **options)
    samples, chunks, start = torch.from_numpy(speech_like(seconds, seed=seed)), [], 0
    for size in cuts:
        chunks += stream.push(samples[start : start + size])
        start += size
    chunks += stream.finish()
    stream.close()
    return chunks


def talk_golden(engine, reference):
    """The recorded three chunks: their latents and frames."""
    _, tensors = Golden(GOLDEN).read("stream")
    latents = []
    stream = engine.open(reference, StreamSettings(steps=4, shift=5.0), on_latents=latents.append)
    chunks = list(stream.push(tensors["in.waveform"][: 3 * 17920]))
    stream.close()
    return torch.cat(latents, dim=1), chunks


@pytest.mark.slow
def test_a_stream_of_the_pool_that_starts_later_makes_the_same_chunks(tiny_pool):
    reference, sound, latents = tiny_pool.reference(torch.zeros(3, 32, 48)), torch.from_numpy(speech_like(3.5)), []
    stream = tiny_pool.open(reference, StreamSettings(steps=2), on_latents=latents.append)
    whole = [*stream.push(sound), *stream.finish()]
    later = tiny_pool.open(reference, StreamSettings(steps=2), start=Start(index=2, motion_CTHW=latents[2][:, :2]))
    rest = [*later.push(sound), *later.finish()]
    expected = [chunk for chunk in whole if chunk.index >= 2]
    assert [chunk.first_frame for chunk in rest] == [chunk.first_frame for chunk in expected] and expected
    assert all(torch.equal(a.frames_THWC, b.frames_THWC) for a, b in zip(rest, expected, strict=True))


def test_a_small_model_talks_through_the_pool_as_in_this_process(tests_on_path, tmp_path):
    """Its VAE in bands, its attention shared; its encoders have no weights. Enlarged frames are whole on every process."""
    folder = write_small_folder(tmp_path / "small", enlarges=True)
    large = torch.nn.functional.interpolate(pixels()[None], (256, 256))[0]
    pool = make_pool(2, "livetalk_core.engine.load:load_member", model=folder, device="cpu")
    try:
        engines = (pool, load_engine(folder, "cpu"))
        made = [[frames_of(talk(engine)).int(), frames_of(talk(engine, 1, reference=engine.reference(large))).int()] for engine in engines]
        latents = torch.randn(64, 2, 16, 16, generator=torch.Generator().manual_seed(1))
        decoded = [torch.cat(list(engine.decode(latents, large)), dim=1) for engine in engines]
    finally:
        pool.close()
    for shared, alone, shape in zip(*made, [(63, 32, 48, 3), (25, 256, 256, 3)], strict=True):
        assert shared.shape == alone.shape == shape and alone.float().std() > 5
        assert (shared - alone).abs().max() <= 1
    assert decoded[0].shape == (3, 5, 256, 256) and torch.allclose(*decoded, atol=1e-4)


@pytest.fixture(scope="module")
def alone(tests_on_path):
    import livetalk_core.engine.engine as module

    before = module.seeded_noise
    engine = golden(None)
    reference = golden_reference(engine)
    result = talk_golden(engine, reference)
    module.seeded_noise = before
    return reference, *result


@pytest.mark.parametrize("num_workers", [2, *(pytest.param(count, marks=pytest.mark.slow) for count in (4, 8))])
def test_the_recorded_stream_through_the_pool_is_that_of_one_process(alone, num_workers):
    reference, latents, chunks = alone
    pool = make_pool(num_workers, "pool_engines:golden")
    try:
        overhead = measure(pool) if num_workers == 8 else None
        found, pool_chunks = talk_golden(pool, reference)
    finally:
        pool.close()
    error = (found - latents).abs().max().item()
    print(f"{num_workers} workers: latents differ by {error:.1e}; {overhead}")
    assert error < LATENT_LIMIT and len(pool_chunks) == 9, "three pieces a chunk"
    _, tensors = Golden(GOLDEN).read("stream")
    recorded = torch.cat([tensors[f"out.latent.{i}"].reshape(latents[:, :9].shape) for i in range(3)], dim=1)
    assert (found - recorded).abs().max() < 1e-3, "and the published system's, to its own limit"
    for ours, theirs in zip(pool_chunks, chunks, strict=True):
        apart = (ours.frames_THWC.int() - theirs.frames_THWC.int()).abs()
        assert apart.max() <= 1 and (apart > 0).float().mean() < 0.01, "rounding to 8 bits may fall the other way"
        assert torch.equal(ours.samples, theirs.samples) and (ours.index, ours.first_frame) == (theirs.index, theirs.first_frame)
        assert set(ours.seconds) == set(theirs.seconds)


def test_another_seed_is_another_stream(light):
    """The control of all comparisons: chunks do depend on their stream."""
    first, second = (list(light.open(light.reference(pixels()), StreamSettings(seed=s)).push(CHUNK)) for s in (1, 2))
    assert not torch.equal(frames_of(first), frames_of(second))


@pytest.fixture(scope="module")
def here(engine):
    """A stream of the engine in this process."""
    return talk(engine)


@pytest.mark.parametrize("cuts", [(10**9,), (1, 17919, 5000, 10**9), (640,) * 40 + (10**9,)])
def test_sound_in_any_pieces_gives_the_chunks_of_the_engine_in_this_process(tiny_pool, here, cuts):
    ours, theirs = talk(tiny_pool, cuts=cuts), here
    assert [(c.index, c.first_frame, len(c.frames_THWC), len(c.samples)) for c in ours] == [
        (c.index, c.first_frame, len(c.frames_THWC), len(c.samples)) for c in theirs
    ]
    assert (frames_of(ours).int() - frames_of(theirs).int()).abs().max() <= 1
    assert torch.equal(torch.cat([c.samples for c in ours]), torch.cat([c.samples for c in theirs]))


def test_everything_else_an_engine_offers_is_the_same(tiny_pool, engine):
    assert tiny_pool.preset == engine.preset and tiny_pool.plan(48, 32) == engine.plan(48, 32)
    ours, theirs = tiny_pool.reference(pixels(), "someone"), engine.reference(pixels(), "someone")
    for name in ("text_LD", "image_LD", "cond_CTHW", "first_CTHW", "pixels_CHW"):
        assert (vars(ours)[name] - vars(theirs)[name]).abs().max() < 1e-5, name
    sound = torch.from_numpy(speech_like(1.0))
    assert (tiny_pool.encode_audio(sound) - engine.encode_audio(sound)).abs().max() < 1e-5
    latents = torch.randn(16, 4, 4, 6, generator=torch.Generator().manual_seed(0))
    pieces = list(tiny_pool.decode(latents))
    assert len(pieces) > 1 and (torch.cat(pieces, 1) - torch.cat(list(engine.decode(latents)), 1)).abs().max() < 1e-4
    assert tiny_pool.preset == engine.preset


@pytest.mark.parametrize(
    "use, message",
    [
        (lambda pool: pool.plan(50, 32), "width=50 must be a multiple of 16; nearest: 48 or 64"),
        (lambda pool: pool.reference(pixels(50, 32)), "width=50 must be a multiple of 16; nearest: 48 or 64"),
        (lambda pool: pool.open(pool.reference(pixels()), StreamSettings(), people=2), "2 speakers need speaker masks"),
        (lambda pool: list(pool.open(pool.reference(pixels()), StreamSettings()).push(CHUNK.int())), "must be float in"),
        (lambda pool: list(pool.open(pool.reference(pixels()), StreamSettings()).push(CHUNK / 0)), "contain NaN or infinity"),
        (lambda pool: list(pool.open(pool.reference(pixels()), StreamSettings()).push(torch.zeros(3, 17920))), "one row a speaker"),
    ],
)
def test_a_users_mistake_is_refused_in_the_engines_words_and_leaves_the_pool_warm(tiny_pool, use, message):
    tiny_pool.start()
    pids = [member.process.pid for member in tiny_pool.workers.members]
    with pytest.raises(ValueError, match=message):
        use(tiny_pool)
    assert tiny_pool.state.kind == "ready" and [member.process.pid for member in tiny_pool.workers.members] == pids


def test_a_model_that_cannot_be_loaded_is_refused_and_no_process_stays(tests_on_path, tmp_path):
    pool = make_pool(2, "livetalk_core.engine.load:load_member", model=str(tmp_path / "none"), device="cpu")
    with pytest.raises(FileNotFoundError, match="model folder .*none does not exist"):
        pool.start()
    assert pool.workers is None and pool.state.kind == "closed"


def test_a_user_sees_what_the_pool_does(tests_on_path, tmp_path, monkeypatch):
    """No step ends before it was seen."""
    states, steps = [], []

    class Watched(Workers):
        def __setattr__(self, name, value):
            super().__setattr__(name, value)
            if name == "state":
                states.append(value.text)

    def see(step, count):
        steps.append((pool.state.kind, step, count))
        if count:
            (tmp_path / str(step)).touch()

    monkeypatch.setattr("livetalk_core.pool.pool.Workers", Watched)
    pool = make_pool(1, held=str(tmp_path))
    assert pool.state.kind == "closed" and pool.state.text == "not started yet"
    stream = pool.open(pool.reference(pixels()), StreamSettings(), on_step=see)
    list(stream.push(CHUNK))
    assert pool.state.kind == "ready"
    pool.close()
    assert {"starting 1 processes", "loading the model"} <= set(states)
    assert {("busy", step, 4) for step in range(4)} <= set(steps)
    assert pool.state.kind == "closed"
    with pytest.raises(PoolClosed, match="the pool is closed; make a new one"):
        pool.reference(pixels())


def test_a_stop_comes_within_a_step_and_leaves_the_pool_warm(tests_on_path, tmp_path):
    """The second step lasts until the workers are told to stop."""
    pool, stopped = make_pool(2, held=str(tmp_path)), []
    (tmp_path / "0").touch()

    def stop(step, steps):
        if step == 1:
            raise KeyboardInterrupt

    try:
        reference = pool.reference(pixels())
        schedule = pool.workers.schedule
        tell = schedule.stop.set

        def told(number):
            stopped.append(schedule.current)
            tell(number)
            (tmp_path / "1").touch()

        schedule.stop.set = told
        stream = pool.open(reference, StreamSettings(steps=50), on_step=stop)
        with pytest.raises(KeyboardInterrupt):
            list(stream.push(CHUNK))
        assert [job.step for job in stopped] == [(2, 50)], "they leave before the third step"
        pids = [member.process.pid for member in pool.workers.members]
        with pytest.raises(PoolClosed):
            list(stream.push(CHUNK))
        assert len(list(pool.open(reference, StreamSettings(steps=1)).push(CHUNK))) == 1
        assert [member.process.pid for member in pool.workers.members] == pids and pool.state.kind == "ready"
    finally:
        pool.close()


def test_what_is_larger_than_a_sockets_buffer_travels_whole(light):
    picture = torch.rand(3, 416, 720)
    assert torch.equal(light.reference(picture).pixels_CHW, picture)
    assert light.ping((33, 416, 720, 3)).sum() == torch.arange(33 * 416 * 720 * 3).to(torch.uint8).sum()


def test_a_hundred_streams_leave_nothing_behind(light):
    def kept():
        gc.collect()
        light.ping()
        rank0 = light.stats()
        with open("/proc/self/statm") as file:
            resident_mb = int(file.read().split()[1]) * 4096 / 1e6
        shared = sum(name.startswith("livetalk") for name in os.listdir("/dev/shm"))
        return len(os.listdir("/proc/self/fd")), rank0["files"], rank0["sessions"], shared, resident_mb, rank0["resident_mb"]

    def run(count):
        reference = light.reference(pixels())
        for k in range(count):
            stream = light.open(reference, StreamSettings(steps=1))
            assert len(list(stream.push(CHUNK))) == 1
            if k % 2:
                stream.close()  # the others are closed when they are dropped
            if k % 3 == 0:
                light.ping()  # takes a turn too, so that frames come through every slot, each of which stays open then
            del stream

    run(30)
    before, pids = kept(), [member.process.pid for member in light.workers.members]
    run(100)
    after = kept()
    assert after[:4] == before[:4] and after[3] == 0, (before, after)
    assert after[4] - before[4] < 10 and after[5] - before[5] < 10, "MB"
    assert [member.process.pid for member in light.workers.members] == pids and light.workers.schedule.waiting == []


def test_two_pools_at_once_do_not_disturb_each_other(light):
    """No port, file or name is shared: the second starts while the first runs."""
    other = make_pool(2)
    try:
        assert torch.equal(frames_of(talk(other)), frames_of(talk(light)))
    finally:
        other.close()
    assert len(talk(light)) == 3


def test_what_rank_0_warns_of_reaches_the_pools_user(tiny_pool, caplog):
    talk(tiny_pool, reference=tiny_pool.reference(pixels(64, 32)))
    assert [message.partition(":")[0] for message in caplog.messages] == ["--steps 2"], "one line, not one of every worker"


def test_one_rank_without_memory_decides_for_all_that_audio_keys_are_not_absorbed(tests_on_path):
    pool = make_pool(2, "pool_engines:uneven", model="tiny", device="cpu")
    try:
        assert pool.encode_audio(CHUNK).tolist() == [False], "rank 0 has memory enough"
    finally:
        pool.close()


def test_a_newcomers_prompt_is_encoded_while_other_streams_get_their_chunks(light, tmp_path):
    gate, made = tmp_path / "gate", []
    stream = light.open(light.reference(pixels()), StreamSettings(seed=1, steps=2))
    newcomer = threading.Thread(target=lambda: made.append(light.reference(pixels(), f"wait for {gate}")))
    newcomer.start()
    try:
        chunks = [chunk.index for _ in range(3) for chunk in stream.push(CHUNK)]
        assert chunks == [0, 1, 2] and made == [], "its prompt is not encoded yet"
    finally:
        gate.touch()
        newcomer.join()
    assert len(made) == 1


def test_a_prompt_that_cannot_be_encoded_is_an_error_of_its_caller_only(light):
    with pytest.raises(ValueError, match="prompt='no rows' must be another"):
        light.reference(pixels(), "no rows")
    assert light.state.kind == "ready" and light.reference(pixels()) is not None


def test_a_reference_that_nobody_waits_for_any_more_is_dropped(light, tmp_path):
    """A client that leaves while its prompt, or one before it, is encoded. The rows of neither are kept."""
    gates, calls = [tmp_path / "first", tmp_path / "second"], []

    class Left(Exception):
        pass

    def leave(step, steps):
        calls.append((step, steps))
        if len(calls) == 2:
            raise Left

    newcomers = []
    for gate in gates:
        newcomer = threading.Thread(target=lambda gate=gate: newcomers.append(stopped(light, gate, leave, Left)))
        newcomer.start()
        newcomer.join(HANG_S)
        calls.clear()
    assert newcomers == [True, True], "they come back although the gates are closed"
    light.start().ask(wire.Ping(), limit_s=HANG_S, due=time.monotonic())  # answered after what was posted before it
    gates[0].touch()
    assert light.reference(pixels()) is not None, "the encoder is free for the next"
    assert gates[0].with_suffix(".passed").exists() and not gates[1].with_suffix(".passed").exists(), "the second was not begun"


def stopped(pool, gate, on_step, error) -> bool:
    try:
        pool.reference(pixels(), f"wait for {gate}", on_step=on_step)
    except error:
        return True
    return False


def test_no_room_for_a_stream_is_an_error_of_its_own_and_the_pool_goes_on(light):
    with pytest.raises(NoRoom, match="no memory for another stream; end a stream first"):
        light.reference(pixels(), "no room")
    assert light.state.kind == "ready" and light.reference(pixels()) is not None


def test_no_memory_for_frames_is_no_room_either(light, monkeypatch):
    reference = light.reference(pixels())

    def full(num_bytes):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(light.workers, "reserve", full)
    with pytest.raises(NoRoom, match="no memory for the frames of another stream: Cannot allocate memory; end a stream first"):
        light.open(reference, StreamSettings())


def test_deadlines_are_long_until_a_size_is_warm_and_then_follow_what_was_measured(tests_on_path):
    pool = make_pool(1, limits=Limits(first_s=500, chunk_s=0.001, reference_s=0.001), step_s=0.0)
    try:
        stream = pool.open(pool.reference(pixels()), StreamSettings(steps=1))
        limits = []
        for _ in range(4):
            limits.append(stream.limit_s())
            list(stream.push(CHUNK))
            deadlines = stream.workers.deadlines
            deadlines.longest.update({work: 2.5 for work in deadlines.longest})
        assert limits == [500, 500, 500, 50], "twenty times the longest piece since the third chunk, above the least of 1 ms"
        other = pool.open(pool.reference(torch.zeros(3, 64, 64)), StreamSettings(steps=1))
        assert other.limit_s() == 500, "another size is met for the first time"
        assert deadlines.limit_s(("reference", 48, 32)) == 50 and deadlines.limit_s(("reference", 640, 640)) == 500
        deadlines.longest["reference", 48, 32] = 100.0
        assert deadlines.limit_s(("reference", 48, 32)) == 500, "never longer than the ranks wait for each other"
    finally:
        pool.close()
