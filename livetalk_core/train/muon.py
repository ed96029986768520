"""Muon (Jordan et al. 2024) for sharded weights: matrices of one shape are turned together, on plain tensors.

A convolution's kernel is a matrix too: a row for every channel it makes.

torch.optim.Muon says the same of plain matrices, one by one. Of sharded ones each of its many small products goes through DTensor's
dispatch, which costs a small model on a CPU more than the products.

Axes in names: N matrices of one shape, R rows, C columns.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

MOMENTUM = 0.95
COEFFICIENTS, STEPS = (3.4445, -4.7750, 2.0315), 5
"""Of the quintic iteration whose singular values soon lie about 1."""
RMS = 0.2
"""Of an AdamW update's entries, which Muon's are brought to (Liu et al. 2025), so that both may have one rate."""


class Muon(torch.optim.Optimizer):
    """Nesterov's momentum made orthogonal, for matrices and kernels; weight decay as in AdamW. ValueError for a tensor of one axis."""

    def __init__(self, params: Iterable[Tensor], lr: float = 1e-3, weight_decay: float = 0.1):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        for group in self.param_groups:
            for p in group["params"]:
                if p.ndim < 2:
                    raise ValueError(f"Muon turns matrices, and a tensor of shape {tuple(p.shape)} is none; leave it to AdamW")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            same = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    same[p.shape].append(p)
            for shape, matrices in same.items():
                turned_NRC = orthogonalize(torch.stack([self.direction(p) for p in matrices]))
                size = group["lr"] * RMS * max(turned_NRC.shape[1:]) ** 0.5
                for p, turned_RC in zip(matrices, turned_NRC, strict=True):
                    own(p).mul_(1 - group["lr"] * group["weight_decay"])
                    own(p).sub_(own_part(turned_RC.view(shape), p), alpha=size)

    def direction(self, p: Tensor) -> Tensor:
        """Of the whole matrix [R, C], on every process."""
        if "momentum_buffer" not in self.state[p]:
            self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        mean, gradient = own(self.state[p]["momentum_buffer"]), own(p.grad)
        mean.lerp_(gradient, 1 - MOMENTUM)
        ahead = gradient.lerp(mean, MOMENTUM)
        if not isinstance(p, DTensor) or p.device_mesh.size() == 1:
            return ahead.flatten(1)
        return DTensor.from_local(ahead, p.device_mesh, p.placements, shape=p.shape, stride=p.stride()).full_tensor().flatten(1)


def orthogonalize(x_NRC: Tensor) -> Tensor:
    """Each matrix with its singular values brought near 1 by Newton-Schulz steps, in bfloat16."""
    rows, columns = x_NRC.shape[1:]
    x = x_NRC.bfloat16()
    if rows > columns:
        x = x.transpose(1, 2)
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(STEPS):
        gram = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.transpose(1, 2) if rows > columns else x


def own(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor, or a plain one as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def own_part(whole: Tensor, p: Tensor) -> Tensor:
    """This process's part of a tensor that every process has, cut as `p` is."""
    if not isinstance(p, DTensor) or p.device_mesh.size() == 1:
        return whole
    return distribute_tensor(whole, p.device_mesh, p.placements, src_data_rank=None).to_local()
