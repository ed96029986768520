"""Attention kernels: how one is chosen, and what is refused."""

import logging
from types import SimpleNamespace

import pytest
import torch

from livetalk_core.models import attention as module
from livetalk_core.models.kernels import Case, fastest, time_kernels


def fake_kernels(monkeypatch, **kernels):
    """Register fake kernels for the CPU, in this order."""
    calls = {name: 0 for name in kernels}

    def counted(name):
        def run(q, k, v):
            calls[name] += 1
            return kernels[name](q, k, v)

        return run

    monkeypatch.setitem(module.MEASURED, "cpu", tuple(kernels))
    monkeypatch.setattr(module, "RUN", module.RUN | {name: counted(name) for name in kernels})
    monkeypatch.setattr(module, "_chosen", {})
    return calls


@pytest.fixture(autouse=True)
def clock(monkeypatch) -> None:
    """Time passes in the slow kernel alone."""
    monkeypatch.setattr(slow, "spent_s", 0.0, raising=False)
    monkeypatch.setattr("livetalk_core.models.kernels.time", SimpleNamespace(perf_counter=lambda: slow.spent_s))


def slow(q, k, v):
    slow.spent_s += 0.02
    return module.attention_sdpa(q, k, v)


def broken(q, k, v):
    raise RuntimeError("no such kernel for this shape\nand a long trace")


def sums(q, k, v):
    return module.attention_sdpa(q, k, v)


def qkv(queries=6, keys=6):
    return torch.randn(1, queries, 2, 8), torch.randn(1, keys, 2, 8), torch.randn(1, keys, 2, 8)


@torch.no_grad()
def test_the_faster_kernel_wins_and_a_broken_one_is_logged_and_skipped(monkeypatch, caplog):
    calls = fake_kernels(monkeypatch, slow=slow, broken=broken, fast=sums)
    inputs = qkv()
    with caplog.at_level(logging.INFO):
        out = module.attention(*inputs)
    assert torch.equal(out, module.attention_sdpa(*inputs))
    assert list(module.chosen().values()) == ["fast"]
    assert "attention kernel broken is left out: no such kernel for this shape" in caplog.messages
    assert "long trace" not in caplog.text and ": fast (slow" in caplog.text
    assert calls["broken"] == 1


@torch.no_grad()
def test_each_shape_is_measured_once(monkeypatch):
    calls = fake_kernels(monkeypatch, slow=slow, fast=sums)
    module.attention(*qkv())
    measured = calls["slow"]
    module.attention(*qkv())
    assert calls["slow"] == measured > 0
    module.attention(*qkv(keys=7))
    assert calls["slow"] == 2 * measured
    assert len(module.chosen()) == 2


@torch.no_grad()
def test_torch_chooses_if_no_kernel_works(monkeypatch):
    fake_kernels(monkeypatch, broken=broken)
    inputs = qkv()
    assert torch.equal(module.attention(*inputs), module.attention_sdpa(*inputs))


def test_training_measures_nothing(monkeypatch):
    calls = fake_kernels(monkeypatch, slow=slow, fast=sums)
    q, k, v = (x.requires_grad_() for x in qkv())
    module.attention(q, k, v).sum().backward()
    assert calls == {"slow": 0, "fast": 0} and q.grad is not None


@torch.no_grad()
def test_a_bias_goes_to_torchs_own_kernels(monkeypatch):
    calls = fake_kernels(monkeypatch, slow=slow, fast=sums)
    q, k, v = qkv()
    bias = torch.tensor([0.0] * 5 + [-torch.inf])
    assert torch.allclose(module.attention(q, k, v, bias), module.attention_sdpa(q, k[:, :5], v[:, :5]), atol=1e-6)
    assert calls == {"slow": 0, "fast": 0}


def test_on_a_tie_the_first_kernel_wins():
    assert fastest({"a": 1.0, "b": 0.99}) == "a"
    assert fastest({"a": 1.0, "b": 0.9, "c": 0.89}) == "b"


def test_a_kernel_that_does_not_work_is_not_timed():
    case = Case(device=torch.device("cpu"), dtype=torch.float32, batch=1, queries=9, keys=9, heads=2, width=8)
    assert set(time_kernels({"one": sums, "none": broken}, case)) == {"one"}


def test_kernel_as_restores_the_selected_kernel():
    with pytest.raises(KeyError), module.kernel_as("sdpa"):
        assert module.wanted_kernel() == "sdpa"
        raise KeyError
    assert module.wanted_kernel() == "auto"


def test_a_cpu_uses_torchs_kernel_unmeasured_and_unknown_kernels_are_refused():
    module.attention(*qkv())
    assert all("cpu" not in case for case in module.chosen())
    with pytest.raises(ValueError, match="must be one of auto, sdpa, cudnn, flash, efficient, flash2, flash3, sage"):
        module.select_kernel("magic")
    for name, package in module.MODULES.items():
        if not module.installed(name):
            with pytest.raises(ValueError, match=f"{package}.*not installed"):
                module.select_kernel(name)


@torch.no_grad()
def test_a_packages_kernel_is_one_operation_of_a_compiled_graph(monkeypatch):
    fake_kernels(monkeypatch, flash3=sums)
    monkeypatch.setattr(module, "suits", lambda name, case: True)
    graphs = []

    def keep(graph, _):
        graphs.append(graph)
        return graph.forward

    inputs = qkv()
    out = torch.compile(lambda q, k, v: module.attention(q, k, v) + 1, backend=keep, fullgraph=True)(*inputs)
    assert torch.equal(out, module.attention_sdpa(*inputs) + 1)
    assert "package_kernel" in graphs[0].code
