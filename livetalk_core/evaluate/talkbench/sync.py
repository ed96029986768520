"""Sync-C and Sync-D: how well the lips fit the sound, by SyncNet's distances over shifts of up to 15 frames.

Axes: T windows of 5 frames, S shifts, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from livetalk_core.evaluate.talkbench.consistency import file_version
from livetalk_core.evaluate.talkbench.measure import Measured, NotMeasured, Shown, in_batches
from livetalk_core.evaluate.talkbench.mfcc import RATE, mfcc
from livetalk_core.evaluate.talkbench.s3fd import detect_faces, load_s3fd
from livetalk_core.evaluate.talkbench.syncnet import load_syncnet
from livetalk_core.evaluate.talkbench.tracks import LEAST_DETECTIONS, LEAST_SIDE, Track, crop_track, find_tracks, usable
from livetalk_core.evaluate.talkbench.weights import read_state
from livetalk_core.media.audio import read_audio
from livetalk_core.media.encode import EXACT, FULL
from livetalk_core.media.source import open_media
from livetalk_core.train.cut import frames_at_25
from livetalk_core.train.manifest import Segment
from livetalk_core.train.sound import sound_file

REACH = 15
"""Shifts of -15 to 15 frames."""
WINDOW, SAMPLES, MFCC_WINDOW, MFCC_STEP = 5, 640, 20, 4
BATCH, SERIES_S = 20, 5.0
SILENT_RMS = 33.0
"""Of 16-bit samples: -60 dB."""

Encode = Callable[[Tensor], Tensor]
Detect = Callable[[np.ndarray], np.ndarray]
"""A frame -> boxes [faces, 4]."""


class Sync:
    """SyncNet's confidence and distance of the face that is seen longest, at 25 frames a second, with the video's own sound."""

    name = "sync"

    def __init__(
        self, *, detect: Detect, lips: Encode, sound: Encode, device: torch.device, version: str, least_side: float = LEAST_SIDE
    ) -> None:
        self.detect, self.lips, self.sound, self.device, self.least_side = detect, lips, sound, device, least_side
        self.version = f"{version}; faces over {least_side:g} pixels"

    def measure(self, shown: Shown) -> Measured:
        heard_N = read_sound(shown)
        tracks = find_tracks([self.detect(frame) for frame in frames_of(shown.video)])
        good = sorted((t for t in tracks if usable(t, self.least_side)), key=lambda t: (len(t.boxes_T4), t.side), reverse=True)
        if not good:
            raise NotMeasured(why_no_track(tracks, self.least_side))
        found = self.measure_track(good[0], shown.video, heard_N)
        others = f"{len(good)} faces are seen long enough; the one that is seen longest was measured"
        return Measured(
            numbers=found.numbers(), series={"sync_c": found.series}, window_s=SERIES_S, notes=(others,) if len(good) > 1 else ()
        )

    @torch.no_grad()
    def measure_track(self, track: Track, video: Path, heard_N: np.ndarray) -> Distances:
        """Distances between the lips of a track and the sound of its frames."""
        own_N = heard_N[track.first * SAMPLES : (track.first + len(track.boxes_T4)) * SAMPLES]
        count = min(len(track.boxes_T4), len(own_N) // SAMPLES) - WINDOW
        if count < 1:
            raise NotMeasured(f"the face is seen while there are {len(own_N) / 16000:.2f} s of sound, and SyncNet needs 0.24 s")
        coefficients, found, first = mfcc(own_N), Distances(), 0
        for crops in in_batches(windows_of(crop_track(track, frames_of(video)), count), BATCH):
            lips_TD = self.lips(torch.from_numpy(np.stack(crops)).to(self.device).float()).float()
            found.add(distances(lips_TD, self.features_around(coefficients, first, first + len(crops), count)))
            first += len(crops)
        return found

    def features_around(self, coefficients: np.ndarray, first: int, stop: int, count: int) -> Tensor:
        """Sound features of windows `first` - 15 to `stop` + 14; zeros where the track has none, as published."""
        inside = range(max(0, first - REACH), min(count, stop + REACH))
        windows = np.stack([coefficients[MFCC_STEP * t : MFCC_STEP * t + MFCC_WINDOW].T for t in inside])
        features = self.sound(torch.from_numpy(windows)[:, None].to(self.device)).float()
        return F.pad(features, (0, 0, inside.start - (first - REACH), stop + REACH - inside.stop))


@dataclass(kw_only=True)
class Distances:
    """The running sum of distances [S] over a track, and Sync-C of every 5 s."""

    total_S: Tensor = field(default_factory=lambda: torch.zeros(2 * REACH + 1, dtype=torch.float64))
    count: int = 0
    series: list[float] = field(default_factory=list)
    _window: list[Tensor] = field(default_factory=list)

    def add(self, distances_TS: Tensor) -> None:
        self.total_S += distances_TS.double().sum(0).cpu()
        self.count += len(distances_TS)
        self._window += list(distances_TS.cpu())
        length = round(SERIES_S * 25)
        while len(self._window) >= length:
            mean_S = torch.stack(self._window[:length]).mean(0)
            self.series.append(float(mean_S.median() - mean_S.min()))
            self._window = self._window[length:]

    def numbers(self) -> dict[str, float]:
        """Sync-D is the least mean distance, Sync-C the median over shifts less that; `sync_offset` > 0: the lips are late."""
        mean_S = self.total_S / self.count
        nearest = int(mean_S.argmin())
        return {"sync_c": float(mean_S.median() - mean_S.min()), "sync_d": float(mean_S.min()), "sync_offset": float(REACH - nearest)}


def distances(lips_TD: Tensor, sound_TD: Tensor) -> Tensor:
    """[T, S]: distance of each window's lips to the sound from 15 windows before to 15 after; `sound_TD` has 30 more windows."""
    around = sound_TD.unfold(0, 2 * REACH + 1, 1).transpose(1, 2)
    return F.pairwise_distance(lips_TD[:, None], around)


def windows_of(crops: Iterator[np.ndarray], count: int) -> Iterator[np.ndarray]:
    """`count` windows uint8 [3, 5, 224, 224] of successive crops, in blue, green, red."""
    kept: list[np.ndarray] = []
    for crop_HWC in crops:
        kept = [*kept[1 - WINDOW :], crop_HWC[..., ::-1]]
        if len(kept) == WINDOW and count:
            count -= 1
            yield np.stack(kept).transpose(3, 0, 1, 2)


def frames_of(video: Path) -> Iterator[np.ndarray]:
    """uint8 RGB frames [H, W, 3] at 25 a second."""
    last, shown = None, None
    for moment in frames_at_25(Segment(key=video.name, path=video, source="talkbench")):
        if moment is not last:
            shown, last = moment.reformat(format="rgb24", dst_color_range=FULL, interpolation=EXACT).to_ndarray(), moment
        yield shown


def read_sound(shown: Shown) -> np.ndarray:
    """The video's own sound, or the clip's if it has none: 16 kHz, 16 bits. NotMeasured for silence."""
    blocks = read_audio(sound_of(shown))
    heard_N = np.concatenate([(block * 32768).round().clip(-32768, 32767).astype(np.int16) for block in blocks])
    seconds = (heard_N[first : first + RATE] for first in range(0, len(heard_N), RATE))
    if sum(float(np.square(second_N, dtype=np.float64).sum()) for second_N in seconds) < len(heard_N) * SILENT_RMS**2:
        raise NotMeasured("the sound is silent, and lips cannot fit silence")
    return heard_N


def sound_of(shown: Shown) -> Path:
    """The video or the sound file beside it; the clip's sound if the video has none."""
    own = sound_file(shown.video)
    with open_media(own, "sound file") as container:
        return own if container.streams.audio else shown.clip.sound


def why_no_track(tracks: list[Track], least_side: float) -> str:
    if not tracks:
        return "no face was found"
    best = max(tracks, key=lambda track: track.detections)
    if best.detections <= LEAST_DETECTIONS:
        return f"a face is found in {best.detections} frames that follow each other, and more than {LEAST_DETECTIONS} are needed (4 s)"
    return f"the face is {best.side:.0f} pixels wide or high, and more than {least_side:g} are needed; --min-face sets another limit"


def sync_measure(syncnet: Path, s3fd: Path, device: torch.device, least_side: float = LEAST_SIDE) -> Sync:
    """Sync by the published SyncNet and S3FD."""
    model, detector = load_syncnet(read_state(syncnet)).to(device), load_s3fd(read_state(s3fd)).to(device)
    version = f"{file_version(syncnet)}; {file_version(s3fd)}"
    return Sync(
        detect=lambda frame: detect_faces(detector, frame, device),
        lips=model.lips,
        sound=model.sound,
        device=device,
        version=version,
        least_side=least_side,
    )
