"""Sharded checkpoints: every process writes its part, and a resumed run gives the same bits as an uninterrupted one.

All random numbers depend only on the step (draws.py), so the state is the weights, the optimizer states, the EMA weights and the step.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from livetalk_core.parallel.train import is_first
from livetalk_core.train.learner import Learner

PREFIX = "step-"


def save_checkpoint(folder: Path, step: int, learners: Mapping[str, Learner], keep: int) -> Path:
    """Write `folder/step-N`; every process calls it. It gets that name when complete; then only the newest `keep` checkpoints stay."""
    final, part = folder / f"{PREFIX}{step:08d}", folder / f".{PREFIX}{step:08d}.part"
    with single_process() as alone:
        dcp.save(gather_state(learners, step), checkpoint_id=str(part), no_dist=alone)
    dist.barrier()
    if is_first():
        shutil.rmtree(final, ignore_errors=True)
        os.replace(part, final)
        for old in find_checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    dist.barrier()
    return final


def load_checkpoint(path: Path, learners: Mapping[str, Learner]) -> int:
    """Load a checkpoint into the learners, on any number of processes; returns its step."""
    state = gather_state(learners, 0)
    with single_process() as alone:
        dcp.load(state, checkpoint_id=str(path), no_dist=alone)
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


@contextmanager
def single_process() -> Iterator[bool]:
    """Whether there is only one process; torch's warning about that is hidden.

    One process must not use collectives: they start gloo's threads, and with more threads than cores OpenMP threads sleep between two
    pieces of work. On two cores that makes training three times as slow.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield dist.get_world_size() == 1


def find_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob(f"{PREFIX}*") if (path / ".metadata").is_file())
