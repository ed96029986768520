"""The memory format of activations in a band of a picture: halos must not turn channels-last into row-major."""

from __future__ import annotations

import pytest
import torch
from test_parallel_vae import CPU, PICTURES, sample, small_vae
from torch.utils._python_dispatch import TorchDispatchMode

from livetalk_core.models.convolution import lay_channels_last
from livetalk_core.parallel import exchange
from livetalk_core.parallel.group import SequenceGroup
from livetalk_core.parallel.vae import parallelize_vae


class LikeCuDNN(TorchDispatchMode):
    """Convolutions answer in their weight's memory format, as cuDNN does. Counts the bytes that reach them in another one."""

    total = wrong = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket is not torch.ops.aten.convolution:
            return out
        layout = torch.channels_last_3d if out.ndim == 5 else torch.channels_last
        self.total += args[0].nbytes
        self.wrong += 0 if args[0].is_contiguous(memory_format=layout) else args[0].nbytes
        return out.contiguous(memory_format=layout)


@torch.no_grad()
def wrong_share(call) -> float:
    with LikeCuDNN() as mode:
        call()
    return mode.wrong / mode.total


@pytest.mark.parametrize("what", ["encode", "decode"])
def test_halos_keep_activations_channels_last(what, monkeypatch):
    """On the first of two processes, whose neighbor sends nothing: no more bytes reach convolutions row-major than in one process."""
    stand_ins = {"get_rank": lambda group: 0, "get_global_rank": lambda group, rank: rank, "P2POp": lambda *parts: parts}
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(exchange.dist, name, stand_in)
    monkeypatch.setattr(exchange.dist, "all_gather", lambda *parts, **options: None)
    monkeypatch.setattr(exchange, "exchange", lambda operations: None)
    vae, (latents, video) = small_vae(), sample("tall")
    lay_channels_last(vae)
    group = SequenceGroup(rank=0, size=2, ulysses_degree=2, ring_degree=1, device=CPU, whole=None, ulysses=None, ring=None)
    banded = parallelize_vae(vae, group).banded(*PICTURES["tall"])
    band = banded.bands.cut(video, 0, 8)
    if what == "decode":
        alone, spread = wrong_share(lambda: list(vae.decode(latents, (1, 2)))), wrong_share(lambda: list(banded.decode(latents, (1, 2))))
    else:
        alone, spread = wrong_share(lambda: vae.encode(video, (1, 2))), wrong_share(lambda: banded.encode(band, (1, 2)))
    assert alone < 0.2 and spread < alone + 0.02
