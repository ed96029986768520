"""Devices besides the CPU and the first GPU: no float64 where it is refused, and nothing on GPU 0 when another GPU is asked for."""

from __future__ import annotations

import ast
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from crossings import Watch, open_on_meta

from livetalk_core import generate
from livetalk_core.bench.random_engine import META, random_engine
from livetalk_core.bench.work import tensors_in
from livetalk_core.models import precision
from livetalk_core.models.rope import rope_table
from livetalk_core.parallel.memory import free_bytes
from livetalk_core.parallel.offload import StreamCopier
from livetalk_core.pool.loop import CancelFlag
from livetalk_core.presets import tiny
from livetalk_core.stream import color
from livetalk_core.stream.clock import StageClock
from livetalk_core.stream.host_copy import HostCopy

CORE = Path(__file__).parent.parent / "livetalk_core"
SECOND = torch.device("cuda:1")


class NoFloat64(Watch):
    """The meta device as one that refuses float64, as mps does."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if any(tensor.is_meta and tensor.dtype == torch.float64 for tensor in tensors_in(result)):
            raise TypeError(f"this device has no float64: {func}")
        return result


def talk_without_float64(monkeypatch, device_types: set[str]) -> None:
    """Two chunks of a stream on the stand-in device, whose type has float64 only if it is among these."""
    for module in (precision, color):
        monkeypatch.setattr(module, "FLOAT64", device_types)
    engine = random_engine(tiny(), META, torch.float32)
    with torch.no_grad(), NoFloat64():
        stream = open_on_meta(engine, engine.plan(64, 48))
        for _ in range(2):
            list(stream.push(torch.zeros(stream.session.plan.new_samples)))


def test_a_stream_makes_no_float64_on_a_device_that_refuses_it(monkeypatch):
    talk_without_float64(monkeypatch, {"cpu", "cuda"})


def test_the_stand_in_device_notices_float64(monkeypatch):
    with pytest.raises(TypeError, match="no float64"):
        talk_without_float64(monkeypatch, {"cpu", "cuda", "meta"})


def test_tables_are_the_same_whether_made_on_the_device_or_on_the_cpu(monkeypatch):
    here = rope_table(3, 4, 5, 32, torch.device("cpu"))
    monkeypatch.setattr(precision, "FLOAT64", set())
    assert all(torch.equal(a, b) for a, b in zip(here, rope_table(3, 4, 5, 32, torch.device("cpu")), strict=True))


def test_frame_statistics_without_float64_are_near_those_with_it(monkeypatch):
    lab = torch.rand(3, 2, 64, 48) * 100
    exact = color.stats_of(lab)
    monkeypatch.setattr(color, "FLOAT64", set())
    assert all(torch.allclose(a, b, rtol=1e-5) for a, b in zip(exact, color.stats_of(lab), strict=True))


class FakeCuda:
    """torch.cuda of a box with two GPUs. Whoever names no device touches GPU 0."""

    def __init__(self, monkeypatch):
        self.touched: list[torch.device] = []
        for name in ("current_stream", "mem_get_info", "memory_reserved", "memory_allocated", "max_memory_allocated", "Stream"):
            monkeypatch.setattr(torch.cuda, name, lambda device=None, name=name: self.answer(name, device))
        monkeypatch.setattr(torch.cuda, "Event", lambda **options: self.event(None))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    def answer(self, name: str, device: torch.device | None):
        device = torch.device("cuda:0" if device is None else device)
        self.touched.append(device)
        if name in ("current_stream", "Stream"):
            return SimpleNamespace(record_event=lambda event=None: event or self.event(device), device=device)
        return (8, 16) if name == "mem_get_info" else 1

    def event(self, device: torch.device | None) -> SimpleNamespace:
        """An event that is recorded without a stream is recorded on GPU 0."""
        return SimpleNamespace(record=lambda: self.touched.append(device or torch.device("cuda:0")), synchronize=lambda: None)


def test_a_stream_on_the_second_gpu_does_not_touch_the_first(monkeypatch):
    cuda = FakeCuda(monkeypatch)
    with StageClock(SECOND).stage("denoise"):
        pass
    flag = CancelFlag(SECOND, grouped=False)
    assert [flag.is_set(False) for _ in range(2)] == [False, False]
    HostCopy(SECOND)
    StreamCopier(SECOND).record()
    assert free_bytes(SECOND) == 8 and generate.free_bytes(SECOND) == 8
    assert len(cuda.touched) >= 8 and set(cuda.touched) == {SECOND}


WITHOUT_DEVICE = {"empty_cache", "is_available", "device_count", "cudart", "check_error", "stream"}
"""Calls of torch.cuda that concern no device, or that get one with their stream."""


def test_every_call_of_torch_cuda_names_its_device():
    """An event may be made without one only where it is recorded at once, on a stream that has one."""
    nameless = []
    for path in CORE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        recorded = {id(argument) for call in calls_of(tree) if ast.unparse(call.func).endswith(".record_event") for argument in call.args}
        for call in calls_of(tree):
            owner, _, name = ast.unparse(call.func).rpartition(".")
            if owner != "torch.cuda" or name in WITHOUT_DEVICE or id(call) in recorded:
                continue
            if name == "Event" or not (call.args or call.keywords):
                nameless.append(f"{path.relative_to(CORE)}:{call.lineno} {ast.unparse(call)}")
    assert nameless == []


def calls_of(tree: ast.AST) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
