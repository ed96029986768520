"""Muon for sharded weights says what torch's own says of plain ones."""

import pytest
import torch

from livetalk_core.train.muon import Muon, orthogonalize

SHAPES = [(24, 24), (48, 16), (24, 24), (16, 48)]


def walked(make, steps: int = 6) -> list[torch.Tensor]:
    """Matrices after some updates with gradients that are known."""
    chance = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape, generator=chance)) for shape in SHAPES]
    optimizer = make(params)
    for step in range(steps):
        for p in params:
            p.grad = torch.randn(p.shape, generator=chance)
        if step == 2:
            params[0].grad = None
        optimizer.step()
    return [p.detach() for p in params]


def torchs(params, **changed):
    return torch.optim.Muon(params, **({"lr": 1e-2, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"} | changed))


def test_it_walks_as_torchs_own():
    still = walked(lambda params: Muon(params, lr=0.0))
    ours, theirs, other = (
        walked(make) for make in (lambda p: Muon(p, lr=1e-2, weight_decay=0.1), torchs, lambda p: torchs(p, nesterov=False))
    )
    for a, b, c, start in zip(ours, theirs, other, still, strict=True):
        assert (a - b).norm() < 0.02 * (b - start).norm(), "bfloat16 rounds in another order"
        assert (c - b).norm() > 0.05 * (b - start).norm()


def test_a_kernel_is_walked_as_the_matrix_of_its_rows():
    flat, kernel = (torch.nn.Parameter(torch.ones(shape)) for shape in ((6, 36), (6, 4, 1, 3, 3)))
    optimizer = Muon([flat, kernel], lr=1e-2)
    for step in range(3):
        flat.grad = torch.randn(6, 36, generator=torch.Generator().manual_seed(step))
        kernel.grad = flat.grad.view(kernel.shape)
        optimizer.step()
    assert torch.allclose(kernel.flatten(1), flat) and (flat - 1).abs().min() > 0


def test_singular_values_come_near_one_and_zero_stays_zero():
    x_NRC = torch.randn(3, 20, 40, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonalize(x_NRC).float())
    assert values.min() > 0.5 and values.max() < 1.3
    assert torch.equal(orthogonalize(torch.zeros(1, 4, 8)), torch.zeros(1, 4, 8).bfloat16())


def test_what_is_no_matrix_is_refused():
    with pytest.raises(ValueError, match=r"shape \(3,\) is not one; leave it to AdamW"):
        Muon([torch.nn.Parameter(torch.zeros(3))])
