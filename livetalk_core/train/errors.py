"""What a trained DiT still gets wrong, for the decoder to learn to undo: its last step also denoises (HaCohen et al. 2024, LTX-Video).

The sampler is entered at its second step, from a chunk that is noised but not lost, so that what comes out shows the same moment and only
errs.
"""

from __future__ import annotations

from collections import deque
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn

from livetalk_core.stream.flow import denoise_steps, flow_times
from livetalk_core.train.draws import Draws
from livetalk_core.train.export import write_tensors
from livetalk_core.train.net import NetDenoiser
from livetalk_core.train.sample import Sample
from livetalk_core.train.shards import ShardSet
from livetalk_core.types import StreamSettings


def write_errors(net: nn.Module, data: ShardSet, folder: Path, schedule: StreamSettings, most: int, seed: int = 0) -> int:
    """For samples at even distances, `most` to twice as many, those files `key` that there are not yet. Returns how many there are.

    Each is the DiT's latents of one chunk, less the true ones.
    """
    numbers = range(0, len(data), max(1, len(data) // most))
    for number in numbers:
        sample = data[number]
        path = folder / f"{sample.key}.safetensors"
        if not path.exists():
            chunk, error_CTHW = find_error(net, sample, schedule, Draws.of(seed, "errors", number))
            first_frame = torch.tensor(chunk * sample.plan.new_frames)
            write_tensors({"first_frame": first_frame, "error": error_CTHW.bfloat16()}, path)
    return len(numbers)


@torch.no_grad()
def find_error(net: nn.Module, sample: Sample, schedule: StreamSettings, draws: Draws) -> tuple[int, Tensor]:
    """A random chunk's number, and the error [C, T, H, W] of the sampler, 0 in the motion latents."""
    chunk = draws.choice("chunk", sample.chunks)
    times = flow_times(schedule.steps, schedule.shift)[min(1, schedule.steps - 1) :]
    true_CTHW = sample.latents_KCTHW[chunk]
    motion_CTHW = true_CTHW[:, : 1 + draws.choice("motion", 2)]
    noises = (draws.noise(f"noise {step}", true_CTHW) for step in range(len(times)))
    given = chain([(1 - times[0]) * true_CTHW + times[0] * next(noises)], noises)
    window, last_noise = sample.window(chunk), schedule.last_noise
    x0s = denoise_steps(NetDenoiser(net), motion_CTHW, times, lambda dtype: next(given), sample.reference, window, last_noise)
    return chunk, deque(x0s, maxlen=1)[0] - true_CTHW
