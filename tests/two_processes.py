"""What each process of the two-process tests runs, under torchrun: a few steps of both stages, or steps until it is stopped."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor
from toys import sharded_net, sharded_vae, toy_dmd, toy_job, toy_run, toy_sft

from livetalk_core.cli.end import leave
from livetalk_core.parallel.train import is_first, training_world
from livetalk_core.train import checkpoint
from livetalk_core.train.config import Optim
from livetalk_core.train.learner import Learner
from livetalk_core.train.run import train

STAGES = {"sft": toy_sft(), "dmd": toy_dmd(chunks=2, text_guidance=3.0, audio_guidance=2.0)}


def main(stage: str, folder: str, batch: int) -> None:
    torch.set_num_threads(1)
    train(toy_job(Path(folder), toy_run(STAGES[stage], steps=3, batch=batch), out=f"{stage}-{batch}"))


def turn(folder: str, count: int) -> None:
    """One update of the DiT's matrices and of the VAE's kernels by Muon; writes the weights."""
    for name, net in (("matrices", sharded_net()), ("kernels", sharded_vae())):
        moved = turned(Learner(net, Optim(lr=1e-3, muon=1.0, clip=1e9)))
        if is_first():
            save_file(moved, Path(folder) / f"{name}-{count}.safetensors")


def turned(learner: Learner) -> dict[str, Tensor]:
    """The weights after one update with gradients that are known and have no weak direction."""
    learning = [(name, p) for name, p in learner.net.named_parameters() if p.requires_grad]
    slopes = {name: torch.randn(p.shape, generator=torch.Generator().manual_seed(i)) for i, (name, p) in enumerate(learning)}
    learner.update([lambda: sum((p.full_tensor() * slopes[name]).sum() for name, p in learning)])
    return {name.removeprefix("dit."): p.full_tensor().detach().clone() for name, p in learning}


def disagree(folder: Path) -> None:
    """Writes what each process is told of a folder that they do not share, and the checkpoint it resumes from if its listing is stale."""
    rank = dist.get_rank()
    try:
        checkpoint.check_shared(folder / f"disk-{rank}")
        told = ""
    except ValueError as error:
        told = str(error)
    checkpoint.check_shared(folder / "disk-0")
    if rank:
        checkpoint.find_checkpoints = lambda folder: []
    newest = checkpoint.newest_checkpoint(folder / "checkpoints")
    (folder / f"rank-{rank}.json").write_text(json.dumps([told, newest and newest.name]))


if __name__ == "__main__":
    with training_world(torch.device("cpu")):
        if sys.argv[2:] == ["disagree"]:
            disagree(Path(sys.argv[1]))
        elif sys.argv[2:] == ["endless"]:
            train(toy_job(Path(sys.argv[1]), toy_run(STAGES["sft"], steps=100_000, workers=1)))
        else:
            for name in STAGES:
                main(name, sys.argv[1], 1)
            turn(sys.argv[1], 2)
    leave(0)
