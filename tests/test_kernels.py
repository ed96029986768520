"""Attention kernels: how one is chosen, and what is refused."""

import json
import logging

import pytest
import torch

from livetalk_core.bench import accept_attention
from livetalk_core.bench.accept import Target
from livetalk_core.cli.main import main
from livetalk_core.models import attention as module
from livetalk_core.models import kernels
from livetalk_core.models.kernels import Case, preferred, supports

GPU = torch.device("cuda", 0)


def fake_kernels(monkeypatch, capability=(9, 0), **fakes):
    """Give the CPU a GPU's table and these kernels, counted; all others fail."""
    calls = dict.fromkeys([*module.RUN, *fakes], 0)

    def counted(name):
        def run(q, k, v):
            calls[name] += 1
            return fakes.get(name, broken)(q, k, v)

        return run

    monkeypatch.setattr(module, "CHOICE", {"cpu"})
    monkeypatch.setattr(module, "RUN", {name: counted(name) for name in calls} | {"sdpa": module.attention_sdpa})
    monkeypatch.setattr(module, "_chosen", {})
    monkeypatch.setattr(kernels, "capability_of", lambda device: capability)
    monkeypatch.setattr(kernels, "device_name", lambda device: "Fake H200")
    module.works.cache_clear()
    return calls


@pytest.fixture(autouse=True)
def forget():
    yield
    module.works.cache_clear()
    kernels.read_table.cache_clear()


def broken(q, k, v):
    raise RuntimeError("no such kernel for this shape\nand a long trace")


def qkv(queries=6, keys=6, width=8):
    return tuple(torch.randn(1, n, 2, width).bfloat16() for n in (queries, keys, keys))


def case(width=128, dtype=torch.bfloat16, **sizes):
    return Case(device=GPU, dtype=dtype, **{"batch": 1, "queries": 10530, "keys": 10530, "heads": 40, "width": width} | sizes)


@torch.no_grad()
def test_the_first_kernel_of_the_table_that_works_is_taken_and_a_broken_one_is_logged(monkeypatch, caplog):
    calls = fake_kernels(monkeypatch, flash=module.attention_sdpa, efficient=module.attention_sdpa)
    inputs = qkv()
    with caplog.at_level(logging.INFO):
        out = module.attention(*inputs)
    assert torch.equal(out, module.attention_sdpa(*inputs))
    assert list(module.chosen().values()) == ["flash"]
    assert "attention kernel cudnn is left out: no such kernel for this shape" in caplog.messages and "long trace" not in caplog.text
    assert calls["cudnn"] == 1 and calls["efficient"] == 0


@torch.no_grad()
def test_nothing_is_timed_so_the_choice_does_not_depend_on_speed(monkeypatch):
    """Two calls a kernel at most: one small trial, and the call itself, whichever kernel is fast today."""
    calls = fake_kernels(monkeypatch, cudnn=module.attention_sdpa, flash=module.attention_sdpa)
    module.attention(*qkv())
    assert calls["cudnn"] == 2 and calls["flash"] == 0
    module.attention(*qkv(keys=7))
    assert calls["cudnn"] == 3, "another shape needs no other trial"


@torch.no_grad()
@pytest.mark.parametrize("name", ["auto", "cudnn", "flash", "flash2", "flash3", "sage"])
def test_a_kernel_that_does_not_take_the_vaes_wide_head_is_not_tried(monkeypatch, caplog, name):
    calls = fake_kernels(monkeypatch, efficient=module.attention_sdpa)
    monkeypatch.setattr(module, "installed", lambda kernel: True)
    with module.kernel_as(name):
        module.attention(*qkv(width=384))
    assert list(module.chosen().values()) == ["efficient" if name == "auto" else "sdpa"]
    assert {kernel for kernel, count in calls.items() if count} <= {"efficient"} and not caplog.messages


@pytest.mark.parametrize(
    ("capability", "width", "dtype", "expected"),
    [
        ((9, 0), 128, torch.bfloat16, ["flash3", "cudnn", "flash", "flash2", "efficient"]),
        ((8, 0), 128, torch.float16, ["flash", "flash2", "cudnn", "efficient"]),
        ((9, 0), 256, torch.bfloat16, ["flash3", "flash", "flash2", "efficient"]),
        ((9, 0), 384, torch.bfloat16, ["efficient"]),
        ((9, 0), 128, torch.float32, ["efficient"]),
        ((7, 5), 128, torch.float16, ["efficient"]),
    ],
)
def test_the_table_by_device_and_shape(monkeypatch, capability, width, dtype, expected):
    monkeypatch.setattr(kernels, "capability_of", lambda device: capability)
    asked = case(width, dtype)
    assert [name for name in preferred(asked) if supports(name, asked)] == expected


def test_bench_writes_a_table_and_it_comes_before_the_built_in_one(monkeypatch, tmp_path):
    """The fastest kernel of each shape; neither a lossy nor a wrong one. Other devices keep the built-in table."""
    monkeypatch.setattr(kernels, "capability_of", lambda device: (9, 0))
    monkeypatch.setattr(kernels, "device_name", lambda device: "Fake H200")
    monkeypatch.setattr(accept_attention, "device_name", lambda device: "Fake H200")
    table = tmp_path / "table.json"
    rows = [("cudnn", "self", 10530, 2.0, True), ("flash", "self", 10530, 1.0, True), ("sage", "self", 10530, 0.1, True)]
    rows += [("efficient", "self", 10530, 0.2, False), ("efficient", "text", 512, 0.1, True), ("flash", "text", 512, 0.2, True)]
    found = [
        {"kernel": name, "seconds": seconds, "passed": passed}
        | {"shape": {"what": what, "queries": 10530, "keys": keys, "heads": 40, "width": 128}}
        for name, what, keys, seconds, passed in rows
    ]
    target = Target(device="cuda:0", dtype="bfloat16", model="livetalk_14b", size="auto", golden=None)
    accept_attention.write_table({"parts": {"attention": {"kernels": found}}}, target, table)
    assert [row["kernel"] for row in json.loads(table.read_text())] == ["flash", "efficient"]
    monkeypatch.setenv(kernels.TABLE_VARIABLE, str(table))
    assert preferred(case())[0] == "flash" and preferred(case(queries=1317))[0] == "flash"
    assert preferred(case(keys=257))[0] == "efficient"
    monkeypatch.setattr(kernels, "device_name", lambda device: "Another")
    assert preferred(case())[0] == "flash3"


def test_a_file_that_is_no_table_is_refused_in_one_line(monkeypatch, tmp_path):
    (tmp_path / "table.json").write_text('[{"kernel": "flash"}]')
    monkeypatch.setattr(kernels, "capability_of", lambda device: (9, 0))
    monkeypatch.setattr(kernels, "device_name", lambda device: "Fake H200")
    for path in ("table.json", "none.json"):
        monkeypatch.setenv(kernels.TABLE_VARIABLE, str(tmp_path / path))
        with pytest.raises(ValueError, match=r"^LIVETALK_KERNEL_TABLE=.*json is not a kernel table .*write one with livetalk bench[^\n]*$"):
            preferred(case())


@torch.no_grad()
def test_torch_chooses_if_no_kernel_works(monkeypatch):
    fake_kernels(monkeypatch)
    inputs = qkv()
    assert torch.equal(module.attention(*inputs), module.attention_sdpa(*inputs))


def test_training_uses_torchs_own_choice_without_a_package(monkeypatch):
    calls = fake_kernels(monkeypatch, flash=module.attention_sdpa)
    q, k, v = (x.requires_grad_() for x in qkv())
    module.attention(q, k, v).sum().backward()
    assert not any(calls.values()) and q.grad is not None


@torch.no_grad()
def test_a_bias_goes_to_torchs_own_kernels(monkeypatch):
    calls = fake_kernels(monkeypatch, flash=module.attention_sdpa)
    q, k, v = (x.float() for x in qkv())
    bias = torch.tensor([0.0] * 5 + [-torch.inf])
    assert torch.allclose(module.attention(q, k, v, bias), module.attention_sdpa(q, k[:, :5], v[:, :5]), atol=1e-6)
    assert not any(calls.values())


def test_kernel_as_restores_the_selected_kernel():
    with pytest.raises(KeyError), module.kernel_as("sdpa"):
        assert module.wanted_kernel() == "sdpa"
        raise KeyError
    assert module.wanted_kernel() == "auto"


def test_a_cpu_uses_torchs_kernel_and_unknown_kernels_are_refused():
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
    fake_kernels(monkeypatch, flash3=module.attention_sdpa)
    monkeypatch.setattr(module, "installed", lambda name: True)
    graphs = []

    def keep(graph, _):
        graphs.append(graph)
        return graph.forward

    inputs = qkv()
    out = torch.compile(lambda q, k, v: module.attention(q, k, v) + 1, backend=keep, fullgraph=True)(*inputs)
    assert torch.equal(out, module.attention_sdpa(*inputs) + 1)
    assert "package_kernel" in graphs[0].code


def test_the_command_line_refuses_a_kernel_table_without_a_gpu_or_an_acceptance_run(tmp_path, capsys):
    table = ["--kernel-table", str(tmp_path / "table.json")]
    assert main(["bench", *table]) == 2 and "is written by --accept" in capsys.readouterr().err
    assert main(["bench", "--accept", str(tmp_path / "out.json"), "--device", "cpu", *table]) == 2
    assert "--kernel-table needs a GPU, and the device is cpu" in capsys.readouterr().err
