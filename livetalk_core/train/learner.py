"""One network that learns: its optimizer, its clipped and accumulated update, its running average."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from livetalk_core.parallel.train import mean_over_ranks
from livetalk_core.train.config import Optim


class Learner:
    """A sharded network and its AdamW."""

    def __init__(self, net: nn.Module, config: Optim, ema_decay: float = 0.0, ema_start: int = 0):
        self.net, self.config = net, config
        self.optimizer = torch.optim.AdamW(net.parameters(), lr=config.lr, betas=config.betas, weight_decay=config.weight_decay)
        self.ema = Average(net, ema_decay, ema_start) if ema_decay else None
        self.updates = 0

    def update(self, losses: Sequence[Callable[[], Tensor]]) -> tuple[Tensor, Tensor]:
        """One step down the mean of the losses, each run forward and back on its own; (that mean over all processes, gradient norm)."""
        self.optimizer.zero_grad()
        total = torch.zeros(())
        for i, compute in enumerate(losses):
            self.net.set_requires_gradient_sync(i == len(losses) - 1)
            loss = compute() / len(losses)
            loss.backward()
            total = total.to(loss.device) + loss.detach()
        norm = clip_grad_norm_(self.net.parameters(), self.config.clip).full_tensor()
        self.updates += 1
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate(self.updates)
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update(self.updates)
        return mean_over_ranks(total.float()), norm


class Average:
    """Exponential moving average of a network's weights, sharded as they are: their copy until update `start`."""

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
        """Put the average in the network and its weights here; a second call undoes it."""
        for name, p in self.net.named_parameters():
            kept = p.detach().clone()
            p.copy_(self.shadow[name])
            self.shadow[name].copy_(kept)
