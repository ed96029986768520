"""Chooses the degrees of Ulysses (heads) and ring (keys), and the tokens of each process. Arithmetic only."""

from __future__ import annotations

from math import gcd
from typing import NamedTuple


class Topology(NamedTuple):
    """Degrees whose product is the group's size, and the reason for them."""

    ulysses_degree: int
    ring_degree: int
    reason: str


def choose_topology(num_gpus: int, num_heads: int, tokens: int) -> Topology:
    """The largest Ulysses degree that divides both heads and GPUs, and a ring for the rest.

    A ring passes all keys from process to process, which is more traffic than Ulysses, so it is kept short.
    Raises ValueError if there is no GPU, or if a GPU would get no tokens.
    """
    if num_gpus < 1:
        raise ValueError(f"num_gpus={num_gpus} must be 1 or more; use 1 for no parallelism")
    slice_lengths(tokens, num_gpus)
    ulysses = gcd(num_gpus, num_heads)
    ring = num_gpus // ulysses
    if ring == 1:
        reason = f"{num_gpus} divides the {num_heads} heads: Ulysses alone, {num_heads // ulysses} heads a GPU"
    elif ulysses == 1:
        reason = f"{num_heads} heads and {num_gpus} GPUs have no common divisor: a ring alone"
    else:
        reason = f"{ulysses} is the largest common divisor of {num_heads} heads and {num_gpus} GPUs: Ulysses {ulysses} x ring {ring}"
    return Topology(ulysses, ring, reason)


def check_degrees(ulysses_degree: int, ring_degree: int, size: int, num_heads: int) -> None:
    """ValueError, listing the possible choices, unless the degrees multiply to the group's size and Ulysses divides the heads."""
    choices = " or ".join(f"{u} x {size // u}" for u in range(1, size + 1) if gcd(size, num_heads) % u == 0)
    if ulysses_degree < 1 or ring_degree < 1 or ulysses_degree * ring_degree != size:
        raise ValueError(
            f"ulysses_degree={ulysses_degree} x ring_degree={ring_degree} must be the group's size {size}; "
            f"for {num_heads} heads choose {choices}"
        )
    if num_heads % ulysses_degree:
        raise ValueError(
            f"ulysses_degree={ulysses_degree} must divide the model's {num_heads} heads; "
            f"for {size} processes choose ulysses x ring = {choices}"
        )


def slice_lengths(tokens: int, size: int) -> list[int]:
    """Tokens of each process: equal slices, the last one shorter; 10,530 over 8 is 7 x 1,317 + 1,311.

    Raises ValueError if a process would get none.
    """
    length = -(-tokens // size)
    if tokens <= length * (size - 1):
        most = next(n for n in range(size - 1, 0, -1) if tokens > -(-tokens // n) * (n - 1))
        raise ValueError(f"{size} processes are too many for tokens={tokens}; use {most} processes or a larger picture")
    return [length] * (size - 1) + [tokens - length * (size - 1)]
