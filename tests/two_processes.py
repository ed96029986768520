"""What each process of the two-process tests runs, under torchrun: a few steps of both stages, or steps until it is stopped."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from toys import toy_dmd, toy_job, toy_run, toy_sft

from livetalk_core.parallel.train import training_world
from livetalk_core.train.run import train

STAGES = {"sft": toy_sft(), "dmd": toy_dmd(chunks=2, text_guidance=3.0, audio_guidance=2.0)}


def main(stage: str, folder: str, batch: int) -> None:
    torch.set_num_threads(1)
    train(toy_job(Path(folder), toy_run(STAGES[stage], steps=3, batch=batch), out=f"{stage}-{batch}"))


if __name__ == "__main__":
    with training_world(torch.device("cpu")):
        if sys.argv[2:] == ["endless"]:
            train(toy_job(Path(sys.argv[1]), toy_run(STAGES["sft"], steps=100_000, workers=1)))
        else:
            for name in STAGES:
                main(name, sys.argv[1], 1)
