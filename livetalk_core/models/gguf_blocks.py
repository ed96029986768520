"""Unpacks rows of GGUF's quantized types with torch, on any device, to the numbers that gguf.quants.dequantize gives.

A row is cut into blocks of 32 or 256 numbers, each with its own scales. Layouts are those of ggml's block structures
(ggml-common.h). Axes: N rows, B blocks of a row, Q bytes of a block.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

BLOCKS = {
    **{"Q4_0": (32, 18), "Q4_1": (32, 20), "Q5_0": (32, 22), "Q5_1": (32, 24), "Q8_0": (32, 34)},
    **{"Q2_K": (256, 84), "Q3_K": (256, 110), "Q4_K": (256, 144), "Q5_K": (256, 176), "Q6_K": (256, 210)},
}
"""Numbers and bytes of a block of each type."""
SCALES = {
    **{"Q4_0": (0, 2), "Q4_1": (0, 4), "Q5_0": (0, 2), "Q5_1": (0, 4), "Q8_0": (0, 2)},
    **{"Q2_K": (80, 84), "Q3_K": (108, 110), "Q4_K": (0, 4), "Q5_K": (0, 4), "Q6_K": (208, 210)},
}
"""Where a block has its float16 scales."""


def unpack_blocks(kind: str, rows: Tensor) -> Tensor:
    """Bytes int8 [N, bytes of a row] -> float32 [N, D]."""
    blocks_NBQ = rows.view(torch.uint8).unflatten(1, (-1, BLOCKS[kind][1]))
    return UNPACK[kind](blocks_NBQ).flatten(1)


def scales_finite(kind: str, rows: Tensor) -> bool:
    """Whether rows int8 [N, bytes] have finite numbers only: all of a block's are finite if its float16 scales are."""
    start, stop = SCALES[kind]
    scales_NBQ = rows.view(torch.uint8).unflatten(1, (-1, BLOCKS[kind][1]))[..., start:stop]
    return bool(torch.isfinite(halves(scales_NBQ)).all())


def halves(bytes_NBQ: Tensor) -> Tensor:
    """Bytes of float16 numbers -> float32."""
    return bytes_NBQ.contiguous().view(torch.float16).float()


def nibbles(bytes_NBQ: Tensor, size: int) -> Tensor:
    """4-bit numbers in groups of `size` bytes: all low halves of a group, then all high halves."""
    groups = bytes_NBQ.unflatten(-1, (-1, 1, size))
    return torch.cat([groups & 15, groups >> 4], dim=-2).flatten(-3)


def bits(bytes_NBQ: Tensor, shifts: int, width: int) -> Tensor:
    """[..., shifts, Q]: each byte shifted right by 0, width, 2 width, ... and cut to `width` bits."""
    by = torch.arange(0, shifts * width, width, dtype=torch.uint8, device=bytes_NBQ.device)
    return (bytes_NBQ.unsqueeze(-2) >> by[:, None]) & ((1 << width) - 1)


def fifth_bits(bytes_NB4: Tensor) -> Tensor:
    """The 32 highest bits of a block's 5-bit numbers, in order."""
    return bits(bytes_NB4, 8, 1).transpose(-1, -2).flatten(-2)


def unpack_q8_0(x: Tensor) -> Tensor:
    return x[..., 2:].contiguous().view(torch.int8).float() * halves(x[..., :2])


def unpack_q4_0(x: Tensor) -> Tensor:
    return (nibbles(x[..., 2:], 16).float() - 8) * halves(x[..., :2])


def unpack_q4_1(x: Tensor) -> Tensor:
    return nibbles(x[..., 4:], 16).float() * halves(x[..., :2]) + halves(x[..., 2:4])


def unpack_q5_0(x: Tensor) -> Tensor:
    numbers = nibbles(x[..., 6:], 16) | (fifth_bits(x[..., 2:6]) << 4)
    return (numbers.float() - 16) * halves(x[..., :2])


def unpack_q5_1(x: Tensor) -> Tensor:
    numbers = nibbles(x[..., 8:], 16) | (fifth_bits(x[..., 4:8]) << 4)
    return numbers.float() * halves(x[..., :2]) + halves(x[..., 2:4])


def unpack_q2_k(x: Tensor) -> Tensor:
    scales, packed, d, least = x[..., :16], x[..., 16:80], halves(x[..., 80:82]), halves(x[..., 82:84])
    numbers = bits(packed.unflatten(-1, (2, 32)), 4, 2).flatten(-3).unflatten(-1, (16, 16)).float()
    step, offset = d * (scales & 15).float(), least * (scales >> 4).float()
    return (step[..., None] * numbers - offset[..., None]).flatten(-2)


def unpack_q3_k(x: Tensor) -> Tensor:
    masks, packed, scales, d = x[..., :32], x[..., 32:96], x[..., 96:108], halves(x[..., 108:110])
    low = torch.cat([scales[..., :8] & 15, scales[..., :8] >> 4], dim=-1)
    high = bits(scales[..., 8:], 4, 2).flatten(-2)
    step = d * ((low | (high << 4)).float() - 32)
    absent = bits(masks, 8, 1).flatten(-2) ^ 1
    numbers = bits(packed.unflatten(-1, (2, 32)), 4, 2).flatten(-3).float() - 4 * absent.float()
    return (step[..., None] * numbers.unflatten(-1, (16, 16))).flatten(-2)


def six_bit_pairs(scales: Tensor) -> tuple[Tensor, Tensor]:
    """The eight steps and eight offsets, 6 bits each, in 12 bytes of Q4_K and Q5_K."""
    d, m, rest = scales[..., :4], scales[..., 4:8], scales[..., 8:]
    steps = torch.cat([d & 63, (rest & 15) | ((d >> 6) << 4)], dim=-1)
    offsets = torch.cat([m & 63, (rest >> 4) | ((m >> 6) << 4)], dim=-1)
    return steps.float(), offsets.float()


def scaled(x: Tensor, numbers: Tensor) -> Tensor:
    """Numbers of Q4_K or Q5_K with the scales at the start of the block."""
    steps, offsets = six_bit_pairs(x[..., 4:16])
    step, offset = halves(x[..., :2]) * steps, halves(x[..., 2:4]) * offsets
    return (step[..., None] * numbers.unflatten(-1, (8, 32)).float() - offset[..., None]).flatten(-2)


def unpack_q4_k(x: Tensor) -> Tensor:
    return scaled(x, nibbles(x[..., 16:], 32))


def unpack_q5_k(x: Tensor) -> Tensor:
    high = bits(x[..., 16:48], 8, 1).flatten(-2)
    return scaled(x, nibbles(x[..., 48:], 32) | (high << 4))


def unpack_q6_k(x: Tensor) -> Tensor:
    low, high = nibbles(x[..., :128], 64), bits(x[..., 128:192].unflatten(-1, (2, 32)), 4, 2).flatten(-3)
    step = halves(x[..., 208:210]) * x[..., 192:208].contiguous().view(torch.int8).float()
    numbers = (low | (high << 4)).float() - 32
    return (step[..., None] * numbers.unflatten(-1, (16, 16))).flatten(-2)


UNPACK: dict[str, Callable[[Tensor], Tensor]] = {
    **{"Q4_0": unpack_q4_0, "Q4_1": unpack_q4_1, "Q5_0": unpack_q5_0, "Q5_1": unpack_q5_1, "Q8_0": unpack_q8_0},
    **{"Q2_K": unpack_q2_k, "Q3_K": unpack_q3_k, "Q4_K": unpack_q4_k, "Q5_K": unpack_q5_k, "Q6_K": unpack_q6_k},
}
