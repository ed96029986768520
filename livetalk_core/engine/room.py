"""Whether there is room for audio keys and for another stream: one answer for all processes that share the DiT."""

from __future__ import annotations

import torch
import torch.distributed as dist

from livetalk_core.engine.denoiser import Cuts, absorbed_bytes
from livetalk_core.engine.working import denoise_numbers, stream_bytes, working_bytes
from livetalk_core.models.dit import AudioDiT
from livetalk_core.models.runner import SequenceRunner
from livetalk_core.parallel.context import SequenceParallel
from livetalk_core.parallel.memory import free_bytes
from livetalk_core.plan import StreamPlan
from livetalk_core.presets import Preset
from livetalk_core.types import NoRoom


class Room:
    """The memory of one engine. Every process of a group must make the same calls at the same time."""

    def __init__(self, preset: Preset, dit: AudioDiT, device: torch.device, dtype: torch.dtype):
        self.preset, self.dit, self.device, self.dtype = preset, dit, device, dtype
        self.settled: dict[tuple[int, int, int], Cuts] = {}
        """By latent frames, tokens in each, and passes of guidance."""

    @property
    def processes(self) -> int:
        """How many processes share the work."""
        sequence = self.dit.sequence
        return sequence.group.size if isinstance(sequence, SequenceParallel) else 1

    def cuts(self, plan: StreamPlan, passes: int = 1) -> Cuts:
        """All optimizations, but absorbed audio keys, and passes of guidance in one batch, only if each of the two takes less than half of
        the GPU's free memory.

        Decided once for all streams of the engine, which hold these keys one after another.
        """
        key = (plan.latent_frames, plan.tokens_per_latent, passes)
        if key not in self.settled:
            self.settled[key] = self.settle_cuts(plan, passes)
        return self.settled[key]

    def settle_cuts(self, plan: StreamPlan, passes: int) -> Cuts:
        free, config, sequence = free_bytes(self.device), self.dit.config, self.dit.sequence
        if free is None:
            return Cuts()
        frames = sequence.frames(plan.latent_frames, plan.tokens_per_latent)
        keys = passes * absorbed_bytes(config, frames.stop - frames.start, self.dtype)
        more = (passes - 1) * denoise_numbers(self.preset, plan, self.processes) * self.dtype.itemsize
        return Cuts(absorb_audio=all_agree(keys < free / 2, sequence), batch_passes=all_agree(more < free / 2, sequence))

    def check(self, plan: StreamPlan, num_streams: int, passes: int = 1) -> None:
        """NoRoom if another stream of this plan does not fit beside `num_streams` others on any of the processes.

        The first is always tried.
        """
        free = free_bytes(self.device)
        if free is None:
            return
        work = working_bytes(self.preset, plan, passes, self.processes, self.dtype.itemsize)
        needed = max(passes * stream_bytes(self.dit.config, self.dtype), work)
        if not all_agree(num_streams == 0 or free >= needed, self.dit.sequence):
            raise NoRoom(f"no memory for another stream: it needs {needed / 2**30:.1f} GiB free on each GPU; end a stream first")


def all_agree(wanted: bool, sequence: SequenceRunner) -> bool:
    """Whether all processes that share the DiT want it."""
    if not isinstance(sequence, SequenceParallel):
        return wanted
    votes = torch.tensor([wanted], dtype=torch.int32, device=sequence.group.device)
    dist.all_reduce(votes, dist.ReduceOp.MIN, group=sequence.group.whole)
    return bool(votes)
