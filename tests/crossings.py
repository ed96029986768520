"""Where a chunk's work goes from the host to the device and back: on a GPU the host waits at each.

The stream is run with the meta device in the GPU's place, so that what is on the host and what is not is told apart on any machine.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from livetalk_core.bench.parts import RandomInputs
from livetalk_core.bench.random_engine import META, random_engine
from livetalk_core.bench.work import tensors_in
from livetalk_core.engine.denoiser import Cuts, DiTDenoiser
from livetalk_core.engine.engine import Engine, Stream
from livetalk_core.plan import StreamPlan
from livetalk_core.presets import tiny
from livetalk_core.stream.window import LiveWindows

CORE = Path(__file__).parent.parent / "livetalk_core"
aten = torch.ops.aten
MAKERS = {torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor}
"""They make a tensor of Python numbers: on the host first."""

Crossed = dict[str, list[str]]
"""Places in our files, FILE:LINE, one per crossing: read (a value asked for), to_host, to_device."""


def cross_in_a_chunk() -> Crossed:
    """The crossings of a stream's second chunk, from its sound to its frames; models of tiny size."""
    engine = random_engine(tiny(), META, torch.float32)
    stream = open_on_meta(engine, engine.plan(64, 48))
    samples_N = torch.zeros(stream.session.plan.new_samples)
    return crossings(lambda: list(stream.push(samples_N)), before=lambda: list(stream.push(samples_N)))


def open_on_meta(engine: Engine, plan: StreamPlan) -> Stream:
    """What `Engine.open` gives; torch has no random generator for the meta device."""
    inputs = RandomInputs(engine, plan, Cuts(), engine.preset.steps)
    session = inputs.session(engine.models.vae, DiTDenoiser(engine.models.dit, inputs.times, inputs.cuts))
    return Stream(session, LiveWindows(plan, engine.encode_audio), threading.Lock())


def crossings(call: Callable[[], object], before: Callable[[], object] = lambda: None) -> Crossed:
    """Where `call` crosses, after `before` has run."""
    watch = Watch()
    with torch.no_grad(), watch, Makers(watch):
        before()
        watch.found = {"read": [], "to_host": [], "to_device": []}
        call()
    return watch.found


class Watch(TorchDispatchMode):
    """Notes crossings, and answers what the meta device cannot: a value read is 1, a tensor that comes back is zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Crossed = {"read": [], "to_host": [], "to_device": []}

    def note(self, kind: str) -> None:
        self.found[kind].append(our_line())

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, packet = kwargs or {}, func.overloadpacket
        given = tensors_in((args, kwargs))
        on_device = any(tensor.is_meta for tensor in given)
        if packet is aten._local_scalar_dense and on_device:
            self.note("read")
            return 1
        if packet in (aten._to_copy, aten.copy_) and (arrived := self.copied(packet, args, kwargs)) is not None:
            return arrived
        if on_device and any(not tensor.is_meta and tensor.ndim for tensor in given):
            self.note("to_device")
        return func(*args, **kwargs)

    def copied(self, packet, args: tuple, kwargs: dict) -> Tensor | None:
        """The result of a copy between host and device; None for one that stays where it is."""
        source = args[1] if packet is aten.copy_ else args[0]
        target = args[0].device if packet is aten.copy_ else kwargs.get("device") or source.device
        if target.type == source.device.type:
            return None
        self.note("to_device" if target.type == "meta" else "to_host")
        if packet is aten.copy_:
            return args[0]
        return torch.zeros(source.shape, dtype=kwargs.get("dtype") or source.dtype, device=target)


class Makers(TorchFunctionMode):
    """Notes tensors made of Python numbers for the device, which torch does out of a dispatch mode's sight."""

    def __init__(self, watch: Watch):
        super().__init__()
        self.watch = watch

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func in MAKERS and result.is_meta:
            self.watch.note("to_device")
        return result


def our_line() -> str:
    """The innermost place in the stream's own files."""
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if path.is_relative_to(CORE):
            return f"{path.relative_to(CORE)}:{frame.lineno}"
    return "elsewhere"
