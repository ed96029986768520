"""A quarter of an hour from one picture: whether lips, sharpness and colors at the end are what they were at the start.

Each frame is measured as it comes and let go, so memory does not grow with the stream but for a few numbers a frame.
Axes in names: T frames, K what the reader reads, H W pixels, C colors.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from livetalk_core.engine.engine import Engine
from livetalk_core.evaluate.measures import (
    background_mask,
    color_level,
    correlation,
    decibels,
    relative_change,
    sharpness,
    window_means,
)
from livetalk_core.evaluate.reader import READS, Reader
from livetalk_core.evaluate.talks import SPLIT, TrueTalk, rebuild, start
from livetalk_core.types import StreamSettings

FPS = 25
LONG_SEED = 20
"""Held-out talker of the long run, after the short clips' 0 to 19."""
LONG_FILM_S = 13.0
"""Seconds of that talker drawn, for the background and the sharpness to compare with."""
SPEECH_SEED = 1000
"""Of the first stretch of speech; the shorter talks' seeds are far below."""
POINT_S = 10
"""Seconds of one point of the series."""
SHOWN_S = (1, 10, 100, 1000)


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Some seconds of speech, and its mouth."""

    samples_N: Tensor
    truth_KT: Tensor


def speech(seconds: float, window_s: float) -> Iterator[Stretch]:
    """Held-out voices one after the other, `window_s` each; the last says what the first said, so that only time differs."""
    from livetalk_core.talker.clip import write_script

    if seconds < 2 * window_s:
        raise ValueError(f"seconds={seconds} must be at least two windows of {window_s} s; give {2 * window_s:g} or more")
    between = seconds - 2 * window_s
    lengths = [window_s, *[window_s] * int(between // window_s), between % window_s, window_s]
    for index, length in enumerate(lengths):
        if round(length * FPS) == 0:
            continue
        script = write_script(SPEECH_SEED + index % (len(lengths) - 1), length, SPLIT)
        yield Stretch(samples_N=torch.from_numpy(script.samples_N), truth_KT=torch.from_numpy(script.truth.rows(READS)))


@dataclass(kw_only=True)
class Book:
    """What is kept of the frames: numbers, and the few that are shown."""

    reader: Reader
    reference_HWC: Tensor
    background_HW: Tensor
    shown: Sequence[int]
    frames: int = 0
    columns: dict[str, list] = field(default_factory=dict)
    """Plain numbers: small tensors that stay would lie between large ones that go, so that the heap grows."""
    pictures: dict[int, Tensor] = field(default_factory=dict)

    def add(self, frames_THWC: Tensor) -> None:
        """The next frames of the stream."""
        variance_T, magnitude_T = sharpness(frames_THWC)
        apart_TNC = frames_THWC[:, self.background_HW].float() - self.reference_HWC[self.background_HW].float()
        columns = {
            "read": self.reader.read(frames_THWC).T,
            "sharpness": variance_T,
            "magnitude": magnitude_T,
            "color": color_level(frames_THWC),
            "background_error": apart_TNC.square().mean((1, 2)),
        }
        for name, column in columns.items():
            self.columns.setdefault(name, []).extend(column.tolist())
        for k in self.shown:
            if self.frames <= k < self.frames + len(frames_THWC):
                self.pictures[k] = frames_THWC[k - self.frames].clone()
        self.frames += len(frames_THWC)

    def column(self, name: str) -> Tensor:
        """[T, ...] of all frames so far."""
        return torch.tensor(self.columns[name])


def measure_long(
    engine: Engine,
    reader: Reader,
    talk: TrueTalk,
    settings: StreamSettings,
    seconds: float = 1000,
    window_s: float = 60,
    tell: Callable[[str], None] = print,
) -> tuple[dict, dict[int, Tensor]]:
    """A stream of `seconds` from a true clip's reference picture: numbers, and frames by their number."""
    book = Book(
        reader=reader,
        reference_HWC=talk.reference_HWC,
        background_HW=background_mask(talk.frames_THWC, talk.reference_HWC),
        shown=[round(s * FPS) - 1 for s in SHOWN_S if s <= seconds],
    )
    truth, held_mb, began = [], [], time.perf_counter()
    with closing(start(engine, talk, settings)) as stream:
        for stretch in speech(seconds, window_s):
            truth.append(stretch.truth_KT)
            for chunk in stream.push(stretch.samples_N):
                book.add(chunk.frames_THWC)
            held_mb.append(memory_mb())
            tell(f"long: {book.frames / FPS:.0f} of {seconds:g} s after {time.perf_counter() - began:.0f} s")
        for chunk in stream.finish():
            book.add(chunk.frames_THWC)
    truth_KT = torch.cat(truth, dim=1)
    assert book.frames == truth_KT.shape[1], (book.frames, truth_KT.shape)
    rebuilt = sharpness(rebuild(engine, talk.frames_THWC))
    report = compare_ends(book, truth_KT, round(window_s * FPS)) | {
        "name": talk.name,
        "seconds": seconds,
        "window_s": window_s,
        "sharpness": float(book.column("sharpness").mean() / rebuilt.variance_T.mean()),
        "frames_per_second": book.frames / (time.perf_counter() - began),
        "memory_mb": {"first": held_mb[0], "last": held_mb[-1]},
        "series": series(book, truth_KT, POINT_S * FPS),
    }
    return report, book.pictures


def compare_ends(book: Book, truth_KT: Tensor, length: int) -> dict:
    """First and last `length` frames: the lips' correlations, and how much sharpness, colors and background have changed."""
    read_KT, color_TC, error_T = book.column("read").T, book.column("color"), book.column("background_error")
    ends = {"first": slice(None, length), "last": slice(-length, None)}
    lips = {
        name: {
            "all": correlation(read_KT[k], truth_KT[k]),
            **{end: correlation(read_KT[k, at], truth_KT[k, at]) for end, at in ends.items()},
        }
        for k, name in enumerate(READS)
    }
    return {
        "lips": lips,
        "lips_change": lips["opening"]["last"] / max(lips["opening"]["first"], 1e-6) - 1,
        "sharpness_change": relative_change(book.column("sharpness"), length),
        "magnitude_change": relative_change(book.column("magnitude"), length),
        "color_change": max((relative_change(color_TC[:, c], length) for c in range(3)), key=abs),
        "background_psnr": {end: decibels(float(error_T[at].mean())) for end, at in ends.items()},
    }


def series(book: Book, truth_KT: Tensor, length: int) -> dict[str, list[float]]:
    """One point for every `length` frames, for plots."""
    read_T = book.column("read")[:, 0]
    starts = range(0, book.frames - length + 1, length)
    shift_T = (book.column("color") - color_level(book.reference_HWC[None])).abs().mean(1)
    return {
        "second": [first / FPS for first in starts],
        "opening": [correlation(read_T[k : k + length], truth_KT[0, k : k + length]) for k in starts],
        "sharpness": window_means(book.column("sharpness"), length).tolist(),
        "magnitude": window_means(book.column("magnitude"), length).tolist(),
        "color_shift": window_means(shift_T, length).tolist(),
        "background_psnr": [decibels(error) for error in window_means(book.column("background_error"), length).tolist()],
    }


def memory_mb() -> float:
    """What the process holds now; the most it ever held where the system has no /proc."""
    statm = Path("/proc/self/statm")
    if statm.is_file():
        return int(statm.read_text().split()[1]) * resource.getpagesize() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
