"""Work of the compiled form, counted without doing it: what would be launched, and the bytes of what is no product.

The graph of a call on tensors without memory goes to inductor, which fuses it and is stopped before it writes code. So sizes are the real
ones on any machine, but the form is that for a CPU: for a GPU inductor fuses norms with what follows, and makes other copies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch
import torch._functorch.config as functorch
import torch._inductor.config as inductor
from torch import Tensor
from torch._inductor.codegen.cpp import OuterLoopFusedSchedulerNode
from torch._inductor.ir import MultiOutput
from torch._inductor.scheduler import BaseSchedulerNode, ExternKernelSchedulerNode, NopKernelSchedulerNode


class Stop(BaseException):
    """Inductor has fused, and that is all that is asked of it."""


@dataclass(frozen=True, kw_only=True)
class Fused:
    """What a call is once compiled."""

    loops: int
    """Fused loops; where the CPU's form joins several, each of them."""
    calls: int
    """Of libraries: products, convolutions, attention."""
    loop_bytes: int
    """Operands and results of the fused loops."""

    @property
    def ops(self) -> int:
        return self.loops + self.calls


def fuse(call: Callable[[], object], form: dict[str, bool] | None = None) -> Fused:
    """The fused form of a call, which is one whole graph, with these options of the compiler; best under a FakeTensorMode, whose tensors
    have sizes and no memory."""
    found: list[Fused] = []

    def look(nodes: list[BaseSchedulerNode]) -> list[BaseSchedulerNode]:
        found.append(fused_work(nodes))
        raise Stop

    with stopping_at(look), torch.no_grad(), suppress(Stop):
        torch.compile(lambda: call(), dynamic=False, fullgraph=True, options=form)()
    (work,) = found
    return work


@contextmanager
def stopping_at(look: Callable) -> Iterator[None]:
    """Have inductor hand what it has fused to `look`; no results of before are used, nor are these kept."""
    torch._dynamo.reset()
    fresh = inductor.patch(_post_fusion_custom_pass=look, fx_graph_cache=False), functorch.patch(enable_autograd_cache=False)
    with fresh[0], fresh[1]:
        yield
    torch._dynamo.reset()


def fused_work(nodes: list[BaseSchedulerNode]) -> Fused:
    loops = calls = loop_bytes = 0
    for node in nodes:
        if isinstance(node, NopKernelSchedulerNode):
            continue
        if isinstance(node, ExternKernelSchedulerNode):
            calls += not isinstance(node.node, MultiOutput)
            continue
        loops += len(node.get_outer_nodes()) if isinstance(node, OuterLoopFusedSchedulerNode) else 1
        loop_bytes += node.get_read_write_buffers_sizes()
    return Fused(loops=loops, calls=calls, loop_bytes=loop_bytes)


def fuse_pieces(run: Callable[[Tensor, dict], Tensor], pieces: list[Tensor], form: dict[str, bool] | None = None) -> list[Fused]:
    """Of a function that takes a clip piece by piece and keeps what it needs of those before."""
    found, past = [], {}
    for piece in pieces:
        kept = dict(past)
        found.append(fuse(lambda piece=piece, kept=kept: run(piece, kept), form))
        run(piece, past)
    return found
