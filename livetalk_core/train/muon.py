"""Muon (Jordan et al. 2024) for sharded weights: matrices of one shape are orthogonalized together, as plain tensors.

A convolution's kernel counts as a matrix with a row for each output channel.

torch.optim.Muon does the same for plain matrices, one by one. With sharded matrices each of its many small products would go through
DTensor's dispatch, which costs a small model on a CPU more than the products.

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
"""Coefficients and number of Newton-Schulz steps, which bring singular values near 1."""
RMS = 0.2
"""Typical RMS of an AdamW update. Muon's updates are scaled to it (Liu et al. 2025), so that both can use one rate."""


class Muon(torch.optim.Optimizer):
    """Orthogonalized Nesterov momentum for matrices and kernels; weight decay as in AdamW. ValueError for a tensor with one axis."""

    def __init__(self, params: Iterable[Tensor], lr: float = 1e-3, weight_decay: float = 0.1):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        for group in self.param_groups:
            for p in group["params"]:
                if p.ndim < 2:
                    raise ValueError(f"Muon optimizes matrices; a tensor of shape {tuple(p.shape)} is not one; leave it to AdamW")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            same = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    same[p.shape].append(p)
            for shape, matrices in same.items():
                orthogonal_NRC = orthogonalize(torch.stack([self.direction(p) for p in matrices]))
                size = group["lr"] * RMS * max(orthogonal_NRC.shape[1:]) ** 0.5
                for p, orthogonal_RC in zip(matrices, orthogonal_NRC, strict=True):
                    local(p).mul_(1 - group["lr"] * group["weight_decay"])
                    local(p).sub_(local_part(orthogonal_RC.view(shape), p), alpha=size)

    def direction(self, p: Tensor) -> Tensor:
        """Nesterov momentum of the whole matrix [R, C], on every process."""
        if "momentum_buffer" not in self.state[p]:
            self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        mean, gradient = local(self.state[p]["momentum_buffer"]), local(p.grad)
        mean.lerp_(gradient, 1 - MOMENTUM)
        ahead = gradient.lerp(mean, MOMENTUM)
        if not isinstance(p, DTensor) or p.device_mesh.size() == 1:
            return ahead.flatten(1)
        return DTensor.from_local(ahead, p.device_mesh, p.placements, shape=p.shape, stride=p.stride()).full_tensor().flatten(1)


def orthogonalize(x_NRC: Tensor) -> Tensor:
    """Bring the singular values of each matrix near 1 by Newton-Schulz steps, in bfloat16."""
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


def local(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor, or a plain tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def local_part(whole: Tensor, p: Tensor) -> Tensor:
    """This process's part of a tensor that every process holds, sharded like `p`."""
    if not isinstance(p, DTensor) or p.device_mesh.size() == 1:
        return whole
    return distribute_tensor(whole, p.device_mesh, p.placements, src_data_rank=None).to_local()
