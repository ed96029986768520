"""A network in training: its optimizers, updates with gradient accumulation and clipping, and EMA weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from livetalk_core.parallel.train import mean_over_ranks
from livetalk_core.train.config import Optim
from livetalk_core.train.draws import Draws
from livetalk_core.train.muon import Muon

BLOCKS = {"blocks", "fine"}
"""Parts of parameter names in residual blocks, of the DiT, of the small VAE's decoder and of the enlarger."""


class Learner:
    """A sharded network and its optimizers."""

    def __init__(self, net: nn.Module, config: Optim, ema_decay: float = 0.0, ema_start: int = 0):
        self.net, self.config = net, config
        for name, p in net.named_parameters():
            if any(part in name.split(".") for part in config.frozen):
                p.requires_grad_(False)
        self.optimizers = make_optimizers(net, config)
        self.ema = WeightAverage(net, ema_decay, ema_start) if ema_decay else None
        self.updates = 0

    def update(self, losses: Sequence[Callable[[], Tensor]]) -> tuple[Tensor, Tensor]:
        """One update on the mean of the losses, each with its own backward pass; returns (mean over all processes, gradient norm).

        Each pass reduces its gradients, so a process never holds those of the whole network.
        """
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        total = torch.zeros(())
        for compute in losses:
            loss = compute() / len(losses)
            loss.backward()
            total = total.to(loss.device) + loss.detach()
        norm = clip_grad_norm_(self.net.parameters(), self.config.clip).full_tensor()
        self.updates += 1
        for optimizer, share in zip(self.optimizers, (1.0, self.config.muon), strict=False):
            for group in optimizer.param_groups:
                group["lr"] = share * self.config.rate(self.updates)
            optimizer.step()
        if self.ema is not None:
            self.ema.update(self.updates)
        return mean_over_ranks(total.float()), norm


class LearnerStage:
    """Updates one network; a stage of training says with which loss."""

    def __init__(self, config: Any, learner: Learner):
        self.config, self.learner = config, learner
        self.learners = {"net": learner}
        self.main = learner

    def step(self, passes: Sequence[Sequence[tuple[Any, Draws]]], everyone: Draws, number: int) -> dict[str, Tensor]:
        """One update; `passes` has (sample, random numbers) pairs for each pass."""
        loss, norm = self.learner.update([partial(self.loss, batch, number) for batch in passes])
        return {"loss": loss, "grad_norm": norm}

    def loss(self, batch: Sequence[tuple[Any, Draws]], number: int = 0) -> Tensor:
        """The mean loss of a batch at this step."""
        raise NotImplementedError


def make_optimizers(net: nn.Module, config: Optim) -> list[torch.optim.Optimizer]:
    """AdamW, and with `config.muon` also Muon, for the matrices and kernels inside the blocks."""
    learning = {name: p for name, p in net.named_parameters() if p.requires_grad}
    matrices = {module.weight for module in net.modules() if config.muon and isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d)}
    hidden = {name: p for name, p in learning.items() if p in matrices and BLOCKS & set(name.split("."))}
    rest = [p for name, p in learning.items() if name not in hidden]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(rest, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay)]
    if hidden:
        optimizers.append(Muon(hidden.values(), weight_decay=config.weight_decay))
    return optimizers


class WeightAverage:
    """Exponential moving average (EMA) of a network's weights, sharded like them. Until update `start` it equals the weights."""

    def __init__(self, net: nn.Module, decay: float, start: int):
        self.net, self.decay, self.start = net, decay, start
        self.shadow = {name: p.detach().clone() for name, p in net.named_parameters()}

    @torch.no_grad()
    def update(self, updates: int) -> None:
        weight = 1.0 if updates <= self.start else 1 - self.decay
        for name, p in self.net.named_parameters():
            self.shadow[name].lerp_(p.detach(), weight)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the network's weights with the EMA weights; a second call undoes it."""
        for name, p in self.net.named_parameters():
            kept = p.detach().clone()
            p.copy_(self.shadow[name])
            self.shadow[name].copy_(kept)
