"""An acceptance run: it resumes, a part that breaks ends alone, and its page says what was not measured."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from livetalk_core.bench import accept_parts
from livetalk_core.bench.accept import Target, accept, failed, launch_part
from livetalk_core.bench.accept_attention import measure_attention, shapes_of
from livetalk_core.bench.accept_parts import PARTS, AcceptPart, NotApplicable, check_row
from livetalk_core.bench.accept_worker import answer_of
from livetalk_core.bench.page import write_page
from livetalk_core.cli.main import main

CPU = Target(device="cpu", dtype="float32", model="tiny", size="48x32", golden=None, chunks=1, seconds=0.01)
LIMITS = {"first": 1.0, "second": 2.0, "third": 3.0}


def recorded(calls, broken=()):
    """A launch that notes its calls; each part's result is its name."""

    def launch(name, target, limit_s):
        calls.append(name)
        answer = {"error": "RuntimeError: no"} if name in broken else {"result": {"checks": [check_row(name, 0.0, 1.0)]}}
        return {"seconds": 1.0, **answer}

    return launch


def run(out, launch, names=(), target=CPU):
    return accept(out, target, "livetalk bench --accept OUT.json", LIMITS, names, launch, tell=len)


KILLED = """
import os, signal, sys
from pathlib import Path
from livetalk_core.bench.accept import Target, accept

def launch(name, target, limit_s):
    print(name, flush=True)
    if name == "second":
        os.kill(os.getpid(), signal.SIGKILL)
    return {"seconds": 1.0, "result": {}}

accept(Path(sys.argv[1]), Target(**eval(sys.argv[2])), "livetalk bench", {"first": 1.0, "second": 2.0, "third": 3.0}, (), launch, tell=len)
"""


def test_a_run_that_is_killed_resumes_and_measures_no_part_twice(tmp_path):
    out = tmp_path / "out.json"
    words = [sys.executable, "-c", KILLED, str(out), str(vars(CPU))]
    killed = subprocess.run(words, capture_output=True, text=True, timeout=600, cwd=Path(__file__).parent.parent)
    assert killed.returncode == -signal.SIGKILL and killed.stdout.split() == ["first", "second"], killed.stderr
    calls = []
    run(out, recorded(calls))
    assert calls == ["second", "third"]
    run(out, recorded(calls))
    assert calls == ["second", "third"]
    assert list(json.loads(out.read_text())["parts"]) == ["first", "second", "third"]


def test_a_part_that_fails_is_recorded_the_others_run_and_by_name_it_is_tried_again(tmp_path):
    out, calls = tmp_path / "out.json", []
    report = run(out, recorded(calls, broken=("second",)))
    assert calls == ["first", "second", "third"]
    assert report["parts"]["second"]["error"] == "RuntimeError: no" and failed(report)
    assert not failed(run(out, recorded(calls), names=["second", "third"]))
    assert calls == ["first", "second", "third", "second"]


def test_what_a_part_raises_is_one_line():
    def raise_lines(target):
        raise RuntimeError("CUDA error:\n  an illegal memory access " + 500 * "x")

    def not_here(target):
        raise NotApplicable("needs CUDA")

    error = answer_of(raise_lines, CPU)["error"]
    assert error.startswith("RuntimeError: CUDA error: an illegal") and len(error) == 300
    assert answer_of(not_here, CPU) == {"skipped": "needs CUDA"}
    assert answer_of(lambda target: {"size": target.size}, CPU) == {"result": {"size": "48x32"}}


def test_a_part_runs_in_its_own_process_and_its_end_is_recorded(tmp_path, monkeypatch):
    entry = launch_part("parity-float32", CPU, 600)
    assert entry["skipped"].startswith("the golden tensors are in tests/golden") and entry["seconds"] > 0
    monkeypatch.setattr(sys, "executable", stub(tmp_path / "dies", "echo out of luck >&2; kill -9 $$"))
    assert launch_part("nano", CPU, 600)["error"] == "the process ended with signal 9: out of luck"
    monkeypatch.setattr(sys, "executable", stub(tmp_path / "waits", "sleep 3600; true"))
    assert launch_part("nano", CPU, 0.5)["error"] == "stopped at its time limit of 0.5 s"


def stub(path, script):
    """A command in Python's place."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_another_target_another_file_and_an_unknown_part_are_refused(tmp_path):
    out = tmp_path / "out.json"
    run(out, recorded([]))
    with pytest.raises(ValueError, match="was measured with size=48x32, and this run has 64x64; name another file"):
        run(out, recorded([]), target=replace(CPU, size="64x64"))
    with pytest.raises(ValueError, match="part 'forth' must be one of first, second, third"):
        run(out, recorded([]), names=["forth"])
    for text, message in (("{", "is not JSON"), ("[]", "is not the file of an acceptance run")):
        out.write_text(text)
        with pytest.raises(ValueError, match=message):
            run(out, recorded([]))


def test_all_parts_together_take_less_than_ten_minutes():
    assert sum(part.limit_s for part in PARTS.values()) <= 600


@pytest.mark.parametrize("name", ["repeat", "fp8", "offload", "sharded"])
def test_a_way_of_computing_is_near_the_exact_one(name):
    for row in PARTS[name].run(CPU)["checks"]:
        assert row["passed"], row
        assert row["error"] > 0 or name != "fp8", "control: 8 bits do round"


def test_a_way_that_changes_the_result_fails(monkeypatch):
    def broken(engine, options):
        engine.models.dit.blocks[0].ffn[0].weight.mul_(1.5)
        return engine

    monkeypatch.setattr(accept_parts, "assemble", broken)
    assert not PARTS["compile"].run(CPU)["checks"][0]["passed"]


def test_kernels_are_compared_in_the_models_own_shapes():
    shapes = {
        shape.what: (shape.queries, shape.keys, shape.heads, shape.width)
        for shape in shapes_of(replace(CPU, model="livetalk_14b", size="auto"))
    }
    assert shapes["DiT to itself"] == (10530, 10530, 40, 128) and shapes["DiT to picture"][1] == 257
    assert shapes["VAE"] == (52 * 90, 52 * 90, 1, 384)
    found = measure_attention(CPU)
    assert {row["what"] for row in found["checks"]} == {f"attention sdpa, {what}" for what in shapes}
    assert all(row["passed"] and row["seconds"] > 0 for row in found["checks"])
    assert {row["skipped"] for row in found["kernels"] if row["kernel"] != "sdpa"} == {"needs CUDA"}


@pytest.mark.parametrize("error", [RuntimeError, ValueError, KeyError])
def test_a_wrong_kernel_fails_and_one_that_raises_is_skipped(monkeypatch, error):
    """Whatever it raises: packages have errors of all kinds."""

    def raises(q, k, v):
        raise error("No available kernel.\nmore")

    kernels = {"sdpa": lambda q, k, v: q + k.mean(1, keepdim=True), "other": raises}
    monkeypatch.setattr("livetalk_core.bench.accept_attention.RUN", kernels)
    found = measure_attention(CPU)
    assert [row["passed"] for row in found["checks"]] == [False] * 4
    assert {row.get("skipped") for row in found["kernels"] if row["kernel"] == "other"} == {
        str(error("No available kernel.\nmore")).splitlines()[0]
    }


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The file of a run with the parts that take least."""
    out = tmp_path_factory.mktemp("accept") / "out.json"

    def launch(name, target, limit_s):
        return {"seconds": 1.0, **answer_of(PARTS[name].run, target)}

    parts = {name: PARTS[name].limit_s for name in ("attention", "offload", "speed", "speed-compiled")}
    accept(out, CPU, "livetalk bench --accept out.json", parts, (), launch, tell=len)
    return out


@pytest.mark.slow
def test_the_page_has_the_devices_numbers_and_says_what_was_not_measured(measured, tmp_path):
    page = tmp_path / "PERFORMANCE.md"
    assert main(["bench", "--page", str(page), str(measured)]) == 0
    report, text = json.loads(measured.read_text()), page.read_text()
    section = text.partition(f"## Measured on {report['machine']['device']}")[2]
    assert f"Date: {report['date']}. torch {torch.__version__}. Command: `livetalk bench --accept out.json`." in section
    assert "This is a CPU." in section and "tiny in place of the 14B model" in section
    lines = [line for line in section.splitlines() if line.startswith("|")]
    (step,) = [line for line in lines if line.startswith("| DiT step | ") and "of copy rate)" in line]
    assert step.endswith("| not measured | not measured | not measured |"), "neither compiled, nor nano"
    assert "| offload | 1 | offloaded against resident | 0 | 0.0001 | pass |" in lines
    assert "| parity-float32 | not measured |" in " ".join(lines) and "| nano | not run yet |" in lines
    assert any(line.startswith("| flash3 | DiT to itself, DiT to prompt,") and "needs CUDA" in line for line in lines)
    assert "| tiny at 48x32, one process |" in text and "| 14B, one GPU | not measured" in text
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert all(len({line.count(" | ") for line in table.splitlines() if "---" not in line}) == 1 for table in tables)


@pytest.mark.slow
def test_a_large_gpus_page_has_the_targets_and_its_model_in_the_overview(measured):
    report = json.loads(measured.read_text())
    report["machine"] |= {"device": "NVIDIA H200", "device_type": "cuda"}
    report["accept"]["model"] = "livetalk_14b"
    report["parts"]["speed"]["result"] |= {
        "model": "livetalk_14b",
        "device": "NVIDIA H200",
        "device_type": "cuda",
        "dit_parameters": 2 * 10**10,
    }
    text = write_page([report])
    assert "## Measured on NVIDIA H200" in text and "This is a CPU" not in text
    (chunk,) = [line for line in text.splitlines() if line.startswith("| chunk | ") and "2.500 s" in line]
    assert chunk.endswith("| <= 2.500 s |")
    assert "| livetalk_14b at 48x32, one process | NVIDIA H200" in text and "| 14B, one GPU | not measured" not in text


def test_the_command_says_that_it_is_a_cpu_and_fails_when_a_part_fails(tmp_path, capsys, monkeypatch):
    broken = AcceptPart(limit_s=1, run=lambda target: 1 / 0)
    monkeypatch.setattr(accept_parts, "PARTS", {"works": AcceptPart(limit_s=1, run=lambda target: {}), "broken": broken})
    monkeypatch.setattr(
        "livetalk_core.bench.accept.launch_part",
        lambda name, target, limit_s: {"seconds": 0.1, **answer_of(accept_parts.PARTS[name].run, target)},
    )
    out = tmp_path / "out.json"
    assert main(["bench", "--accept", str(out), "--parts", "works", "--device", "cpu"]) == 0
    assert "tiny stands in" in capsys.readouterr().err
    assert main(["bench", "--accept", str(out), "--device", "cpu"]) == 1
    said = capsys.readouterr().out
    assert "works: measured before" in said and "broken: FAILED, ZeroDivisionError: division by zero" in said
    assert json.loads(out.read_text())["accept"]["golden"].endswith("golden"), os.listdir(tmp_path)
    assert main(["bench", "--accept", str(out), "--model", "some/folder", "--device", "cpu"]) == 2
    assert "'some/folder' is none; choose livetalk_14b or tiny" in capsys.readouterr().err
