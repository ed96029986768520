"""The GPU path without a GPU: the 14B model at full width on tensors that have shapes, types and devices, but no numbers.

It needs torch's CUDA build and a C compiler; CONTRIBUTING.md has the command. What is found: tensors on the wrong device or of the wrong
type, shapes that do not fit, and ranks of a group that would not exchange the same things in the same order.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent / "rehearsal"
ROOT = Path(__file__).parents[1]
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
LIMIT_S = 3600
"""Only against a hang: most scenes take half a minute on an idle core."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(torch.version.cuda is None, reason="torch is not a CUDA build; CONTRIBUTING.md says how the rehearsal is run"),
    pytest.mark.skipif(COMPILER is None, reason="there is no C compiler"),
    pytest.mark.skipif(sys.platform != "linux", reason="the stand-in for CUDA's libraries is for Linux"),
]


@pytest.fixture(scope="module")
def driver(tmp_path_factory) -> dict[str, str]:
    """The environment in which torch finds a CUDA device with nothing behind it."""
    folder = tmp_path_factory.mktemp("driver")
    for source, name in (("cudart.c", "cudart.so"), ("cuda.c", "libcuda.so.1")):
        subprocess.run([COMPILER, "-shared", "-fPIC", "-w", f"-Wl,-soname,{name}", "-o", folder / name, HERE / source], check=True)
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(HERE)])
    return os.environ | {"LD_PRELOAD": str(folder / "cudart.so"), "LD_LIBRARY_PATH": str(folder), "PYTHONPATH": path}


def rehearse(scene: str, environment: dict[str, str]) -> subprocess.CompletedProcess:
    words = [sys.executable, "-X", "faulthandler", HERE / "scenes.py", scene]
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=LIMIT_S)


@pytest.mark.parametrize(
    "scene",
    [
        *("plain", "two_speakers", "compiled", "compiled_ranks", "offloaded", "fp8", "worker", "training"),
        *("two_ranks", "eight_ranks", "ring"),
    ],
)
def test_every_operation_fits_on_a_gpu(driver, scene):
    done = rehearse(scene, driver)
    assert done.stdout.splitlines()[-1:] == [f"rehearsed {scene}"], done.stderr[-3000:]


@pytest.mark.parametrize(
    "scene, error",
    [
        ("wrong_device", "found at least two devices, cuda:0 and cpu!"),
        ("wrong_type", "its operands must have one type"),
        ("ranks_that_disagree", "exchange 0 of (0, 1)"),
    ],
)
def test_a_fault_is_found(driver, scene, error):
    done = rehearse(scene, driver)
    assert done.returncode and error in done.stderr.splitlines()[-1], done.stderr[-3000:]
