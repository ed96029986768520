"""What a trained DiT still gets wrong, for the decoder to learn to undo: its last step also denoises (HaCohen et al. 2024, LTX-Video).

The sampler starts from a chunk that is noised but not lost, so that what comes out shows the same moment and only errs.
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


def write_errors(net: nn.Module, data: ShardSet, folder: Path, steps: int, shift: float, most: int, seed: int = 0) -> int:
    """For samples at even distances, `most` to twice as many, those files `key` that there are not yet. Returns how many there are.

    Each is the DiT's latents of one chunk, less the true ones.
    """
    times = flow_times(steps, shift)
    numbers = range(0, len(data), max(1, len(data) // most))
    for number in numbers:
        sample = data[number]
        path = folder / f"{sample.key}.safetensors"
        if not path.exists():
            chunk, error_CTHW = find_error(net, sample, times, Draws.of(seed, "errors", number))
            first_frame = torch.tensor(chunk * sample.plan.new_frames)
            write_tensors({"first_frame": first_frame, "error": error_CTHW.bfloat16()}, path)
    return len(numbers)


@torch.no_grad()
def find_error(net: nn.Module, sample: Sample, times: list[float], draws: Draws) -> tuple[int, Tensor]:
    """A random chunk's number, and the error [C, T, H, W] of the sampler entered at any step but its first; 0 in the motion latents."""
    chunk = draws.choice("chunk", sample.chunks)
    first = 1 + draws.choice("first", len(times) - 2) if len(times) > 2 else 0
    true_CTHW = sample.latents_KCTHW[chunk]
    motion_CTHW = true_CTHW[:, : 1 + draws.choice("motion", 2)]
    noises = (draws.noise(f"noise {step}", true_CTHW) for step in range(first, len(times)))
    given = chain([(1 - times[first]) * true_CTHW + times[first] * next(noises)], noises)
    x0s = denoise_steps(NetDenoiser(net), motion_CTHW, times[first:], lambda dtype: next(given), sample.reference, sample.window(chunk))
    return chunk, deque(x0s, maxlen=1)[0] - true_CTHW
