"""Workers that die, hang or break, and parents that are killed: always seen, always named, never anything left running."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from made import HANG_S, pixels, speech_like, write_wav
from test_pool import CHUNK, make_pool, tests_on_path  # noqa: F401 (a fixture)

from livetalk_core.cli.main import main
from livetalk_core.generate import Job, check_inputs, generate
from livetalk_core.media.video import probe_video
from livetalk_core.pool.pool import Limits, WorkerFailure
from livetalk_core.pool.workers import EXIT_S
from livetalk_core.types import StreamSettings

KILL, STOP = signal.SIGKILL, signal.SIGSTOP
FAULTS = {
    "light": {("load", KILL): 20, ("chunk", KILL): 15, ("idle", KILL): 7, ("chunk", STOP): 3, ("idle", STOP): 2},
    "tiny": {("chunk", KILL): 1, ("decode", KILL): 1, ("chunk", STOP): 1},
}
"""Fifty of them, by the engine in the workers."""
LIMITS = Limits(
    load_s=10 * HANG_S, first_s=10 * HANG_S, reference_s=10 * HANG_S, chunk_s=10 * HANG_S, other_s=10 * HANG_S, idle_s=10 * HANG_S
)
"""Longer than the tests wait: what is seen is not seen by these."""
SHORT_S = 2
"""The limit once a rank is stopped."""
ENGINES = {
    "light": lambda: make_pool(2, limits=LIMITS, step_s=0.02),
    "tiny": lambda: make_pool(2, "livetalk_core.engine.load:load_member", limits=LIMITS, model="tiny", device="cpu"),
}
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tests_on_path")]


def is_alive(pid: int) -> bool:
    """Whether a process runs: neither gone nor waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def seconds_until(condition) -> float:
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < HANG_S, f"not within {HANG_S} s"
        time.sleep(0.002)
    return time.monotonic() - start


def shorten_limits(workers) -> None:
    """The job that is being done, and the next question whether they are there, may take little longer from now on."""
    workers.idle_s = SHORT_S
    if (job := workers.schedule.current) is not None:
        job.limit = min(job.limit, time.monotonic() + SHORT_S)
        workers.wake()


def pids_of(pool) -> list[int]:
    return [member.process.pid for member in pool.workers.members]


def speak(pool, chunks: int = 1) -> int:
    """A short stream from the start: how many chunks came."""
    stream = pool.open(pool.reference(pixels()), StreamSettings(steps=2))
    return sum(len(chunk.frames_THWC) for chunk in stream.push(CHUNK.repeat(chunks))) // 28


WORK = {
    "load": lambda pool: pool.start(),
    "chunk": lambda pool: speak(pool, 1000),
    "decode": lambda pool: [list(pool.decode(torch.zeros(16, 9, 4, 6))) for _ in range(1000)],
}


class Work(threading.Thread):
    """Runs until it fails."""

    def __init__(self, work, pool):
        super().__init__(daemon=True)
        self.work, self.pool, self.error = work, pool, None
        self.start()

    def run(self):
        try:
            self.work(self.pool)
        except Exception as error:
            self.error = error


def strike(pool, moment: str, kind: signal.Signals, draw: random.Random) -> tuple[float, float]:
    """One fault: seconds until it was seen, and from then until nothing was left of the workers."""
    before = pool.workers
    if moment == "load" and (before is None or before.failure is not None):
        work = Work(WORK["load"], pool)
        seconds_until(lambda: pool.workers is not None and pool.workers is not before)
        time.sleep(draw.uniform(0, 2))
    else:
        pool.start()
        work = None if moment in ("idle", "load") else Work(WORK[moment], pool)
        if moment == "chunk":
            seconds_until(lambda: pool.state.text in ("push", "next"))
        time.sleep(draw.uniform(0, 0.4))
    workers, pids = pool.workers, pids_of(pool)
    rank = draw.randrange(len(pids))
    os.kill(pids[rank], kind)
    seen_s = seconds_until(lambda: (kind == STOP and shorten_limits(workers)) or workers.failure is not None)
    gone_s = seconds_until(lambda: not any(map(is_alive, pids)))
    if work is not None:
        work.join(HANG_S)
        assert not work.is_alive(), "nobody is left waiting"
        assert moment == "load" or isinstance(work.error, WorkerFailure), work.error
    assert workers.failure.rank == rank, str(workers.failure)
    assert pool.state.kind == "failed" and pool.state.rank == rank and pool.state.text == str(workers.failure)
    if kind == KILL:
        assert f"rank {rank} was killed by SIGKILL (log: " in str(workers.failure)
    else:
        assert f"rank {rank} was stopped; the stacks of all ranks are in " in str(workers.failure)
        assert all("most recent call first" in member.log.read_text() for member in workers.members)
    return seen_s, gone_s


@pytest.mark.parametrize("engine_name", FAULTS)
def test_faults_at_random_moments_are_all_seen_and_survived(engine_name):
    pool, draw = ENGINES[engine_name](), random.Random(0)
    faults = [fault for fault, count in FAULTS[engine_name].items() for _ in range(count)]
    draw.shuffle(faults)
    found = []
    try:
        for k, (moment, kind) in enumerate(faults):
            found.append((kind, *strike(pool, moment, kind, draw)))
            if k % 8 == 7:
                assert speak(pool) == 1, "the next stream succeeds"
        assert speak(pool) == 1
    finally:
        pool.close()
    seen_s = max(fault[1] for fault in found if fault[0] == KILL)
    gone_s = max(fault[2] for fault in found)
    print(
        f"{engine_name}: {len(found)} faults; kills seen within {seen_s:.2f} s, all gone in {gone_s:.2f} s; load {os.getloadavg()[0]:.1f}"
    )
    assert len(found) == len(faults) == {"light": 47, "tiny": 3}[engine_name]


PARENT = """
import sys, time, threading
from made import HANG_S, pixels
from test_pool import make_pool, CHUNK
from livetalk_core.types import StreamSettings
pool = make_pool(2)
if sys.argv[1] == "load":
    threading.Thread(target=pool.start, daemon=True).start()
    while pool.workers is None:
        time.sleep(0.01)
else:
    pool.start()
print(*[member.process.pid for member in pool.workers.members], flush=True)
if sys.argv[1] == "exec":
    import os
    os.execv("/bin/sleep", ["sleep", "6000"])
if sys.argv[1] == "chunk":
    list(pool.open(pool.reference(pixels()), StreamSettings()).push(CHUNK.repeat(10000)))
time.sleep(6000)
"""


@pytest.mark.parametrize("moment", ["load", "chunk", "idle", "exec"])
def test_when_the_parent_is_gone_so_are_the_workers(moment):
    """Killed, or replaced by another program as ComfyUI does on its restart."""
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, moment], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": paths}
    )
    try:
        pids = list(map(int, parent.stdout.readline().split()))
        assert len(pids) == 2
        time.sleep(0.3)
        if moment != "exec":
            assert all(map(is_alive, pids))
            parent.kill()
        gone_s = seconds_until(lambda: not any(map(is_alive, pids)))
        print(f"{moment}: no worker left {gone_s:.2f} s after the parent")
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()


@pytest.fixture(scope="module")
def light(tests_on_path):  # noqa: F811 (a fixture)
    pool = make_pool(2, limits=LIMITS)
    yield pool
    pool.close()


def test_a_rank_that_raises_ends_the_pool_with_its_own_words(light):
    with pytest.raises(WorkerFailure, match=r"rank 1 failed: RuntimeError: no more memory \(log: .*rank1.log\)") as caught:
        light.reference(pixels(), "fail on rank 1")
    assert caught.value.rank == 1 and "and a second line" in light.workers.members[1].log.read_text()
    assert speak(light) == 1


def test_a_rank_that_waits_for_ever_meets_its_limit_and_leaves_its_stack(tests_on_path):  # noqa: F811
    pool = make_pool(2, limits=Limits(reference_s=1, first_s=1))
    try:
        with pytest.raises(WorkerFailure, match=r"prepare took longer than 1 s: no answer from rank 0, 1; the stacks of all ranks are in "):
            pool.reference(pixels(), "sleep on rank 1")
        logs = [member.log.read_text() for member in pool.workers.members]
        assert "in meet" in logs[0] and "in reference" in logs[1], "one waits in the exchange, the other where it hangs"
        assert "pool_engines.py" in logs[1]
    finally:
        pool.close()


def test_workers_with_nothing_to_do_are_asked_whether_they_are_there(light):
    speak(light)
    workers, submit, pings = light.workers, light.workers.schedule.submit, []
    workers.schedule.submit = lambda job: submit(job) if job.what != "ping" else pings.append(job) or submit(job)
    seconds_until(lambda: len(pings) == 2 and pings[1].ended.is_set())
    del workers.schedule.submit
    assert [ping.error for ping in pings] == [None, None] and light.state.kind == "ready"
    assert sorted(workers.schedule.free_slots) == list(range(4)), "they leave no slot taken"


def test_a_refusal_by_all_ranks_is_no_failure(light):
    """The control: only what breaks ends the pool."""
    speak(light)
    pids = pids_of(light)
    with pytest.raises(ValueError, match="prompt='refuse' must be another"):
        light.reference(pixels(), "refuse")
    assert pids_of(light) == pids and light.state.kind == "ready"


def test_a_stream_of_before_fails_with_the_reason_and_a_new_one_works(light):
    old, reference = light.open(light.reference(pixels()), StreamSettings(steps=1)), light.reference(pixels())
    assert len(list(old.push(CHUNK))) == 1
    os.kill(pids_of(light)[0], signal.SIGKILL)
    with pytest.raises(WorkerFailure, match="rank 0 was killed by SIGKILL"):
        list(old.push(CHUNK))
    new = light.open(reference, StreamSettings(steps=1))
    assert len(list(new.push(CHUNK))) == 1, "the reference of before is good"
    with pytest.raises(WorkerFailure, match="rank 0 was killed by SIGKILL"):
        list(old.push(CHUNK))


def test_closing_ends_a_pool_that_is_still_loading(tests_on_path):  # noqa: F811
    pool = make_pool(2)
    work = Work(WORK["load"], pool)
    seconds_until(lambda: pool.workers is not None)
    pids = pids_of(pool)
    pool.close()
    work.join(HANG_S)
    assert type(work.error).__name__ == "PoolClosed" and not any(map(is_alive, pids)) and pool.state.kind == "closed"


def test_closing_does_not_wait_for_every_worker_that_is_stopped(tests_on_path):  # noqa: F811
    pool = make_pool(2)
    pool.start()
    pids = pids_of(pool)
    for pid in pids:
        os.kill(pid, STOP)
    workers, attempt, left_s = pool.workers, pool.workers.try_with_timeout, []
    workers.try_with_timeout = lambda *call: left_s.append(workers.closing_since + EXIT_S - time.monotonic()) or attempt(*call)
    pool.close()
    assert len(left_s) == 4 and left_s[3] < 0.1, "the first took all the time there was for an answer"
    assert not any(map(is_alive, pids)) and pool.state.kind == "closed"


def test_what_was_made_before_a_worker_died_stays_a_playable_file(tmp_path, portrait):
    sound = write_wav(tmp_path / "long.wav", speech_like(30.0))
    job = Job(picture=portrait, audio=(sound,), output=tmp_path / "out.mp4", size="48x32", settings=StreamSettings(steps=1))
    pool, frames = make_pool(2, limits=LIMITS), []

    def kill_after_three(chunk, total):
        frames.append(len(chunk.frames_THWC))
        if len(frames) == 3:
            os.kill(pids_of(pool)[1], signal.SIGKILL)

    try:
        with pytest.raises(WorkerFailure, match="rank 1 was killed"):
            generate(pool, check_inputs(job), kill_after_three)
        assert probe_video(job.output).frames == sum(frames) >= 84
        assert list(tmp_path.glob(".*")) == []
        short = Job(
            picture=portrait, audio=(write_wav(tmp_path / "short.wav", speech_like(0.5)),), output=tmp_path / "next.mp4", size="48x32"
        )
        assert generate(pool, check_inputs(short)) == 13, "the next one succeeds"
    finally:
        pool.close()


def test_the_command_line_makes_its_video_with_workers(tmp_path, portrait, speech, capsys):
    options = ["--size", "48x32", "--any-size", "--steps", "1", "--workers", "2"]
    assert main(["generate", str(portrait), str(speech), str(tmp_path / "out.mp4"), *options]) == 0
    assert probe_video(tmp_path / "out.mp4").frames == 63
    assert "workers: 2 processes on the CPU; 2 divides the 4 heads" in capsys.readouterr().out
