"""CUDA graphs: what a call launches is recorded once a shape, and launched as one afterwards.

A graph reads and writes the memory it was recorded with. So the tensors of each call are first copied to where the recorded ones lay, those
that are the same as in the call before excepted; and results are copied out, since the next replay writes over them.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map_only, tree_unflatten

from livetalk_core.models.dit import AudioDiT
from livetalk_core.models.tiny_decoder import DraftVAE
from livetalk_core.models.vae import CausalVAE

log = logging.getLogger(__name__)

MOST = 8
"""Graphs of one function, by shapes. A chunk's decode has three kinds of pieces, its steps two: after one motion latent, and after more."""


class Recorder(Protocol):
    """How a call is recorded."""

    def record(self, call: Callable[[], object]) -> tuple[Callable[[], None], object]:
        """What does it again, and the result that this writes to. RuntimeError for a call that cannot be recorded."""
        ...


class CudaRecorder:
    """Records what a call launches. All graphs of a recorder use the same memory for what lies between, since they take turns.

    Only this thread's calls are held to what can be recorded: others copy frames to the host meanwhile.
    """

    def __init__(self, device: torch.device):
        self.device, self.memory = device, torch.cuda.graph_pool_handle()

    def record(self, call: Callable[[], object]) -> tuple[Callable[[], None], object]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self.device), torch.cuda.graph(graph, pool=self.memory, capture_error_mode="thread_local"):
            result = call()
        return graph.replay, result


@dataclass(frozen=True, kw_only=True)
class Key:
    """What a graph is good for: the same arguments but for the numbers in tensors."""

    form: TreeSpec
    tensors: tuple[tuple[torch.Size, tuple[int, ...], torch.dtype, torch.device], ...]
    others: tuple[object, ...]

    def __hash__(self) -> int:
        return hash((self.tensors, self.others))


class Graph:
    """A recorded call and the tensors it reads."""

    def __init__(self, call: Callable[..., object], leaves: list[object], form: TreeSpec, recorder: Recorder):
        self.held = [keep_layout(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self.sources: list[tuple[weakref.ref, int] | None] = [None] * len(leaves)
        self.replay, self.result = recorder.record(lambda: call(*tree_unflatten(self.held, form)))

    def __call__(self, leaves: list[object]) -> object:
        for i, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor) and not self.holds(i, leaf):
                self.held[i].copy_(leaf)
                self.sources[i] = (weakref.ref(leaf), leaf._version)
        self.replay()
        return tree_map_only(Tensor, keep_layout, self.result)

    def holds(self, i: int, leaf: Tensor) -> bool:
        """Whether the numbers of this very tensor are there already, as those of keys that stay for a chunk or a stream."""
        source = self.sources[i]
        return source is not None and source[0]() is leaf and source[1] == leaf._version


class Graphed:
    """A function of tensors that changes none of them, replayed from its second call of a shape on."""

    def __init__(self, call: Callable[..., object], recorder: Recorder, most: int = MOST):
        self.call, self.recorder, self.most = call, recorder, most
        self.met: set[Key] = set()
        self.graphs: dict[Key, Graph] = {}
        self.paused = False

    def __call__(self, *arguments: object) -> object:
        if self.paused:
            return self.call(*arguments)
        leaves, form = tree_flatten(arguments)
        key = key_of(leaves, form)
        if key not in self.graphs and not self.capture(key, leaves, form):
            return self.call(*arguments)
        return self.graphs[key](leaves)

    def capture(self, key: Key, leaves: list[object], form: TreeSpec) -> bool:
        """Record a shape that comes again; the first call of it is taken as it is, and meets what is only done once."""
        if key not in self.met:
            self.met.add(key)
            return False
        if len(self.graphs) >= self.most:
            return False
        try:
            self.graphs[key] = Graph(self.call, leaves, form, self.recorder)
        except RuntimeError as error:
            self.paused = True
            log.warning("CUDA graphs are left out, since one could not be recorded: %s", str(error).splitlines()[0])
            return False
        return True


def keep_layout(x: Tensor) -> Tensor:
    """A copy that lies in memory as x does."""
    return x.clone(memory_format=torch.preserve_format)


def key_of(leaves: list[object], form: TreeSpec) -> Key:
    tensors = tuple((x.shape, x.stride(), x.dtype, x.device) for x in leaves if isinstance(x, Tensor))
    others = tuple(x for x in leaves if not isinstance(x, Tensor))
    assert all(x is None or isinstance(x, int | float) for x in others), "something that may hold tensors would be recorded as it is"
    return Key(form=form, tensors=tensors, others=others)


class GraphedDecoder:
    """A decoder whose `past` comes and goes with the call: the graph is given it, and its results hold the next."""

    def __init__(self, decode: Callable[[Tensor, dict | None], Tensor], recorder: Recorder):
        self.graphed = Graphed(lambda x, past: self.pure(decode, x, past), recorder)

    @staticmethod
    def pure(decode, x: Tensor, past: dict[nn.Module, Tensor] | None) -> tuple[Tensor, dict[nn.Module, Tensor] | None]:
        past = None if past is None else dict(past)
        return decode(x, past), past

    def __call__(self, x: Tensor, past: dict[nn.Module, Tensor] | None) -> Tensor:
        frames, later = self.graphed(x, past)
        if past is not None:
            past.update(later)
        return frames


def graph_models(dit: AudioDiT, vae: object, recorder: Recorder) -> list[Graphed]:
    """From now on the DiT's blocks of a step, and a group of latent frames through the causal VAE's decoder or a tiny one, are replayed."""
    steps = dit.run_blocks = Graphed(dit.run_blocks, recorder)
    if not isinstance(vae, CausalVAE | DraftVAE):
        return [steps]
    decoder = vae.decode_group = GraphedDecoder(vae.decode_group, recorder)
    return [steps, decoder.graphed]


def require_graphs(dit: AudioDiT, device: torch.device) -> None:
    """ValueError where nothing can be recorded: off CUDA, and with weights that come and go."""
    if device.type != "cuda":
        raise ValueError(f"graphs=True needs CUDA, and the device is {device}; leave --graphs out")
    away = sum(any(weight.device.type != "cuda" for weight in block.parameters()) for block in dit.blocks)
    if away:
        raise ValueError(f"graphs=True needs the DiT's weights on {device}, and {away} blocks wait on the host; leave --graphs out")


@contextmanager
def without_graphs(graphed: list[Graphed]) -> Iterator[None]:
    """Every call as it is, for a while."""
    before = [one.paused for one in graphed]
    for one in graphed:
        one.paused = True
    try:
        yield
    finally:
        for one, paused in zip(graphed, before, strict=True):
            one.paused = paused
