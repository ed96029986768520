"""Hours of live sessions on a simulated clock: python tests/bench_live_soak.py [--hours 2] [--engine counting|tiny|nano] [--seed 0]

Random speech, silence, interruptions, prompt and seed changes, slow spells of the engine, and clients that leave and come again. The clock
jumps from event to event, so hours take minutes; making a chunk takes a time drawn for it, however fast the machine is. Every frame is
encoded to fragmented MP4, as for a client. Said at the end, and checked: resident memory and its slope, frames held without a cause, frames
whose lips and sound are apart, frames that came at another time than their number says.
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from live_engine import CountingEngine

from livetalk_core.serve.mp4 import Mp4
from livetalk_core.serve.session import LiveSession
from livetalk_core.types import StreamSettings

FRAME_S = 0.04
EVERY_S = 30.0
"""Between two looks at the memory, in seconds of the session's clock."""
SLOW_CHUNK_S = 3.0
"""A chunk begun in a slow spell ends by then, and the next ones have made up for it."""
SETTLED = 0.25
"""Of the run, after which memory is fitted."""


@dataclass(kw_only=True)
class Findings:
    frames: int = 0
    held: int = 0
    unexplained: int = 0
    parted: int = 0
    off_time: int = 0
    spoken: int = 0
    events: Counter[str] = field(default_factory=Counter)
    memory: list[tuple[float, float]] = field(default_factory=list)
    """Seconds of the session's clock, and MB."""

    @property
    def slope(self) -> tuple[float, float]:
        """MB an hour once settled, and its standard error."""
        hours, mb = np.array(self.memory[round(SETTLED * len(self.memory)) :]).T
        (slope, _), spread = np.polyfit(hours / 3600, mb, 1, cov=True)
        return float(slope), float(np.sqrt(spread[0, 0]))


class Paced:
    """An engine each of whose pieces takes time of the simulated clock."""

    def __init__(self, engine, take_time) -> None:
        self.engine, self.take_time = engine, take_time
        self.plan, self.reference, self.preset = engine.plan, engine.reference, engine.preset

    def open(self, *given, **named):
        return PacedStream(self.engine.open(*given, **named), self.take_time)


class PacedStream:
    def __init__(self, stream, take_time) -> None:
        self.stream, self.take_time, self.close = stream, take_time, stream.close

    def push(self, samples_N):
        for piece in self.stream.push(samples_N):
            self.take_time()
            yield piece


class Soak:
    """One session after another, in one thread, against a clock of its own."""

    def __init__(self, engine, size: tuple[int, int], hours: float, seed: int, wall_s: float = math.inf) -> None:
        self.deadline = time.monotonic() + wall_s
        self.engine, self.size, self.end_s, self.draw = Paced(engine, self.take_time), size, 3600 * hours, np.random.default_rng(seed)
        self.clock, self.found = 0.0, Findings()
        self.slow_until = self.quiet_until = self.speaks_until = 0.0
        self.next_look = 0.0
        self.begin()

    def run(self) -> Findings:
        while self.clock < self.end_s and time.monotonic() < self.deadline:
            if self.session.is_due():
                self.session.make_next()
            else:
                self.pass_time(FRAME_S)
        self.leave()
        return self.found

    def begin(self) -> None:
        """A client comes."""
        width, height = self.size
        reference = self.engine.reference(torch.zeros(3, height, width))
        self.session = LiveSession(self.engine, reference, StreamSettings(seed=int(self.draw.integers(2**31))), now=lambda: self.clock)
        self.writer = Mp4(width, height, None, None, None)
        self.born, self.shots, self.number, self.excused = self.clock, [], 0, True

    def leave(self) -> None:
        self.session.close()
        self.session.drop_stream()
        self.writer.writer.close()

    def take_time(self) -> None:
        """Called before each piece of a chunk: making it takes a time that is drawn."""
        slow = self.clock < self.slow_until
        self.excused = self.excused or slow
        self.pass_time((4.0 if slow else 1.0) * self.draw.uniform(0.05, 0.12))

    def pass_time(self, seconds: float) -> None:
        end = self.clock + seconds
        while (due := self.born + self.number * FRAME_S) <= end:
            self.clock = max(self.clock, due)
            self.act()
            self.show()
        self.clock = end

    def show(self) -> None:
        shot, found = self.session.tick(), self.found
        found.frames, found.held, found.spoken = found.frames + 1, found.held + shot.held, found.spoken + shot.speaking
        found.off_time += shot.number != self.number
        found.unexplained += shot.held and not self.excused
        if not shot.held and self.clock >= self.slow_until + SLOW_CHUNK_S:
            self.excused = False
        if isinstance(self.engine.engine, CountingEngine) and not shot.held:
            found.parted += bool(shot.frame_HWC[0, 0, 2]) != bool(shot.samples_N.any())
        self.number += 1
        self.shots.append(shot)
        if len(self.shots) == 3:
            self.writer.write(self.shots)
            self.shots.clear()
            self.writer.fragments.clear()
        if self.clock >= self.next_look:
            gc.collect()
            found.memory.append((self.clock, resident_mb()))
            self.next_look += EVERY_S

    def act(self) -> None:
        """What a client does in one frame's time."""
        if self.clock < self.speaks_until:
            self.session.say(self.draw.uniform(0.1, 0.9, 640).astype(np.float32))
        kind = self.draw.choice(["nothing", "speak", "interrupt", "seed", "prompt", "slow", "leave"],
                                p=[0.9867, 0.008, 0.0015, 0.001, 0.001, 0.0008, 0.001])  # fmt: skip
        if kind == "nothing" or kind == "leave" and self.session.making is not None:
            return
        self.found.events[str(kind)] += 1
        getattr(self, f"do_{kind}")()

    def do_speak(self) -> None:
        self.speaks_until = self.clock + self.draw.uniform(0.1, 12)

    def do_interrupt(self) -> None:
        self.session.interrupt()
        self.speaks_until, self.excused = 0.0, True

    def do_seed(self) -> None:
        self.session.change(seed=int(self.draw.integers(2**31)))

    def do_prompt(self) -> None:
        self.session.change(self.engine.reference(self.session.reference.pixels_CHW, f"prompt {self.draw.integers(10**6)}"))

    def do_slow(self) -> None:
        self.slow_until, self.excused = self.clock + self.draw.uniform(1, 5), True

    def do_leave(self) -> None:
        self.leave()
        self.begin()


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def open_soak_engine(name: str):
    if name == "counting":
        engine = CountingEngine(lambda seconds: None)
        engine.opened = deque(maxlen=1)  # a list of all would grow
        return engine, (48, 32)
    from livetalk_core.open import EngineOptions, open_engine

    return open_engine(EngineOptions(model=name)), (128, 128) if name == "nano" else (48, 32)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--engine", choices=("counting", "tiny", "nano"), default="counting")
    parser.add_argument("--wall-s", type=float, default=math.inf, help="stop after so many seconds of real time")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    start, threads = time.monotonic(), threading.active_count()
    found = Soak(*open_soak_engine(given.engine), given.hours, given.seed, given.wall_s).run()
    taken = time.monotonic() - start
    print(f"{given.engine}: {found.frames / 90000:.2f} h of sessions in {taken:.0f} s; {found.frames} frames, {found.spoken} of speech")
    print(f"what happened: {dict(found.events)}")
    print("memory {:.1f} MB at a quarter, {:.1f} at the end; slope {:+.2f} +- {:.2f} MB an hour".format(
        found.memory[round(SETTLED * len(found.memory))][1], found.memory[-1][1], *found.slope))  # fmt: skip
    print(f"held {found.held}, without a cause {found.unexplained}; lips and sound apart {found.parted}; off the clock {found.off_time}")
    print(f"threads left {threading.active_count() - threads}, file descriptors {len(os.listdir('/proc/self/fd'))}")


if __name__ == "__main__":
    main()
