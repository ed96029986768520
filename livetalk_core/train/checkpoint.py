"""Sharded checkpoints: every process writes its part, and a resumed run gives the same bits as an uninterrupted one.

All random numbers depend only on the step (draws.py), so the state is the weights, the optimizer states, the EMA weights and the step.
"""

from __future__ import annotations

import os
import platform
import shutil
import warnings
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from livetalk_core.parallel.train import is_first
from livetalk_core.train.learner import Learner

PREFIX = "step-"

warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # of one process; the writing thread would print it too


@dataclass(frozen=True, kw_only=True)
class Writing:
    """A checkpoint that is being written: `part` becomes `final` when `saved` is done."""

    part: Path
    final: Path
    saved: Future


class CheckpointWriter:
    """Writes checkpoints `folder/step-N` in the background, one at a time; every process calls each method.

    The disk holds at most `keep` complete checkpoints and the one being written. Each process copies its part of the state to host memory
    in `start`; training goes on while a thread writes it.
    """

    def __init__(self, folder: Path, keep: int):
        self.folder, self.keep = folder, keep
        self.writing: Writing | None = None
        self.group = None if single_process() else dist.new_group(backend="gloo")
        if is_first():
            for part in folder.glob(f".{PREFIX}*.part"):
                shutil.rmtree(part)

    def start(self, step: int, learners: Mapping[str, Learner]) -> None:
        """Start to write the state of this step, after the previous checkpoint is finished."""
        self.finish()
        part, final = self.folder / f".{PREFIX}{step:08d}.part", self.folder / f"{PREFIX}{step:08d}"
        state = gather_state(learners, step)
        saved = dcp.async_save(state, checkpoint_id=str(part), process_group=self.group, no_dist=single_process())
        self.writing = Writing(part=part, final=final, saved=saved)

    def is_written(self) -> bool:
        """Whether this process has a checkpoint for `finish` to complete without waiting."""
        return self.writing is not None and self.writing.saved.done()

    def finish(self) -> None:
        """Wait for the checkpoint that is being written, name it, and delete old ones. ValueError if it could not be written."""
        if self.writing is None:
            return
        writing, self.writing = self.writing, None
        error = writing.saved.exception()
        barrier()
        if error is not None:
            if is_first():
                shutil.rmtree(writing.part, ignore_errors=True)
            raise ValueError(
                f"{writing.final} could not be written ({reason_of(error)}); make room or set keep lower, and run again"
            ) from error
        if is_first():
            shutil.rmtree(writing.final, ignore_errors=True)
            os.replace(writing.part, writing.final)
            for old in find_checkpoints(self.folder)[: -self.keep]:
                shutil.rmtree(old)
        barrier()


def save_checkpoint(folder: Path, step: int, learners: Mapping[str, Learner], keep: int) -> None:
    """Write `folder/step-N` and wait until it is complete; every process calls it."""
    writer = CheckpointWriter(folder, keep)
    writer.start(step, learners)
    writer.finish()


def reason_of(error: BaseException) -> str:
    """The first cause of a failed checkpoint, in one line; torch reports the failures of all processes together."""
    failures = getattr(error, "failures", None) or {}
    first = next((failure[0] for failure in failures.values()), error)
    return (str(first) or type(first).__name__).splitlines()[0]


def check_shared(folder: Path) -> None:
    """ValueError on every process if some process does not see the same folder: all of them write into it and resume from it."""
    if single_process():
        return
    name = [f".shared-{uuid4().hex}"]
    dist.broadcast_object_list(name)
    mark = folder / name[0]
    if is_first():
        folder.mkdir(parents=True, exist_ok=True)
        mark.touch()
    hosts: list = [None] * dist.get_world_size()
    dist.barrier()
    dist.all_gather_object(hosts, None if mark.exists() else platform.node())
    if is_first():
        mark.unlink()
    if blind := sorted({host for host in hosts if host is not None}):
        raise ValueError(f"{folder} on {', '.join(blind)} is not the folder of the first process; give a folder on a disk that all share")


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint that the first process sees, on every process: a shared disk may show others an old listing."""
    found = [find_checkpoints(folder)[-1:]]
    if not single_process():
        dist.broadcast_object_list(found)
    return found[0][0] if found[0] else None


def barrier() -> None:
    if not single_process():
        dist.barrier()


def load_checkpoint(path: Path, learners: Mapping[str, Learner]) -> int:
    """Load a checkpoint into the learners, on any number of processes; returns its step."""
    state = gather_state(learners, 0)
    dcp.load(state, checkpoint_id=str(path), no_dist=single_process())
    for name, learner in learners.items():
        part = state[name]
        set_state_dict(learner.net, learner.optimizers, model_state_dict=part["net"], optim_state_dict=part["optimizer"])
        learner.updates = int(part["updates"])
        if learner.ema is not None:
            for key, tensor in learner.ema.shadow.items():
                tensor.copy_(part["ema"][key])
    return int(state["step"])


def gather_state(learners: Mapping[str, Learner], step: int) -> dict:
    """The run's state; tensors stay sharded."""
    state: dict = {"step": torch.tensor(step)}
    for name, learner in learners.items():
        net, optimizer = get_state_dict(learner.net, learner.optimizers)
        state[name] = {"net": net, "optimizer": optimizer, "updates": torch.tensor(learner.updates)}
        if learner.ema is not None:
            state[name]["ema"] = learner.ema.shadow
    return state


def single_process() -> bool:
    """Whether there is only one process, which must not use collectives.

    They start gloo's threads, and with more threads than cores OpenMP threads sleep between two pieces of work. On two cores that makes
    training three times as slow.
    """
    return dist.get_world_size() == 1


def find_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob(f"{PREFIX}*") if (path / ".metadata").is_file())
