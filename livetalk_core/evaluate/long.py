"""A long stream from one picture: are lips, sharpness and colors at the end what they were at the start?

Each frame is measured when it comes and then dropped, so memory grows by a few numbers a frame only.
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
from livetalk_core.evaluate.clips import SPLIT, TrueClip, open_stream, rebuild
from livetalk_core.evaluate.measures import (
    background_mask,
    color_level,
    correlation,
    decibels,
    relative_change,
    sharpness,
    window_means,
)
from livetalk_core.evaluate.reader import READS, MouthReader
from livetalk_core.types import StreamSettings

FPS = 25
LONG_SEED = 20
"""The held-out talker of the long stream; the short clips are 0 to 19."""
LONG_FILM_S = 13.0
"""Seconds drawn of that talker, to compare background and sharpness with."""
SPEECH_SEED = 1000
"""Seed of the first piece of speech, far above those of the clips."""
POINT_S = 10
"""Seconds of one point of a plot."""
SHOWN_S = (1, 10, 100, 1000)
"""Moments whose frames go into the contact sheet."""


@dataclass(frozen=True, kw_only=True)
class SpeechPiece:
    """Some seconds of speech, and the true mouth."""

    samples_N: Tensor
    truth_KT: Tensor


def held_out_speech(seconds: float, window_s: float) -> Iterator[SpeechPiece]:
    """Held-out voices one after the other, `window_s` each. The last piece repeats the first, so only time differs."""
    from livetalk_core.talker.clip import write_script

    if seconds < 2 * window_s:
        raise ValueError(f"seconds={seconds} must be at least two windows of {window_s} s; give {2 * window_s:g} or more")
    between = seconds - 2 * window_s
    lengths = [window_s, *[window_s] * int(between // window_s), between % window_s, window_s]
    for index, length in enumerate(lengths):
        if round(length * FPS) == 0:
            continue
        script = write_script(SPEECH_SEED + index % (len(lengths) - 1), length, SPLIT)
        yield SpeechPiece(samples_N=torch.from_numpy(script.samples_N), truth_KT=torch.from_numpy(script.truth.rows(READS)))


@dataclass(kw_only=True)
class FrameLog:
    """What is kept of the frames: numbers, and the few frames that are shown."""

    reader: MouthReader
    reference_HWC: Tensor
    background_HW: Tensor
    shown: Sequence[int]
    frames: int = 0
    columns: dict[str, list] = field(default_factory=dict)
    """Python numbers. Small tensors kept between large ones that are freed would fragment the heap."""
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
    reader: MouthReader,
    clip: TrueClip,
    settings: StreamSettings,
    seconds: float = 1000,
    window_s: float = 60,
    tell: Callable[[str], None] = print,
) -> tuple[dict, dict[int, Tensor]]:
    """A stream of `seconds` from a clip's reference picture: numbers, and the shown frames by their number."""
    log = FrameLog(
        reader=reader,
        reference_HWC=clip.reference_HWC,
        background_HW=background_mask(clip.frames_THWC, clip.reference_HWC),
        shown=[round(s * FPS) - 1 for s in SHOWN_S if s <= seconds],
    )
    truth, held_mb, began = [], [], time.perf_counter()
    with closing(open_stream(engine, clip, settings)) as stream:
        for piece in held_out_speech(seconds, window_s):
            truth.append(piece.truth_KT)
            for chunk in stream.push(piece.samples_N):
                log.add(chunk.frames_THWC)
            held_mb.append(memory_mb())
            tell(f"long: {log.frames / FPS:.0f} of {seconds:g} s after {time.perf_counter() - began:.0f} s")
        for chunk in stream.finish():
            log.add(chunk.frames_THWC)
    truth_KT = torch.cat(truth, dim=1)
    assert log.frames == truth_KT.shape[1], (log.frames, truth_KT.shape)
    rebuilt = sharpness(rebuild(engine, clip.frames_THWC))
    report = compare_ends(log, truth_KT, round(window_s * FPS)) | {
        "name": clip.name,
        "seconds": seconds,
        "window_s": window_s,
        "sharpness": float(log.column("sharpness").mean() / rebuilt.variance_T.mean()),
        "frames_per_second": log.frames / (time.perf_counter() - began),
        "memory_mb": {"first": held_mb[0], "last": held_mb[-1]},
        "series": series(log, truth_KT, POINT_S * FPS),
    }
    return report, log.pictures


def compare_ends(log: FrameLog, truth_KT: Tensor, length: int) -> dict:
    """First and last `length` frames: the lips' correlations, and the changes of sharpness, colors and background."""
    read_KT, color_TC, error_T = log.column("read").T, log.column("color"), log.column("background_error")
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
        "sharpness_change": relative_change(log.column("sharpness"), length),
        "magnitude_change": relative_change(log.column("magnitude"), length),
        "color_change": max((relative_change(color_TC[:, c], length) for c in range(3)), key=abs),
        "background_psnr": {end: decibels(float(error_T[at].mean())) for end, at in ends.items()},
    }


def series(log: FrameLog, truth_KT: Tensor, length: int) -> dict[str, list[float]]:
    """One point per `length` frames, for plots."""
    read_T = log.column("read")[:, 0]
    starts = range(0, log.frames - length + 1, length)
    shift_T = (log.column("color") - color_level(log.reference_HWC[None])).abs().mean(1)
    return {
        "second": [first / FPS for first in starts],
        "opening": [correlation(read_T[k : k + length], truth_KT[0, k : k + length]) for k in starts],
        "sharpness": window_means(log.column("sharpness"), length).tolist(),
        "magnitude": window_means(log.column("magnitude"), length).tolist(),
        "color_shift": window_means(shift_T, length).tolist(),
        "background_psnr": [decibels(error) for error in window_means(log.column("background_error"), length).tolist()],
    }


def memory_mb() -> float:
    """Memory of this process now; its peak where the system has no /proc."""
    statm = Path("/proc/self/statm")
    if statm.is_file():
        return int(statm.read_text().split()[1]) * resource.getpagesize() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
