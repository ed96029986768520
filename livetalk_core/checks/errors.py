"""How far a tensor is from the expected one."""

from __future__ import annotations

from torch import Tensor


def max_error(found: Tensor, expected: Tensor) -> float:
    """Largest absolute difference; infinite if shapes differ or a result is NaN."""
    found, expected = found.squeeze().cpu(), expected.squeeze().cpu()
    if found.shape != expected.shape:
        return float("inf")
    error = (found - expected).abs().max().item()
    return error if error == error else float("inf")


def relative_error(found: Tensor, expected: Tensor) -> float:
    """RMS of the difference divided by RMS of the expected values; infinite if shapes differ or a result is NaN."""
    found, expected = found.squeeze().cpu().double(), expected.squeeze().cpu().double()
    if found.shape != expected.shape:
        return float("inf")
    error = ((found - expected).square().mean() / expected.square().mean()).sqrt().item()
    return error if error == error else float("inf")
