"""Turns sound into audio windows, one for each chunk, from live input or a whole recording.

Frame k of the video shows samples [640 k, 640 (k + 1)). Window c covers the frames of chunk c: 5 before, already shown, and 28 new.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor

from livetalk_core.plan import StreamPlan
from livetalk_core.stream.loudness import Leveler
from livetalk_core.types import AudioWindow

Encode = Callable[[Tensor], Tensor]
"""Samples [N] float32 at 16 kHz -> features [25 N / 16000, layers, width]."""


class LiveWindows:
    """Windows from live sound. Each encodes the last 8 s up to its end (silence before the start), so memory and delay are constant.

    The windows do not depend on how the sound is split into pushes.
    """

    def __init__(self, plan: StreamPlan, encode: Encode, people: int = 1, levelers: Sequence[Leveler] = (), start: int = 0):
        """`levelers`: one a speaker, for the loudness that the encoder hears; none leaves the sound as it is.

        `start`: the first window to come out; those before are passed over, and only their loudness is taken.
        """
        self.plan, self.encode, self.people, self.levelers, self.start = plan, encode, people, levelers, start
        self.context_PN = torch.zeros(people, plan.context_samples)
        self.waiting_PN = torch.zeros(people, 0)
        self.index = 0
        self.num_samples = 0

    def push(self, samples_PN: Tensor) -> Iterator[AudioWindow]:
        """Add sound, [people, N] or [N]; yields the windows that it completes."""
        samples_PN = check_samples(samples_PN, self.people)
        self.num_samples += samples_PN.shape[1]
        self.waiting_PN = torch.cat([self.waiting_PN, samples_PN], dim=1)
        while self.waiting_PN.shape[1] >= self.plan.new_samples:
            yield from self.advance(self.plan.new_frames)

    def recall(self, samples_PN: Tensor) -> None:
        """Take sound, [people, N] or [N], as heard before the start; no windows are made of it."""
        samples_PN = check_samples(samples_PN, self.people)[:, -self.plan.context_samples :]
        self.context_PN = F.pad(samples_PN, (self.plan.context_samples - samples_PN.shape[1], 0))

    def finish(self, num_frames: int | None = None) -> Iterator[AudioWindow]:
        """Yields the windows still due for `num_frames` frames in all (default: what the samples pushed come to), silence after the end."""
        total = self.plan.frames_in(Fraction(self.num_samples, self.plan.sample_rate)) if num_frames is None else num_frames
        while (left := total - self.index * self.plan.new_frames) > 0:
            missing = max(0, self.plan.new_samples - self.waiting_PN.shape[1])
            self.waiting_PN = F.pad(self.waiting_PN, (0, missing))
            yield from self.advance(min(left, self.plan.new_frames))

    def advance(self, num_valid: int) -> Iterator[AudioWindow]:
        """Advance the buffer by one chunk and encode it, unless the chunk is before `start`."""
        new_PN, self.waiting_PN = self.waiting_PN.split([self.plan.new_samples, self.waiting_PN.shape[1] - self.plan.new_samples], dim=1)
        self.context_PN = torch.cat([self.context_PN, new_PN], dim=1)[:, -self.plan.context_samples :]
        heard = leveled(self.context_PN, self.levelers)
        self.index += 1
        if self.index <= self.start:
            return
        features_PTSD = torch.stack([self.encode(samples_N) for samples_N in heard])
        end = features_PTSD.shape[1]
        windows = slice_windows(features_PTSD, end - self.plan.chunk_frames, self.plan)
        yield AudioWindow(index=self.index - 1, features_PTWSD=windows, samples=mix(new_PN), num_valid=num_valid)


class WholeWindows:
    """Windows of a whole recording, encoded at once at its end, so that each sees past and future sound.

    Memory grows with the recording, and the encoder's time with its square: for minutes, not hours.
    """

    def __init__(self, plan: StreamPlan, encode: Encode, people: int = 1, levelers: Sequence[Leveler] = (), start: int = 0):
        """`levelers`: one a speaker, for the loudness that the encoder hears; none leaves the sound as it is.

        `start`: the first window to come out; those before are passed over, and only their loudness is taken.
        """
        self.plan, self.encode, self.people, self.levelers, self.start = plan, encode, people, levelers, start
        self.parts_PN: list[Tensor] = [torch.zeros(people, plan.motion_frames * plan.samples_per_frame)]

    def push(self, samples_PN: Tensor) -> Iterator[AudioWindow]:
        """Add sound, [people, N] or [N]; yields no windows before the end."""
        self.parts_PN.append(check_samples(samples_PN, self.people))
        yield from ()

    def finish(self, num_frames: int | None = None) -> Iterator[AudioWindow]:
        """Yields every window, `num_frames` frames in all (default: what the samples pushed come to)."""
        plan, before = self.plan, self.parts_PN[0].shape[1]
        samples_PN = torch.cat(self.parts_PN, dim=1)
        seconds = Fraction(samples_PN.shape[1] - before, plan.sample_rate)
        total = plan.frames_in(seconds) if num_frames is None else num_frames
        length = before + plan.chunks_in(total) * plan.new_samples
        samples_PN = F.pad(samples_PN, (0, max(0, length - samples_PN.shape[1])))[:, :length]
        features_PTSD = torch.stack([self.encode(samples_N) for samples_N in leveled(samples_PN, self.levelers)])
        for index in range(self.start, plan.chunks_in(total)):
            windows = slice_windows(features_PTSD, index * plan.new_frames, plan)
            new_PN = samples_PN[:, before + index * plan.new_samples :][:, : plan.new_samples]
            num_valid = min(plan.new_frames, total - index * plan.new_frames)
            yield AudioWindow(index=index, features_PTWSD=windows, samples=mix(new_PN), num_valid=num_valid)


def slice_windows(features_PTSD: Tensor, first: int, plan: StreamPlan) -> Tensor:
    """[people, 33, 5, layers, width]: for each frame of a chunk the encoder's frames i - 2 .. i + 2, held at the ends."""
    device = features_PTSD.device  # indices are made on it too, so that nothing is copied
    offsets = torch.arange(plan.audio_window, device=device) - plan.audio_window // 2
    frames = torch.arange(first, first + plan.chunk_frames, device=device)[:, None] + offsets
    return features_PTSD[:, frames.clamp(0, features_PTSD.shape[1] - 1)]


def leveled(samples_PN: Tensor, levelers: Sequence[Leveler]) -> list[Tensor]:
    """Each speaker's window [N], leveled for the encoder."""
    rows = list(samples_PN.cpu())
    return [leveler.level(samples_N) for leveler, samples_N in zip(levelers, rows, strict=True)] if levelers else rows


def mix(samples_PN: Tensor) -> Tensor:
    """All people in one track [N]."""
    return samples_PN[0] if samples_PN.shape[0] == 1 else samples_PN.sum(0).clamp(-1, 1)


def check_samples(samples_PN: Tensor, people: int) -> Tensor:
    """[people, N] float32; ValueError for another shape, or samples that are not numbers."""
    samples_PN = samples_PN[None] if samples_PN.ndim == 1 else samples_PN
    if samples_PN.ndim != 2 or samples_PN.shape[0] != people:
        raise ValueError(f"samples of shape {tuple(samples_PN.shape)} must be [{people}, N], one row a speaker")
    if not samples_PN.is_floating_point():
        raise ValueError(f"samples of type {samples_PN.dtype} must be float in [-1, 1]; divide integer samples by their full scale")
    if not samples_PN.isfinite().all():
        raise ValueError("samples contain NaN or infinity; decode the sound again")
    return samples_PN.float()
