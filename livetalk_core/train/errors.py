"""Records a trained DiT's errors, so that the decoder can learn to correct them (HaCohen et al. 2024, LTX-Video).

Sampling starts at the second step from a noised true chunk. So the result shows the same moment as the truth, and their difference is the
DiT's error.
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


def write_errors(net: nn.Module, data: ShardSet, folder: Path, schedule: StreamSettings, count: int, seed: int = 0) -> int:
    """Write the missing error files of evenly spaced samples, `count` to twice as many. Returns the number of samples.

    An error is the DiT's latents of one chunk minus the true ones.
    """
    numbers = range(0, len(data), max(1, len(data) // count))
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
    """The number of a random chunk, and the sampler's error [C, T, H, W], which is 0 in the motion latents."""
    chunk = draws.choice("chunk", sample.chunks)
    times = flow_times(schedule.steps, schedule.shift)[min(1, schedule.steps - 1) :]
    true_CTHW = sample.latents_KCTHW[chunk]
    motion_CTHW = true_CTHW[:, : 1 + draws.choice("motion", 2)]
    noises = (draws.noise(f"noise {step}", true_CTHW) for step in range(len(times)))
    given = chain([(1 - times[0]) * true_CTHW + times[0] * next(noises)], noises)
    window, last_noise = sample.window(chunk), schedule.last_noise
    x0s = denoise_steps(NetDenoiser(net), motion_CTHW, times, lambda dtype: next(given), sample.shown(chunk), window, last_noise)
    return chunk, deque(x0s, maxlen=1)[0] - true_CTHW
