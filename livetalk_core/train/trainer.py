"""The training loop: batches, updates, metrics, checkpoints, resuming, and a clean stop on SIGTERM."""

from __future__ import annotations

import math
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader

from livetalk_core.parallel.train import is_first
from livetalk_core.train.buckets import BucketBatches
from livetalk_core.train.checkpoint import CheckpointWriter, check_shared, load_checkpoint, newest_checkpoint
from livetalk_core.train.config import Recipe
from livetalk_core.train.draws import Draws
from livetalk_core.train.learner import Learner


class Stage(Protocol):
    """The networks in training, and one training step."""

    learners: Mapping[str, Learner]
    main: Learner
    """The learner whose network is validated and exported."""

    def step(self, passes: Sequence[Sequence[tuple]], everyone: Draws, number: int) -> dict[str, Tensor]: ...


class Trainer:
    """One run of a recipe. Every process has a trainer, and all do the same steps together."""

    def __init__(
        self,
        recipe: Recipe,
        stage: Stage,
        dataset: Sequence,
        buckets: Sequence,
        out: Path,
        device: torch.device,
        validate: Callable[[int], None] = lambda step: None,
    ):
        self.recipe, self.stage, self.dataset, self.buckets = recipe, stage, dataset, buckets
        self.out, self.device, self.validate = out, device, validate
        self.checkpoints = out / "checkpoints"
        self.step = 0
        self.stopping = False

    def run(self) -> bool:
        """Train to the recipe's last step, resuming from the newest checkpoint; False if a signal stopped the run, which is then saved."""
        run = self.recipe.run
        check_shared(self.out)
        self.resume()
        passes, writer = self.passes(), CheckpointWriter(self.checkpoints, run.keep)
        with self.stopping_on(signal.SIGTERM), Report(self.out, self.step, run.steps, self.samples_per_step) as report:
            while self.step < run.steps:
                everyone = Draws.of(run.seed, self.step, "all")
                results = self.stage.step(next(passes), everyone, self.step)
                self.step += 1
                if self.step % run.log_every == 0 or self.step == run.steps:
                    report.show(self.step, results, self.device)
                stopped, still_writing = any_rank([self.stopping, not writer.is_written()], self.device)
                if not still_writing:
                    writer.finish()
                last = self.step == run.steps
                if stopped or last or self.step % run.save_every == 0:
                    writer.start(self.step, self.stage.learners)
                if stopped or last:
                    writer.finish()
                if stopped:
                    return False
                if run.validate_every and (last or self.step % run.validate_every == 0):
                    self.validate(self.step)
        return True

    @property
    def samples_per_step(self) -> int:
        return self.recipe.run.batch * self.recipe.run.accumulate * dist.get_world_size()

    def resume(self) -> None:
        """Load the newest checkpoint of the run's folder, if there is one."""
        if newest := newest_checkpoint(self.checkpoints):
            self.step = load_checkpoint(newest, self.stage.learners)

    def passes(self) -> Iterator[list[list[tuple]]]:
        """For each step from the current one, this process's passes: lists of (sample, random numbers)."""
        run, rank, world = self.recipe.run, dist.get_rank(), dist.get_world_size()
        batches = BucketBatches(
            self.buckets, batch=run.batch, rank=rank, world=world, seed=run.seed, start=self.step * run.accumulate
        )  # fmt: skip
        loader = iter(
            DataLoader(self.dataset, batch_sampler=batches, collate_fn=list, num_workers=run.workers, worker_init_fn=ignore_sigterm)
        )
        step = self.step
        while True:
            group = []
            for number in range(run.accumulate):
                first = (number * world + rank) * run.batch
                group.append([(item.to(self.device), Draws.of(run.seed, step, first + i)) for i, item in enumerate(next(loader))])
            yield group
            step += 1

    @contextmanager
    def stopping_on(self, number: signal.Signals) -> Iterator[None]:
        """Inside this context the signal stops the run after the current step; a checkpoint is saved."""
        before = signal.signal(number, self.stop)
        try:
            yield
        finally:
            signal.signal(number, before)

    def stop(self, number: int = 0, frame: FrameType | None = None) -> None:
        """Stop after the current step and save a checkpoint."""
        self.stopping = True


def any_rank(flags: Sequence[bool], device: torch.device) -> list[bool]:
    """For each flag, whether it is true on any process: the same answer on all of them."""
    values = torch.tensor(flags, dtype=torch.float32, device=device)
    dist.all_reduce(values, dist.ReduceOp.MAX)
    return values.bool().tolist()


def ignore_sigterm(worker: int) -> None:
    """torchrun also sends SIGTERM to loader processes. They must ignore it: the trainer needs their last batch, and ends them itself."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class Report:
    """Prints metrics on stderr and writes them to TensorBoard, on the first process."""

    def __init__(self, out: Path, step: int, steps: int, samples_per_step: int):
        self.out, self.first, self.steps, self.samples_per_step = out, step, steps, samples_per_step
        self.writer = open_board(out, step) if is_first() else None
        self.seen, self.start = step, time.perf_counter()
        self.since = self.start

    def __enter__(self) -> Report:
        return self

    def show(self, step: int, results: Mapping[str, Tensor], device: torch.device) -> None:
        """Print and store metrics. ValueError if one is not finite."""
        values = {name: float(value) for name, value in results.items()}
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise ValueError(f"{bad[0]} is {values[bad[0]]} at step {step}; resume from an older checkpoint with a lower lr or clip")
        now = time.perf_counter()
        values["samples_per_s"] = (step - self.seen) * self.samples_per_step / (now - self.since)
        values["memory_gb"] = memory_gb(device)
        left_s = (self.steps - step) * (now - self.start) / (step - self.first)
        self.seen, self.since = step, now
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)
            numbers = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
            print(f"step {step}/{self.steps}  {numbers}  {format_time(left_s)} left", file=sys.stderr, flush=True)

    def __exit__(self, *error: object) -> None:
        if self.writer is not None:
            self.writer.close()


def open_board(out: Path, step: int):
    """A TensorBoard writer; points of an interrupted run after `step` are dropped."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError:
        raise ValueError(
            "training needs the package tensorboard, which is not installed; install it with pip install 'livetalk[train]'"
        ) from None
    return SummaryWriter(str(out / "board"), purge_step=step + 1)


def memory_gb(device: torch.device) -> float:
    """Peak memory so far: of the GPU, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def format_time(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
