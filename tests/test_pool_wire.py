"""What a pool is made of: messages, shared memory, a worker's environment, and who imports what."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from made import HANG_S

from livetalk_core.pool import packing, wire
from livetalk_core.pool.launch import PACK, worker_environment
from livetalk_core.pool.memory import Segment


def test_a_worker_sees_one_gpu_by_its_name_and_none_of_the_hosts_settings(monkeypatch):
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "backend:cudaMallocAsync")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    environment = worker_environment("GPU-1234", 3)
    assert "PYTORCH_CUDA_ALLOC_CONF" not in environment and environment["CUDA_VISIBLE_DEVICES"] == "GPU-1234"
    assert environment["PYTHONPATH"] == f"/somewhere:{PACK}" and (PACK / "livetalk_core").is_dir()


@pytest.mark.parametrize(
    "module, heavy",
    [
        (
            "pool.pool",
            ("livetalk_core.models.weights", "livetalk_core.models.dit", "livetalk_core.engine.engine", "livetalk_core.parallel"),
        ),
        ("pool.worker", ("torch", "numpy")),
    ],
)
def test_the_pools_side_needs_no_models_and_a_workers_first_lines_no_torch(module, heavy):
    code = f"import sys, livetalk_core.{module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACK, timeout=HANG_S)
    assert done.stdout.strip() == "[]", done.stderr


def test_messages_come_out_whole_however_the_bytes_arrive():
    sent = [wire.Push(session=1, blocks=[torch.arange(5.0), torch.ones(2, 3).bfloat16()]), wire.Ping(), wire.Done(job=3, value={"a": 1})]
    data, inbox, found = b"".join(map(packing.pack, sent)), packing.Inbox(), []
    for start in range(0, len(data), 7):
        found += inbox.feed(data[start : start + 7])
    assert [type(message) for message in found] == [wire.Push, wire.Ping, wire.Done]
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(found[0].blocks, sent[0].blocks, strict=True))
    view = torch.zeros(10**6)[:4]
    assert len(packing.pack(wire.Push(session=1, blocks=[view]))) < 2000, "a view travels without the rest of its storage"


def test_shared_memory_holds_what_is_put_in_and_grows():
    segment = Segment.create("livetalk-test", 16)
    for tensor in (torch.rand(5, 7), torch.zeros(2, 10**5, dtype=torch.uint8), torch.randn(3, 4).bfloat16().T):
        parcel = segment.put(tensor)
        returned = []
        lent = segment.lend(parcel, lambda returned=returned: returned.append(True))
        assert torch.equal(lent, tensor) and torch.equal(segment.take(parcel), tensor)
        part = lent[:1]
        del lent
        assert not returned
        del part
        assert returned
    segment.close()


def test_what_the_gpu_writes_into_is_registered_once_a_mapping(monkeypatch):
    calls = []

    class Cudart:
        cudaHostRegister = staticmethod(lambda *arguments: calls.append(("register", *arguments)) or 0)
        cudaHostUnregister = staticmethod(lambda *arguments: calls.append(("unregister", *arguments)) or 0)

    monkeypatch.setattr(torch.cuda, "cudart", Cudart)
    monkeypatch.setattr(torch.cuda, "check_error", lambda status: None)
    segment = Segment.create("livetalk-test", 16)
    segment.pin()
    segment.pin()
    first = segment.bytes_U
    segment.grow(2 * segment.num_bytes)
    segment.pin()
    assert calls == [
        ("register", first.data_ptr(), len(first), 0),
        ("unregister", first.data_ptr()),
        ("register", segment.bytes_U.data_ptr(), 2 * len(first), 0),
    ]
    segment.close()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_what_a_gpu_has_made_comes_whole_through_shared_memory():
    segment = Segment.create("livetalk-test")
    for shape in ((3, 5), (12, 416, 720, 3)):
        made = torch.randint(0, 255, shape, dtype=torch.uint8, device="cuda")
        assert torch.equal(segment.take(segment.put(made)), made.cpu())
    segment.close()
